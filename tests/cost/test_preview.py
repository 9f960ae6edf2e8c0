"""What the plan says about the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cost.preview import pruner_planned, search_planned
from specs import GOOD, load

PLAIN = GOOD[: GOOD.index("tune:")]
RATE = "train.learning_rate: {log_uniform: [3e-4, 3e-3]}"


@pytest.mark.parametrize(
    ("study", "tune", "words"),
    [
        ("{trials: 12}", RATE, "tpe, from earlier results after 4 of 12 trials"),
        ("{trials: 2}", RATE, "tpe, at random: no result is used in so few trials"),
        ("{sampler: random}", RATE, "random, independent random points"),
        (
            "{sampler: qmc}",
            "model.n_layers: {int_uniform: [1, 2]}, model.qkv_bias: {choice: [false, true]}",
            "qmc, a scrambled Sobol sequence; only 4 different points: sampler grid tries each choice once",
        ),
        (
            "{sampler: cmaes}",
            RATE + ", model.qkv_bias: {choice: [false, true]}",
            "cmaes, from earlier results after 5 of 10 trials; model.qkv_bias at random in every trial",
        ),
        (
            "{sampler: grid}",
            "data.tokenizer: {choice: [byte, gpt2]}",
            "grid, every point of a grid; choices only; trials are compared by bits per byte",
        ),
    ],
)
def test_the_plan_says_when_results_are_used(study: str, tune: str, words: str, tmp_path: Path) -> None:
    assert search_planned(load(tmp_path, f"{PLAIN}tune: {{{tune}}}\nstudy: {study}\n")) == words


def test_the_plan_says_where_a_pruner_stops_no_trial(tmp_path: Path) -> None:
    def words(*settings: str) -> str:
        spec = load(tmp_path, GOOD, "study.pruner=median", "train.budget.steps=12", *settings)
        return pruner_planned(spec, {arm.name: 4000 for arm in spec.arms()})

    assert words("train.eval_every.steps=8") == ""
    assert words("train.eval_every.steps=9").startswith("median stops no trial: they are evaluated at their start and")
    assert words("train.eval_every.steps=4", "study.trials=2").startswith("median stops no trial: it needs")
    assert words("train.eval_every.steps=9", "study.pruner=none") == ""

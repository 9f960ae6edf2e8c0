from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness.config.samplers import PRUNERS, SAMPLERS
from harness.config.spec import Dimension, SweepSpec
from harness.core.outcomes import Outcome
from harness.search import samplers
from harness.search.samplers import PrunerScale, make_pruner, make_sampler
from harness.search.study import ArmStudy, StorageError, open_storage
from specs import GOOD, load

ALL_KINDS = """tune:
  train.learning_rate: {log_uniform: [1e-4, 1e-2]}
  train.weight_decay: {uniform: [0, 1]}
  model.n_layers: {int_uniform: [1, 4]}
  model.emb_dim: {choice: [16, 32]}
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def spec_of(tmp_path: Path, study: str, tune: str = ALL_KINDS) -> SweepSpec:
    return load(tmp_path, GOOD[: GOOD.index("tune:")] + tune + f"study: {study}\n")


def arm_study(spec: SweepSpec, url: str, arm: int = 0, identity: str | None = None) -> ArmStudy:
    return ArmStudy(spec, spec.arms()[arm], identity or spec.identity(), open_storage(url), 1000, 10_000)


def loss(values: dict[str, object]) -> float:
    return abs(math.log10(float(values["train.learning_rate"])) + 3)  # type: ignore[arg-type]


def test_every_sampler_and_pruner_is_in_both_registries() -> None:
    assert list(samplers.SAMPLERS) == list(SAMPLERS)
    assert list(samplers.PRUNERS) == list(PRUNERS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_facts_of_a_sampler_match_its_optuna_class(sampler: str) -> None:
    made = make_sampler(sampler, 1, 0, {"model.n_layers": Dimension("choice", (1, 2))})
    facts = SAMPLERS[sampler]
    assert facts.startup_trials in (0, getattr(made, "_n_startup_trials", 0))
    assert isinstance(made, optuna.samplers.GridSampler) is facts.choices_only
    with pytest.raises(ValueError, match="unknown sampler 'other'"):
        make_sampler("other", 1, 0, {})


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_asks_for_distinct_points_inside_the_space(tmp_path: Path, url: str, sampler: str) -> None:
    grid = "tune:\n  train.learning_rate: {choice: [1e-4, 1e-3, 1e-2]}\n  model.n_layers: {choice: [1, 2]}\n"
    spec = spec_of(
        tmp_path, f"{{sampler: {sampler}, trials: 6}}", grid if SAMPLERS[sampler].choices_only else ALL_KINDS
    )
    asked = []
    while (study := arm_study(spec, url)).missing():  # a new process before every trial
        trial, values = study.ask()
        asked.append(tuple(values.values()))
        assert list(values) == list(spec.tune)
        spec.run_config(values)  # valid
        assert study.report(trial, 1000, loss(values)) is False
        study.tell(trial.number, Outcome.COMPLETE, loss(values))
    assert len(asked) == len(set(asked)) == 6
    plain = optuna.load_study(study_name="dropout/drop_rate=0.0", storage=url)
    assert [trial.state for trial in plain.trials] == [TrialState.COMPLETE] * 6
    assert plain.trials[0].intermediate_values == {1000: plain.trials[0].value}
    best = study.best()
    assert best is not None
    assert best.number == plain.best_trial.number
    assert best.loss == pytest.approx(loss(dict(best.values)))


def test_all_arms_get_the_same_points_by_random_sampling(tmp_path: Path, url: str) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 3}")
    asked: list[list[dict[str, object]]] = []
    for arm in (0, 1):
        study = arm_study(spec, url, arm)
        asked.append([])
        for _ in range(3):
            trial, values = study.ask()
            asked[-1].append(values)
            study.tell(trial.number, Outcome.COMPLETE, 1.0)
    assert asked[0] == asked[1]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners_stop_bad_trials_and_not_the_best_one(tmp_path: Path, url: str, pruner: str) -> None:
    spec = spec_of(tmp_path, f"{{sampler: random, trials: 12, pruner: {pruner}}}")
    study = arm_study(spec, url)
    pruned = []
    for number in range(12):
        trial, _ = study.ask()
        level = 9.0 if number >= 8 else 5.0 - 0.01 * number
        stop = any(study.report(trial, tokens, level - tokens / 1e5) for tokens in range(1000, 10_001, 1000))
        pruned.append(stop)
        study.tell(trial.number, Outcome.PRUNED if stop else Outcome.COMPLETE, level)
    assert any(pruned[8:]) is (pruner != "none")
    if pruner in ("none", "median"):
        assert not any(pruned[:8])  # each was better than all before it
    assert study.missing() == 0  # pruned trials count as finished
    states = [trial.state for trial in study.study.get_trials()]
    assert states.count(TrialState.PRUNED) == sum(pruned)
    best = study.best()
    assert best is not None
    assert not pruned[best.number]


def test_pruners_work_without_a_known_budget() -> None:
    scale = PrunerScale(trials=10, first_evaluation=1000, budget=None)
    assert isinstance(make_pruner("hyperband", scale), optuna.pruners.HyperbandPruner)
    with pytest.raises(ValueError, match="unknown pruner 'other'"):
        make_pruner("other", scale)


def test_failed_trials_are_replaced_and_never_best(tmp_path: Path, url: str) -> None:
    study = arm_study(spec_of(tmp_path, "{sampler: random, trials: 4}"), url)
    ends = [(Outcome.FAILED, None), (Outcome.OOM, 0.1), (Outcome.DIVERGED, 10.8), (Outcome.COMPLETE, 5.0)]
    for outcome, value in ends:
        trial, _ = study.ask()
        study.tell(trial.number, outcome, value, "the reason\nand its traceback")
    assert study.missing() == 2
    trials = study.study.get_trials()
    assert [t.state.name for t in trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].value == 10.8  # the loss of an untrained model, not a missing one
    assert trials[0].user_attrs["outcome"] == "failed"
    assert trials[0].user_attrs["reason"] == "the reason"
    best = study.best()
    assert best is not None
    assert best.number == 3


def test_failed_points_of_a_grid_are_tried_again_after_all_others(tmp_path: Path, url: str) -> None:
    grid = "tune:\n  train.learning_rate: {choice: [1e-4, 1e-3, 1e-2]}\n"
    spec = spec_of(tmp_path, "{sampler: grid}", grid)
    bad: list[float] = []
    asked = []
    while (study := arm_study(spec, url)).missing():  # a new process before every trial
        trial, values = study.ask()
        asked.append(values["train.learning_rate"])
        if len(asked) <= 2:
            bad.append(asked[-1])
        if len(asked) < 6:
            study.tell(trial.number, *((Outcome.OOM, None) if asked[-1] in bad else (Outcome.COMPLETE, 3.0)))
        else:
            study.tell(trial.number, Outcome.COMPLETE, 3.0)
    assert sorted(asked[:3]) == [1e-4, 1e-3, 1e-2]
    assert asked[3:] == [*bad, bad[0], bad[1]]  # alternately, until both succeed
    assert not [t for t in study.known if not t.state.is_finished()]


def test_a_storage_that_cannot_be_opened_is_a_one_line_error() -> None:
    for address in ("foo", "sqlite:////nowhere/at/all.db", "nosuch://x"):
        with pytest.raises(StorageError, match=r"^--storage: found '.*', which cannot be opened: [^\n]*$"):
            open_storage(address)


def test_a_diverged_trial_is_not_best_even_if_it_is_the_only_one(tmp_path: Path, url: str) -> None:
    study = arm_study(spec_of(tmp_path, "{sampler: random, trials: 1}"), url)
    trial, _ = study.ask()
    study.tell(trial.number, Outcome.DIVERGED, 10.8)
    assert study.best() is None


def test_trials_of_a_killed_process_are_asked_again_with_their_values(tmp_path: Path, url: str) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 2}")
    _, values = arm_study(spec, url).ask()
    study = arm_study(spec, url)
    study.recover()
    assert study.missing() == 2
    again, same = study.ask()
    assert same == values
    study.tell(again.number, Outcome.COMPLETE, 1.0)
    assert [t.state.name for t in study.study.get_trials()] == ["COMPLETE"]
    _, other = study.ask()
    assert other != values


def test_an_edited_spec_gets_studies_of_its_own(tmp_path: Path, url: str) -> None:
    spec = spec_of(tmp_path, "{sampler: random, trials: 2}")
    first = arm_study(spec, url, identity="a" * 64)
    trial, _ = first.ask()
    first.tell(trial.number, Outcome.COMPLETE, 1.0)
    other = arm_study(spec, url, identity="b" * 64)
    assert (first.name, other.name) == ("dropout/drop_rate=0.0", "dropout/drop_rate=0.0@bbbbbbbb")
    assert (first.missing(), other.missing()) == (1, 2)
    assert arm_study(spec, url, identity="a" * 64).missing() == 1
    assert arm_study(spec, url, identity="b" * 64).name == other.name

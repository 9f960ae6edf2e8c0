"""Runs on a mixture: losses of each source are those of the source alone, and a run resumes bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.core.metrics import of_source
from harness.data import CorpusError, open_dataset
from helpers import check_that_it_resumes_bit_equal, evaluator, lively_gpt, numbers, run, small_config

BOOKS = {"corpus": "sotu-1820"}


@pytest.fixture
def mix(tmp_path: Path) -> dict[str, Any]:
    code = tmp_path / "code.txt"
    code.write_text("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(300)), "utf-8")
    return {"books": {**BOOKS, "weight": 2}, "code": {"path": str(code)}}


@pytest.mark.parametrize("last", [False, True])
def test_losses_of_a_source_are_those_of_evaluating_it_alone(last: bool, mix: dict[str, Any]) -> None:
    config = small_config(data={"mix": mix, "tokenizer": "byte"}, eval_tokens=500)
    model, data = lively_gpt(config), open_dataset(config.data)
    judge = evaluator(config, model, data)
    judge.read_test = True
    found = judge.evaluate(6, last).metrics
    nats, counts = dict.fromkeys(("val", "test"), 0.0), dict.fromkeys(("val", "test"), 0)
    for name, source in config.data.parts.items():
        alone = evaluator(small_config(data=source.model_dump()), model, open_dataset(source))
        for split in ("val", "test") if last else ():
            scores = alone.score_split(split)
            assert found[of_source(f"{split}/loss", name)] == scores.mean
            assert found[of_source(f"{split}/perplexity", name)] == pytest.approx(math.exp(scores.mean))
            bits = scores.total[0] / math.log(2) / open_dataset(source).target_bytes(split)
            assert found[of_source(f"{split}/bits_per_byte", name)] == pytest.approx(bits)
            nats[split] += scores.total[0]
            counts[split] += scores.total[1]
        assert of_source("val_sample/loss", name) in found
    for split in ("val", "test") if last else ():  # by tokens, whatever the weights
        assert found[f"{split}/loss"] == pytest.approx(nats[split] / counts[split], abs=1e-12)
        assert counts[split] == len(data.tokens(split)) - 2


def test_a_sample_has_windows_of_each_source_by_its_share_of_the_tokens(mix: dict[str, Any]) -> None:
    config = small_config(data={"mix": mix, "tokenizer": "byte"}, train_eval_tokens=1600)
    data = open_dataset(config.data)
    judge = evaluator(config, lively_gpt(config), data)
    for name, part in data.sources.items():
        assert judge.score_windows("train", name).total[1] == 1600 * len(part.train) // len(data.train) // 16 * 16


@pytest.mark.parametrize("vocab", ["full", "corpus"])
def test_a_run_on_a_mixture_resumes_bit_equal(vocab: str, mix: dict[str, Any], tmp_path: Path) -> None:
    data = {"mix": mix, "tokenizer": "byte", "vocab": vocab}
    config = small_config(data=data, model={"drop_rate": 0.1}, sample={"max_new_tokens": 3})
    check_that_it_resumes_bit_equal(config, tmp_path, after=3)


def test_a_mixture_of_one_text_trains_as_the_text_alone() -> None:
    plain, mixed = (
        numbers(run(small_config(data={**data, "tokenizer": "byte"}), read_test=True))
        for data in (BOOKS, {"mix": {"books": {**BOOKS, "weight": 0.3}}})
    )
    for alone, point in zip(plain, mixed, strict=True):
        assert alone.items() <= point.items()
        assert set(point.keys() - alone.keys()) <= {of_source(name, "books") for name in alone}


def test_weights_change_what_is_trained_on(mix: dict[str, Any]) -> None:
    losses = []
    for weight in (0.001, 1000):
        mix["code"]["weight"] = weight
        data = {"mix": mix, "tokenizer": "byte"}
        losses.append(run(small_config(data=data, learning_rate=0.01, budget={"steps": 30})))
    rare, often = (points[-1].metrics for points in losses)
    assert often["val/loss_code"] < rare["val/loss_code"] - 0.1
    assert rare["val/loss_books"] < often["val/loss_books"]


def test_a_source_shorter_than_a_window_is_named(mix: dict[str, Any]) -> None:
    Path(mix["code"]["path"]).write_text("tiny text of one line", "utf-8")
    with pytest.raises(CorpusError, match="allowed: under"):
        run(small_config(data={"mix": mix, "tokenizer": "byte"}, model={"context_length": 32}))

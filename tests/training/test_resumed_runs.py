"""Resumed runs equal uninterrupted ones bit for bit, wherever and however often they were interrupted."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import harness.training.budget
import harness.training.resume
import harness.training.run
from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from harness.training.budget import Clock
from harness.training.errors import Diverged, Stopped
from harness.training.trainer import train
from helpers import byte_data, counted_data, numbers, run, small_config

SAMPLE = {"max_new_tokens": 4, "temperature": 1.0}


def content(points: list[Point]) -> list[Any]:
    """Everything in the points that does not depend on the clock."""
    values = zip(points, numbers(points), strict=True)
    return [(p.step, p.tokens, p.progress, p.sample, p.greedy, p.by_position, measured) for p, measured in values]


def until(points: Iterator[Point], step: int) -> list[Point]:
    """The points up to a step, after which the generator is closed."""
    taken = []
    for point in points:
        taken.append(point)
        if point.step >= step:
            break
    points.close()  # type: ignore[attr-defined]
    return taken


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def eager(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The run, with a state saved after every point."""
    monkeypatch.setattr(harness.training.resume, "COST_SHARE", 0)
    return config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every": 1e-9})})


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw constant": {"schedule": "constant"},
    "adamw cosine tied": {"model": {"tie_embeddings": True}, "schedule": "cosine"},
    "adamw wsd deep": {"model": {"n_layers": 2, "qkv_bias": True}, "schedule": "wsd", "decay": 0.5},
    "muon linear": {"optimizer": "muon", "schedule": "linear", "batch_size": 3},
    "muon wsd tied": {"optimizer": "muon", "model": {"tie_embeddings": True}, "schedule": "wsd"},
    "tokens": {"budget": {"tokens": 640}, "grad_clip": None},
    "several epochs": {"data": 401, "budget": {"epochs": 2.3}, "batch_size": 7},  # 25 windows: 8 steps
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_is_interrupted_repeatedly_is_bit_equal_to_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "budget": {"steps": 10},
        "eval_every": {"steps": 3},
        "sample": SAMPLE,
        "learning_rate": 1e-2,
    }
    fields |= VARIANTS[name]
    model = {"drop_rate": 0.2, **fields.pop("model", {})}
    if size := fields.pop("data", 0):
        fields["data"] = counted_data(tmp_path, size)
    config = small_config(model=model, **fields)
    whole = run(config, checkpoint=tmp_path / "whole", read_test=True, common_context=8)
    options: dict[str, Any] = {"state": tmp_path / "state", "checkpoint": tmp_path / "parts"}
    parts, starts = [], []
    for step in (0, 1, 3, 4, 7, 1000):
        torch.rand(3)  # random numbers drawn in between change nothing
        began = train(config, read_test=True, common_context=8, on_start=lambda *start: starts.append(start), **options)
        parts += until(began, step)
    assert starts == [(step, "") for step in (0, 0, 1, 3, 4, 7)]
    assert content(parts) == content(whole)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert [point.seconds for point in parts] == sorted(point.seconds for point in parts)


def test_a_killed_run_resumes_from_its_last_timed_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL leaves the folder as it is at that moment."""
    config = small_config(model={"drop_rate": 0.2}, optimizer="muon", eval_every={"steps": 3}, sample=SAMPLE)
    whole = run(config, checkpoint=tmp_path / "whole")
    config = eager(config, monkeypatch)
    folders = []
    for point in train(config, state=tmp_path / "state"):
        folders.append(tmp_path / f"killed at {point.step}")
        shutil.copytree(tmp_path / "state", folders[-1])
    assert len(folders) == 7
    for step, folder in enumerate(folders):
        resumed = run(config, state=folder, checkpoint=tmp_path / "final")
        assert content(resumed) == content(whole[step:])  # the caller's last point is made again
        assert weights(tmp_path / "final") == weights(tmp_path / "whole")


@pytest.mark.parametrize("after", [None, -1, 2, 4, 5])
def test_after_gives_exactly_the_later_points(after: int | None, tmp_path: Path) -> None:
    config = small_config(eval_every={"steps": 2}, sample=SAMPLE)
    whole = run(config)
    until(train(config, state=tmp_path), 4)
    resumed = run(config, state=tmp_path, after=after)
    assert content(resumed) == content(whole[(4 if after is None else after) + 1 :])
    assert content(run(config, after=3)) == content(whole[4:])  # without a state too


def true_after(times: int) -> Callable[[], bool]:
    """False for the first `times` calls, then true."""
    answers = itertools.chain([False] * times, itertools.repeat(True))
    return lambda: next(answers)


def test_a_run_can_be_stopped_at_every_call_of_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.training.evaluation, "EVAL_TOKENS", 1024)  # several batches an evaluation
    config = small_config(budget={"steps": 4}, model={"drop_rate": 0.2}, eval_every={"steps": 2})
    whole = run(config, checkpoint=tmp_path / "whole")
    calls = 0

    def count() -> bool:
        nonlocal calls
        calls += 1
        return False

    run(config, stop=count)
    assert calls == 4 + 3 * (1 + 3)  # before each step; in each evaluation one batch of train and three of val
    reached = [0] * 4 + [0] + [1] + [2] * 4 + [2] + [3] + [4] * 4
    for times in range(calls):
        folder = tmp_path / str(times)
        steps: list[int] = []
        with pytest.raises(Stopped):
            list(train(config, state=folder, stop=true_after(times)))
        options: dict[str, Any] = {"checkpoint": folder, "on_start": lambda step, _, steps=steps: steps.append(step)}
        assert content(run(config, state=folder, after=-1, **options)) == content(whole)
        assert weights(folder) == weights(tmp_path / "whole")
        assert steps == [reached[times]]


@pytest.mark.slow
def test_a_stop_between_two_points_loses_no_step(tmp_path: Path) -> None:
    config = small_config(budget={"steps": 301}, model={"drop_rate": 0.2})
    whole = run(config)
    assert [point.step for point in whole[:3]] == [0, 3, 6]
    parts: list[Point] = []
    with pytest.raises(Stopped, match="stopped at step 100"):
        for point in train(config, state=tmp_path, stop=true_after(3 + 100)):
            parts.append(point)
    began: list[int] = []
    parts += train(config, state=tmp_path, on_start=lambda step, _: began.append(step))
    assert began == [100] and content(parts) == content(whole)


def test_a_budget_in_seconds_resumes_with_its_spent_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # every reading of the clock advances it by an eighth of a second, so a step takes exactly that
    ticks = itertools.count()
    monkeypatch.setattr(harness.training.budget, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 8))
    config = small_config(budget={"seconds": 1}, schedule="linear", warmup=0.25, final_fraction=0.0)
    monkeypatch.setattr(harness.config.run, "MAX_LOG_STEPS", 1)
    whole = run(config)
    parts = [point for step in (2, 5, 1000) for point in until(train(config, state=tmp_path), step)]
    assert content(parts) == content(whole)
    assert [point.step for point in parts] == list(range(9))
    speeds = [point.metrics[metrics.TOKENS_PER_SECOND] for point in parts[1:]]
    assert speeds == [64 * 8] * 8  # also across the interruptions


def test_a_budget_spent_by_queued_gpu_steps_still_ends_with_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving a state waits for the queued steps, and their time may spend the rest of the budget."""

    def wait(clock: Clock, _: torch.device) -> None:
        clock.training += 1e6

    monkeypatch.setattr(Clock, "finish_queued_steps", wait)
    config = small_config(budget={"seconds": 1e5})
    until(train(config, state=tmp_path), 10)
    last = run(config, state=tmp_path)[-1]
    assert last.progress == 1.0 and last.evaluated and last.step == 11


def test_the_time_between_two_processes_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(harness.training.budget, "time", SimpleNamespace(perf_counter=lambda: now))
    seconds = []
    for end in (2, 1000):
        points = train(small_config(), state=tmp_path)
        for point in points:
            seconds.append(point.seconds)
            now += 1.0
            if point.step == end:
                break
        points.close()  # type: ignore[attr-defined]
        now += 1000.0
    assert seconds == [0, 1, 2, 3, 4, 5, 6]


def test_the_last_state_of_a_finished_run_can_finish_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may be killed before it has stored the last point."""
    config = eager(small_config(), monkeypatch)
    whole = run(config, state=tmp_path / "state", checkpoint=tmp_path / "one")
    again = until(train(config, state=tmp_path / "state", checkpoint=tmp_path / "two"), 6)
    assert content(again) == content(whole[6:])  # closing at the last point saved no state that would skip it
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert content(run(config, state=tmp_path / "state", after=3)) == content(whole[4:])


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    until(train(eager(small_config(), monkeypatch)), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [None, 1e-9])
def test_states_are_saved_every_checkpoint_every_seconds(
    every: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.training.resume, "COST_SHARE", 0)
    saved = []
    points = train(small_config(checkpoint_every=every), state=tmp_path)
    for point in points:
        saved.append(len(list(tmp_path.glob("*.json"))))
        if point.step == 4:
            break
    points.close()  # type: ignore[attr-defined]
    assert saved == ([0, 0, 0, 0, 0] if every is None else [0, 1, 2, 2, 2])
    assert (tmp_path / "state-000001.json").is_file() == (every is None)  # a closed run saves its state in any case


def test_saving_states_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(model={"drop_rate": 0.2}, optimizer="muon")
    plain = run(config, checkpoint=tmp_path / "plain")
    assert content(run(eager(config, monkeypatch), state=tmp_path / "s", checkpoint=tmp_path / "saved")) == content(
        plain
    )
    assert weights(tmp_path / "plain") == weights(tmp_path / "saved")


# What is not saved, and warnings


def test_a_diverged_state_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(learning_rate=1e30, schedule="constant", warmup=0.0)
    points = train(eager(config, monkeypatch), state=tmp_path)
    with pytest.raises(Diverged):
        for point in points:
            last = point.step
    assert last == 1
    steps: list[int] = []
    with pytest.raises(Diverged):  # the state saved before it diverges again
        list(train(config, state=tmp_path, on_start=lambda step, _: steps.append(step)))
    assert steps[0] <= 1


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[GPT] = []

    def building(*arguments: Any) -> GPT:
        built.append(build_gpt(*arguments))
        return built[-1]

    monkeypatch.setattr(harness.training.run, "build_gpt", building)
    until(train(small_config(), state=tmp_path), 2)
    files = sorted(tmp_path.iterdir())
    points = train(small_config(), state=tmp_path)
    assert next(points).step == 3
    for value in (torch.nan, torch.inf):
        with torch.no_grad():
            built[-1].tok_emb.weight[7, 3] = value
    points.close()  # type: ignore[attr-defined]
    assert sorted(tmp_path.iterdir()) == files


def test_another_number_of_threads_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    until(train(small_config(), state=tmp_path), 2)
    torch.set_num_threads(2)
    try:
        with caplog.at_level(logging.WARNING, "harness.training.trainer"):
            until(train(small_config(), state=tmp_path), 3)
    finally:
        torch.set_num_threads(1)
    assert caplog.messages == ["resumed with 2 threads, was 1: not bit-equal"]
    warnings: list[str] = []
    run(small_config(), state=tmp_path, on_start=lambda _, warning: warnings.append(warning))
    assert warnings == ["resumed with 1 thread, was 2: not bit-equal"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"seed": 2}, "of another configuration"),
        ({"learning_rate": 2e-3}, "of another configuration"),
        ({"data": {"corpus": "sotu-1820", "tokenizer": "byte", "split": {"val": 0.2}}}, "of another configuration"),
        ({}, "of other data"),
    ],
)
def test_a_state_of_another_run_is_skipped_and_kept(other: dict[str, Any], reason: str, tmp_path: Path) -> None:
    until(train(small_config(), state=tmp_path), 2)
    config = small_config(**other)
    data = None if other else dataclasses.replace(byte_data(), fingerprint="0" * 64)
    warnings: list[str] = []
    resumed = until(train(config, data, state=tmp_path, on_start=lambda _, warning: warnings.append(warning)), 3)
    assert [point.step for point in resumed] == [0, 1, 2, 3]
    assert warnings == [f"state-000001 is {reason}; started from the beginning"]
    assert [point.step for point in train(small_config(), state=tmp_path)] == [3, 4, 5, 6]  # the state is still there


def test_a_state_of_other_training_code_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    until(train(small_config(), state=tmp_path), 2)
    monkeypatch.setattr(harness.training.resume, "training_code", lambda: "other")
    warnings: list[str] = []
    assert run(small_config(), state=tmp_path, on_start=lambda _, warning: warnings.append(warning))[0].step == 0
    assert warnings == ["state-000001 is of another training code; started from the beginning"]

"""A sweep over tokenizers that are not built in, and its runs after the user's file is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data import open_dataset
from harness.model.weights import load_tokenizer
from harness.runner.replay import exact
from harness.tracking import checkpoint_folder
from harness.training.trainer import train
from helpers import small_config
from in_process import call
from own_tokenizers import byte_level_json, lower_case_json
from sandbox import SPEC, Sandbox

pytestmark = pytest.mark.slow

SWEEP = (
    SPEC.replace("tokenizer: byte", "tokenizer: gpt2")
    .replace("budget: {tokens: 6_144}", "budget: {steps: 4}")
    .replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
    .replace("baseline: {model.drop_rate: 0.0}\n", "")
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    folder = tmp_path_factory.mktemp("sweep")
    file = folder / "tokenizer.json"  # workers of the tests run in another folder: an absolute path
    file.write_text(byte_level_json())
    (folder / "lower.json").write_text(lower_case_json())
    arms = f"data.tokenizer: [{{train: bpe, vocab_size: 300}}, {file}, char, {folder / 'lower.json'}]"
    sandbox = Sandbox(folder, SWEEP.replace("model.drop_rate: [0.0, 0.2]", arms))
    done = call(sandbox, "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    file.unlink()
    return sandbox


def runs_of(sweep: Sandbox, tokenizer: str) -> dict[str, str]:
    """Phase → id of a run of the arm with this tokenizer."""
    return {
        run.data.tags["harness.phase"]: run.info.run_id
        for run in sweep.runs()[1]
        if run.data.params["data.tokenizer"].strip('"').endswith(tokenizer)
    }


def test_the_verdicts_are_in_bits_per_byte_and_lost_text_is_a_warning(sweep: Sandbox) -> None:
    report = (sweep.folder / "reports" / "tiny" / "report.md").read_text("utf-8")
    assert "are not compared by the loss per token but by bits per byte of the same text" in report
    assert "| tokenizer bpe-300 | baseline |" in report
    assert "does not keep the whole text" in report
    assert "- sha256 of the tokenizer: " in report
    assert "comes back as" in report


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "bpe-300", "char"])
def test_runs_are_replayed_bit_for_bit_after_the_file_is_gone(tokenizer: str, sweep: Sandbox) -> None:
    runs = runs_of(sweep, tokenizer)
    for phase in ("confirm", "explore") if tokenizer == "tokenizer.json" else ("confirm",):
        done = call(sweep, runs[phase], module="harness.replay")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Bit-equal: " in done.stdout


def test_a_checkpoint_keeps_the_tokenizer(sweep: Sandbox) -> None:
    run = runs_of(sweep, "tokenizer.json")["confirm"]
    tokenizer = load_tokenizer(checkpoint_folder(run, sweep.uri))
    assert tokenizer.file is not None and tokenizer.file.content.decode() == byte_level_json()
    done = call(sweep, run, "--prompt", "Fellow", "--max-new-tokens", "3", module="harness.generate")
    assert done.returncode == 0 and done.stdout.startswith("Fellow"), done.stderr


def test_a_sweep_whose_file_is_gone_says_so(sweep: Sandbox, tmp_path: Path) -> None:
    done = call(sweep, "tiny.yaml", "--workers", "1")
    assert done.returncode == 2
    assert "tokenizer.json', which cannot be read (No such file or directory)" in done.stderr


@pytest.mark.parametrize("tokenizer", ["bpe-300", "LOWER"])
def test_an_interrupted_run_resumes_bit_for_bit(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "lower.json").write_text(lower_case_json())
    name = tokenizer.replace("LOWER", str(tmp_path / "lower.json"))
    config = small_config(data={"corpus": "sotu-1820", "tokenizer": name, "vocab": "corpus"})
    data = open_dataset(config.data)
    whole = list(train(config, data, checkpoint=tmp_path / "whole"))
    points = train(config, data, state=tmp_path / "state")
    middle = next(point.step for point in points if point.step >= whole[-1].step // 2)
    points.close()  # saves a state
    started: list[int] = []
    rest = train(
        config,
        data,
        state=tmp_path / "state",
        checkpoint=tmp_path / "resumed",
        on_start=lambda step, _: started.append(step),
    )
    assert exact(list(rest)[-1].metrics) == exact(whole[-1].metrics)
    assert started == [middle]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    kept = load_tokenizer(tmp_path / "resumed")
    text = "We have seen."
    assert kept.encode(text) == data.codec.encode(text)
    assert kept.n_vocab == data.n_vocab == len(data.vocabulary if data.vocabulary is not None else ())
    assert bool(data.lost) == (tokenizer == "LOWER")

"""The corpora of a sweep, and the messages about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import SpecError
from harness.cost import preview
from harness.cost.estimate import TimeEstimate
from harness.cost.evaluation_share import EvaluationShare
from harness.runner.datasets import Datasets
from harness.runner.devices import available_devices
from helpers import run, small_config

SPEC = """
name: texts
data: {path: "*.txt", tokenizer: byte}
model: {context_length: 8, emb_dim: 16, n_heads: 2, n_layers: 1}
train: {budget: {steps: 2}, batch_size: 2}
compare: {model.drop_rate: [0.0, 0.1]}
"""


def test_a_spec_is_checked_against_the_devices_of_the_machine_that_trains_it(tmp_path: Path) -> None:
    here = available_devices()
    assert here[-1] == "cpu"
    missing = next(name for name in ("cuda", "mps") if name not in here)
    file = tmp_path / "spec.yaml"
    file.write_text(
        SPEC.replace('path: "*.txt"', "corpus: sotu-1820").replace("batch_size", f"device: {missing}, batch_size")
    )
    Datasets().load_spec(file, [])  # for a plan
    with pytest.raises(SpecError, match=f"train.device: found {missing}; allowed on this machine: auto, "):
        Datasets().load_spec(file, [], trains_here=True)


def test_a_repeated_file_is_named_once_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Every effort moves you. " * 20)
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    datasets = Datasets()
    spec = datasets.load_spec(Path("spec.yaml"), [])
    datasets.facts(spec)
    sentence = "data.path: 'b.txt' is another name of 'a.txt'; each file counts once"
    assert datasets.messages == [sentence]
    monkeypatch.setattr(preview, "_show_time", lambda *_: None)
    nothing = TimeEstimate(1.0, 1.0, {}, 1.0)
    share = EvaluationShare(0.0, None, 0.0, 0.0)
    plan = preview.Plan(spec, datasets.splits(spec), [], nothing, share, 1, 1, False, messages=datasets.messages)
    preview.show_plan(plan)
    assert capsys.readouterr().out.splitlines()[-1] == sentence


def test_equal_files_in_different_splits_are_a_fact_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcdefghij":
        (tmp_path / f"{name}.txt").write_text(f"{name} Every effort moves you. " * 5)
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    spec = Datasets().load_spec(Path("spec.yaml"), [])
    assert all("copies" not in facts for facts in Datasets().facts(spec).values())
    (tmp_path / "i.txt").write_text((tmp_path / "a.txt").read_text())
    for facts in Datasets().facts(spec).values():
        assert facts["copies"].startswith("'a.txt' and 'i.txt' have equal content, which is part of the training and")


def test_empty_positions_of_short_documents_are_named_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text("Every effort moves you.")  # five tokens, and the one that ends it
    spec = SPEC.replace("tokenizer: byte", "separator: endoftext, windows: within")
    (tmp_path / "spec.yaml").write_text(spec)
    monkeypatch.chdir(tmp_path)
    datasets = Datasets()
    loaded = datasets.load_spec(Path("spec.yaml"), [])
    [sentence] = datasets.messages[1:]  # the first one counts the copies
    assert sentence.startswith("data.windows: warning: with model.context_length 8, 38% of the positions in training")
    assert set(datasets.train_tokens(loaded).values()) == {16 * 8 + 1}  # 16 documents in a window of 8 each
    assert len(Datasets().load_spec(Path("spec.yaml"), ["model.context_length=5"]).arms()) == 2
    with pytest.raises(SpecError, match=r"data\.windows: found within and data\.separator blank_line"):
        Datasets().load_spec(Path("spec.yaml"), ["data.separator=blank_line"])


def test_weights_need_the_tokenizer_they_were_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("Every effort moves you. " * 20)
    (tmp_path / "b.txt").write_text("Wir haben Mühe. " * 30)
    run(small_config(data={"path": "a.txt", "tokenizer": "char"}), checkpoint=Path("ours"))
    spec = SPEC.replace("tokenizer: byte", "tokenizer: char").partition("compare")[0]
    spec = spec.replace("context_length: 8, emb_dim: 16, n_heads: 2, n_layers: 1", "context_length: 8, init_from: ours")
    file = tmp_path / "spec.yaml"
    file.write_text(spec.replace("*.txt", "a.txt"))
    datasets = Datasets()
    assert datasets.load_spec(file, []).base.model.emb_dim == 16
    assert datasets.messages == [
        "ours: the folder of this name is taken, not a model of the hub",
        "ours: the first 8 of its 16 positions are used",
    ]
    file.write_text(spec.replace("*.txt", "b.txt"))
    with pytest.raises(
        SpecError, match=r"data\.tokenizer: found another char than the char that ours was trained with"
    ):
        Datasets().load_spec(file, [])
    with pytest.raises(
        SpecError, match=r"data\.tokenizer: found byte; allowed: char, whose tokens ours was trained on"
    ):
        Datasets().load_spec(file, ["data.tokenizer=byte"])

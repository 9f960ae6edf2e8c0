from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from harness.core import metrics
from harness.core.files import read_json_list
from harness.core.paths import TOKEN_LOSSES
from harness.data import get_tokenizer, open_dataset
from harness.model.weights import load_checkpoint
from harness.report.sections.token_losses import Token, _token
from harness.training.token_losses import LENGTH, save_token_losses
from helpers import counted_data, run, small_config, text_data


def scored(folder: Path) -> list[tuple[str, float]]:
    return [(one["text"], one["probability"]) for one in read_json_list((folder / TOKEN_LOSSES).read_text("utf-8"))]


def test_a_passage_of_the_whole_split_has_the_loss_of_the_split(tmp_path: Path) -> None:
    # 40 validation tokens in windows of 16: two whole windows and a shorter one; 39 of them are targets.
    config = small_config(data=counted_data(tmp_path, 400))
    points = run(config, checkpoint=tmp_path / "checkpoint")
    found = scored(tmp_path / "checkpoint")
    data = open_dataset(config.data)
    assert "".join(text for text, _ in found) == get_tokenizer("byte").decode(data.val[1:])
    mean = -sum(math.log(chance) for _, chance in found) / len(found)
    assert len(found) == 39 and mean == pytest.approx(points[-1].metrics[metrics.VAL_LOSS], rel=1e-5)


def test_probabilities_are_those_of_the_logits(tmp_path: Path) -> None:
    config = small_config()
    run(config, checkpoint=tmp_path)
    found = scored(tmp_path)
    model, _ = load_checkpoint(tmp_path)
    tokens = torch.as_tensor(open_dataset(config.data).val[: LENGTH + 1].astype("int64"))
    assert len(found) == LENGTH
    with torch.no_grad():  # the windows begin at tokens 0, 16, 32, …
        logits = torch.cat([model(tokens[start : start + 16][None])[0] for start in range(0, LENGTH, 16)])[:LENGTH]
    wanted = logits.double().softmax(-1)[torch.arange(LENGTH), tokens[1:]]
    torch.testing.assert_close(torch.tensor([chance for _, chance in found]).double(), wanted, rtol=1e-4, atol=1e-9)


def test_without_a_checkpoint_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_one = run(small_config(), checkpoint=tmp_path / "kept")
    without = run(small_config())
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert with_one[-1].metrics[metrics.VAL_LOSS] == without[-1].metrics[metrics.VAL_LOSS]


def test_scoring_restores_the_models_mode(tmp_path: Path) -> None:
    config = small_config()
    run(config, checkpoint=tmp_path)
    model, _ = load_checkpoint(tmp_path)
    for mode in (True, False):
        model.train(mode)
        tokens = open_dataset(config.data).val
        save_token_losses(tmp_path, model, tokens, get_tokenizer("byte"), torch.device("cpu"), "fp32")
        assert model.training is mode


def test_a_character_of_several_tokens_is_the_text_of_the_last(tmp_path: Path) -> None:
    text = "学而时习之，不亦说乎？" * 30
    config = small_config(data=text_data(tmp_path, text))
    run(config, checkpoint=tmp_path / "checkpoint")
    found = [text for text, _ in scored(tmp_path / "checkpoint")]
    data = open_dataset(config.data)
    first = next(place for place, one in enumerate(found) if one)  # the split may begin inside a character
    assert found[first + 1 : first + 4] == ["", "", found[first + 3]] and len(found[first + 3]) == 1
    assert len(found) == len(data.val) - 1 and "".join(found) in text


def test_a_part_of_a_character_is_a_dot() -> None:
    assert _token(("", 0.5)) == Token("·", 1, "part of a character: probability 0.50, loss 0.69")
    assert _token(("学", 0.5)).title == "“学” probability 0.50, loss 0.69"

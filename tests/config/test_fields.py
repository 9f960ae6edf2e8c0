"""Fields by dotted path: overrides, short names, and the list of all paths."""

from __future__ import annotations

from pathlib import Path

from harness.config.fields import arm_name, field_paths, override, short_name, without_secret_addresses
from harness.config.load import load_spec
from specs import GOOD


def test_override_leaves_the_original_alone_and_clears_siblings() -> None:
    written = {"data": {"url": "x", "sha256": "y"}, "train": {"budget": {"epochs": 1}, "batch_size": 2}}
    values = {"data.corpus": "c", "train.budget.tokens": 5, "train.batch_tokens": 8, "model.emb_dim": 4}
    assert override(written, values) == {
        "data": {"corpus": "c"},
        "train": {"budget": {"tokens": 5}, "batch_tokens": 8},
        "model": {"emb_dim": 4},
    }
    assert written == {"data": {"url": "x", "sha256": "y"}, "train": {"budget": {"epochs": 1}, "batch_size": 2}}


def test_addresses_have_no_secrets_wherever_they_are_written() -> None:
    written = {
        "data": {"url": "http://me:x@host/a", "sha256": "y"},
        "compare": {"data.url": ["http://me:x@host/a", "http://host/b?sig=1", 3]},
        "tune": {"data.url": {"choice": ["http://token@host/c?version=2"]}},
        "model": 3,
    }
    assert without_secret_addresses(written) == {
        "data": {"url": "http://host/a", "sha256": "y"},
        "compare": {"data.url": ["http://host/a", "http://host/b", 3]},
        "tune": {"data.url": {"choice": ["http://host/c?version=2"]}},
        "model": 3,
    }


def test_short_names_are_unambiguous() -> None:
    assert short_name("model.drop_rate") == "drop_rate"
    assert short_name("train.budget.tokens") == "budget.tokens"
    assert short_name("train.eval_every.tokens") == "eval_every.tokens"
    assert arm_name({"train.learning_rate": 1e-5, "model.qkv_bias": True}) == "learning_rate=1e-05, qkv_bias=true"


def test_the_listed_paths_include_the_preset_which_can_be_compared(tmp_path: Path) -> None:
    assert {"model.drop_rate", "train.budget.flops", "data.split.val", "model.preset"} <= set(field_paths())
    text = GOOD.replace("model.drop_rate: [0.0, 0.1]", "model.preset: [gpt2-124m, gpt2-355m]")
    text = text.replace("baseline: {model.drop", "#").replace("emb_dim: 16, n_heads: 2, n_layers: 1", "drop_rate: 0.0")
    path = tmp_path / "spec.yaml"
    path.write_text(text, "utf-8")
    spec = load_spec(path)
    widths = [spec.run_config(arm.values).model.emb_dim for arm in spec.arms()]
    assert widths == [768, 1024]

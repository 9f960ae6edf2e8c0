"""What `data.tokenizer` may hold, in every section of a spec, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.objective import Objective
from harness.config.run import RunConfig
from harness.config.tokenizers import check_name, is_own, most_ids, short_form, trained_size
from harness.core.metrics import VAL_BITS_PER_BYTE
from specs import GOOD, load, mistakes

PLAIN = GOOD[: GOOD.index("compare:")]
RECIPE = "{train: bpe, vocab_size: 1000}"


def test_a_recipe_has_a_short_form() -> None:
    assert short_form({"train": "bpe", "vocab_size": 1000}) == "bpe-1000"
    assert short_form({"train": "bpe", "vocab_size": 1e3}) == "bpe-1000"  # as YAML reads 1e3
    assert trained_size("bpe-1000") == most_ids("bpe-1000") == 1000
    assert trained_size("gpt2") is None


@pytest.mark.parametrize("name", ["gpt2", "char", "bpe-257", "bpe-1000000", "my/tokenizer.json", "~/a.model"])
def test_names_recipes_and_paths_are_allowed(name: str) -> None:
    assert check_name(name) == name
    assert is_own(name) == (name != "gpt2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt5", "unknown tokenizer 'gpt5'; did you mean gpt2? allowed: byte, .*, char, {train: bpe"),
        ("bpe-256", "found vocab_size 256; allowed: a whole number from 257 (every byte and the end of a text) to"),
        ("bpe-1000001", "found vocab_size 1000001; allowed: a whole number from 257"),
        ("bpe-x", "found vocab_size x; allowed: a whole number from 257"),
        ("my/tokenizer", "found 'my/tokenizer'; allowed: a path that ends in .json or .model, or a name"),
    ],
)
def test_other_names_are_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        check_name(name)
    for part in message.split(".*"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "{train: bpe}",
            "found {'train': 'bpe'}; allowed: train and vocab_size, such as {train: bpe, vocab_size: 4096}",
        ),
        ("{train: unigram, vocab_size: 300}", "allowed: train and vocab_size, such as {train: bpe"),
        ("{train: bpe, vocab_size: many}", "found vocab_size 'many'; allowed: a whole number from 257 to 1,000,000"),
        ("{train: bpe, vocab_size: true}", "found vocab_size true; allowed: a whole number from 257 to 1,000,000"),
        ("{train: bpe, vocab_size: -300}", "found vocab_size -300; allowed: a whole number from 257"),
        ("{train: bpe, vocab_size: 3}", "found vocab_size 3; allowed: a whole number from 257"),
        ("[gpt2]", "found ['gpt2']; allowed: byte, gpt2, "),
    ],
)
def test_a_wrong_recipe_is_named_with_its_line(written: str, message: str, tmp_path: Path) -> None:
    [found] = mistakes(tmp_path, PLAIN.replace("sotu-1820}", f"sotu-1820, tokenizer: {written}}}"))
    assert found.startswith("spec.yaml:") and message in found and "data.tokenizer: " in found
    if written[0] == "{":  # the same where it is compared or tuned
        for section in (
            f"compare: {{data.tokenizer: [gpt2, {written}]}}",
            f"tune: {{data.tokenizer: {{choice: [{written}, byte]}}}}",
        ):
            [inside] = mistakes(tmp_path, PLAIN + section)
            assert message in inside and ".data.tokenizer: " in inside


def test_arms_tuned_values_and_the_baseline_have_short_names(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        PLAIN
        + f"compare: {{data.tokenizer: [gpt2, byte, char, {RECIPE}, some/where/tokenizer.json]}}\n"
        + f"baseline: {{data.tokenizer: {RECIPE}}}\n",
    )
    assert spec.baseline_arm.name == "tokenizer=bpe-1000"
    labels = ["gpt2", "byte", "char", "bpe-1000", "tokenizer.json"]
    assert list(spec.labels.of.values()) == [f"tokenizer {label}" for label in labels]
    assert spec.objective == Objective(VAL_BITS_PER_BYTE)
    tuned = load(tmp_path, PLAIN + f"tune: {{data.tokenizer: {{choice: [gpt2, {RECIPE}]}}}}")
    assert tuned.tune["data.tokenizer"].values == ("gpt2", "bpe-1000")
    assert tuned.objective == Objective(VAL_BITS_PER_BYTE)
    assert [config.tokenizer for config in tuned.data_configs()] == ["gpt2", "bpe-1000"]
    (tmp_path / "again.yaml").write_text(spec.to_yaml())
    from harness.config.load import load_spec

    assert load_spec(tmp_path / "again.yaml").identity() == spec.identity()


def test_a_recipe_can_be_set_from_the_command_line(tmp_path: Path) -> None:
    assert load(tmp_path, PLAIN, f"data.tokenizer={RECIPE}").base.data.tokenizer == "bpe-1000"
    assert load(tmp_path, PLAIN, "data.tokenizer=bpe-1000").base.data.tokenizer == "bpe-1000"


def test_the_vocabulary_is_known_once_the_text_is(tmp_path: Path) -> None:
    config = load(tmp_path, PLAIN, "data.tokenizer=char").base
    with pytest.raises(ValueError, match=r"found nothing with data.tokenizer char; allowed: a number"):
        _ = config.vocab_size
    resolved = config.with_vocabulary(300)
    assert resolved.vocab_size == 300
    assert RunConfig.from_flat(resolved.flat()) == resolved
    with pytest.raises(ValueError, match=r"found 200; allowed: at least the 300 tokens of data.tokenizer"):
        load(tmp_path, PLAIN, "data.tokenizer=char", "model.vocab_size=200").base.with_vocabulary(300)

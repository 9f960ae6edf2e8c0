"""`data.mix`: what is refused, which paths can be compared and tuned, and how a mixture is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.fields import arm_name, override
from harness.config.objective import LOSS, Objective
from harness.config.run import RunConfig
from harness.core.metrics import VAL_BITS_PER_BYTE
from specs import GOOD, load, mistakes

MIX = GOOD[: GOOD.index("compare:")].replace(
    "corpus: sotu-1820", "mix: {books: {path: b.txt, weight: 2}, code: {path: [c, d], field: body}}"
)
OTHER = Objective(VAL_BITS_PER_BYTE, ranked=False)


@pytest.mark.parametrize(
    ("mix", "mistake"),
    [
        ("{}", "data.mix: found no source; allowed: at least one, for example {books: {path: books.txt}}"),
        ("[b.txt]", "data.mix: found ['b.txt']; allowed: {NAME: {path: …, weight: …}, …}, or null"),
        ("{a b: {path: b}}", "data.mix: found the name 'a b'; allowed: 1 to 32 of"),
        ("{a.b: {path: b}}", "data.mix: found the name 'a.b'; allowed: 1 to 32 of"),
        ("{b: {path: b, weight: 0}}", "data.mix.b.weight: found 0; allowed: a number over 0 and at most 1000000"),
        ("{b: {path: b, weight: -1}}", "data.mix.b.weight: found -1; allowed: a number over 0"),
        ("{b: {path: b, weight: much}}", "data.mix.b.weight: found 'much'; allowed: a number over 0"),
        ("{b: {weight: 1}}", "data.mix.b: found none; allowed: exactly one source of corpus | path"),
        ("{b: b.txt}", "data.mix.b: found 'b.txt'; allowed: the fields corpus, path, weight"),
        ("{b: {path: b, wieght: 1}}", "data.mix.b.wieght: unknown field 'wieght'; did you mean weight?"),
        (
            "{b: {path: b}}, path: c",
            "data: found path and mix; allowed: exactly one source of",
        ),
        ("{b: {path: b}}, val_path: c", "data.val_path: found together with mix; allowed: data.mix.NAME.val_path"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_a_sentence(mix: str, mistake: str, tmp_path: Path) -> None:
    [line] = mistakes(tmp_path, GOOD.replace("corpus: sotu-1820", f"mix: {mix}"))
    assert mistake in line


@pytest.mark.parametrize(
    ("more", "objective"),
    [
        ("compare: {data.mix.code.weight: [1, 2]}", LOSS),  # the same validation targets
        ("compare: {data.mix.code.path: [c, d]}", OTHER),
        ("compare: {data.mix.code.field: [c, d]}", OTHER),
        ("tune: {data.mix.code.weight: {log_uniform: [0.1, 10]}}", LOSS),
    ],
)
def test_arms_are_ranked_if_they_differ_in_weights_alone(more: str, objective: Objective, tmp_path: Path) -> None:
    assert load(tmp_path, MIX + more).objective == objective


def test_arms_with_held_out_texts_are_ranked_whatever_they_are_trained_on(tmp_path: Path) -> None:
    held = MIX.replace("path: b.txt", "path: b.txt, val_path: v, test_path: t")
    compare = "compare: {data.mix.code.path: [c, d]}"
    assert load(tmp_path, held + compare).objective == OTHER
    held = held.replace("path: [c, d]", "path: [c, d], val_path: v, test_path: t")
    assert load(tmp_path, held + compare).objective == Objective(VAL_BITS_PER_BYTE)


def test_what_cannot_be_compared_or_tuned_is_named(tmp_path: Path) -> None:
    [line] = mistakes(tmp_path, MIX + "tune: {data.mix.code.path: {choice: [c, d]}}")
    assert "changes the validation text" in line
    line, _ = mistakes(tmp_path, MIX + "compare: {data.mix.poems.weight: [1, 2]}")
    assert "data.mix.poems: found none; allowed: exactly one source" in line
    [line] = mistakes(tmp_path, MIX + "compare: {data.mix.code.wieght: [1, 2]}")
    assert "data.mix.code.wieght" in line
    text = MIX.replace("weight: 2", "weight: 2.0") + "compare: {data.mix: [{a: {path: b}}, {a: {path: c}}]}"
    assert "compare.data.mix" in mistakes(tmp_path, text)[0]
    both = "compare: {data.mix.books.weight: [2, 4], data.mix.code.weight: [1, 2]}"
    [line] = mistakes(tmp_path, MIX + both)
    assert "train the same runs (only the proportions of the weights matter)" in line


def test_arms_and_settings_name_the_source(tmp_path: Path) -> None:
    spec = load(tmp_path, MIX + "compare: {data.mix.code.weight: [1, 2]}", "data.mix.books.weight=5")
    assert spec.base.data.weights == {"books": 5.0, "code": 1.0}
    assert [arm.name for arm in spec.arms()] == ["code.weight=1", "code.weight=2"]
    assert spec.run_config({"data.mix.code.weight": 2}).data.weights == {"books": 5.0, "code": 2.0}
    assert arm_name({"data.mix.code.path": "d"}) == "code.path=d"
    assert load(tmp_path, spec.to_yaml()).plain() == spec.plain()
    assert len(spec.data_configs()) == 1  # weights decide no token


def test_a_source_named_on_the_command_line_replaces_a_mixture_and_a_path_of_a_source_its_corpus() -> None:
    written = {"data": {"mix": {"b": {"corpus": "sotu", "weight": 2}}}}
    assert override(written, {"data.path": "x"}) == {"data": {"path": "x"}}
    assert override(written, {"data.mix.b.path": "x"}) == {"data": {"mix": {"b": {"path": "x", "weight": 2}}}}


def test_a_mixture_is_stored_field_by_field(tmp_path: Path) -> None:
    config = load(tmp_path, MIX).base
    flat = config.flat()
    assert {path: value for path, value in flat.items() if path.startswith("data.mix.")} == {
        "data.mix.books.path": ["b.txt"],
        "data.mix.books.weight": 2.0,
        "data.mix.code.path": ["c", "d"],
        "data.mix.code.weight": 1.0,
        "data.mix.code.field": "body",
    }
    assert RunConfig.from_flat(flat).data == config.data
    plain = config.model_dump()
    plain["data"]["mix"] = dict(reversed(plain["data"]["mix"].items()))
    assert RunConfig.model_validate(plain).digest() == config.digest()
    changed = config.model_copy(update={"data": config.data.texts})
    assert changed.digest() != config.digest()

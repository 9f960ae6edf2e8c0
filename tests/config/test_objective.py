"""What a search minimises: bits per byte where its candidates have different tokens, and never different texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.objective import LOSS, Objective, curve_value
from harness.core.metrics import VAL_BITS_PER_BYTE, VAL_LOSS, VAL_SAMPLE_BITS_PER_BYTE, VAL_SAMPLE_LOSS, Point
from specs import GOOD, load, mistakes

PLAIN = GOOD[: GOOD.index("compare:")]
BITS = Objective(VAL_BITS_PER_BYTE)


HELD_OUT = PLAIN.replace("corpus: sotu-1820", "corpus: sotu-1820, val_path: v.txt, test_path: t.txt")


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        (PLAIN, LOSS),
        (GOOD, LOSS),
        (PLAIN + "tune: {data.tokenizer: {choice: [byte, gpt2]}}", BITS),
        (PLAIN + "tune: {data.vocab: {choice: [full, corpus]}}", BITS),
        (PLAIN + "tune: {data.tokenizer: {choice: [gpt2]}}", LOSS),
        (PLAIN + "compare: {data.tokenizer: [byte, gpt2]}", BITS),
        (PLAIN + "compare: {data.vocab: [full, corpus]}", LOSS),  # the same tokens: the verdict is by their loss
        (PLAIN + "compare: {data.corpus: [sotu-1820, sotu-1790-1799]}", Objective(VAL_BITS_PER_BYTE, ranked=False)),
        (PLAIN + "compare: {data.split.val: [0.1, 0.2]}", Objective(VAL_BITS_PER_BYTE, ranked=False)),
        (PLAIN + "compare: {data.split.by: [position, documents]}", Objective(VAL_BITS_PER_BYTE, ranked=False)),
        (PLAIN + "compare: {data.separator: [blank_line, none]}", Objective(VAL_BITS_PER_BYTE, ranked=False)),
        (PLAIN + "compare: {data.field: [text, body]}", Objective(VAL_BITS_PER_BYTE, ranked=False)),
        (HELD_OUT + "compare: {data.corpus: [sotu-1820, sotu-1790-1799]}", Objective(VAL_BITS_PER_BYTE)),
        (HELD_OUT + "compare: {data.val_path: [a.txt, b.txt]}", Objective(VAL_BITS_PER_BYTE, ranked=False)),
        (
            HELD_OUT.replace("test_path: t.txt", "format: text") + "compare: {data.corpus: [sotu-1820, sotu]}",
            Objective(VAL_BITS_PER_BYTE, ranked=False),
        ),
    ],
)
def test_candidates_with_other_tokens_are_compared_by_bits_per_byte(
    text: str, objective: Objective, tmp_path: Path
) -> None:
    assert load(tmp_path, text).objective == objective


@pytest.mark.parametrize(
    "tune",
    [
        "data.corpus: {choice: [sotu-1820, sotu-1790-1799]}",
        "data.path: {choice: [a.txt, b.txt]}",
        "data.split.val: {uniform: [0.1, 0.2]}",
        "data.split.test: {choice: [0.1, 0.2]}",
        "data.split.by: {choice: [position, documents]}",
        "data.separator: {choice: [blank_line, none]}",
    ],
)
def test_candidates_with_other_validation_texts_are_refused(tune: str, tmp_path: Path) -> None:
    path = tune.partition(": ")[0]
    assert mistakes(tmp_path, PLAIN + f"tune:\n  {tune}\n") == [
        f"spec.yaml:9: tune.{path}: changes the validation text, so that its trials cannot be compared; "
        "allowed: one value, under data"
    ]


@pytest.mark.parametrize(
    "tuned", ["data.tokenizer: {choice: [byte, gpt2]}", "model.context_length: {choice: [16, 32]}"]
)
def test_a_pruner_does_not_compare_samples_of_different_windows(tuned: str, tmp_path: Path) -> None:
    text = PLAIN + f"tune: {{{tuned}}}\nstudy: {{pruner: median}}\n"
    tokens = {"train": 4000, "val": 400, "test": 400}
    path = tuned.partition(": ")[0]
    assert mistakes(tmp_path, text, "train.eval_tokens=64", tokens=tokens) == [
        "--set train.eval_tokens=64: train.eval_tokens: found 64 with study.pruner median and a tuned "
        f"{path}: each trial would be pruned by another sample of the text; allowed: null, or pruner none"
    ]
    load(tmp_path, text, "train.eval_tokens=400", tokens=tokens)  # the whole split
    load(tmp_path, text, "train.eval_tokens=64", "study.pruner=none", tokens=tokens)


@pytest.mark.parametrize("budget", ["epochs: 1", "flops: 1e+12", "seconds: 60"])
def test_a_pruner_does_not_compare_tokenizers_at_different_shares_of_a_run(budget: str, tmp_path: Path) -> None:
    text = PLAIN + "tune: {data.tokenizer: {choice: [byte, gpt2]}}\nstudy: {pruner: median}\n"
    [found] = mistakes(tmp_path, text, f"train.budget={{{budget}}}")
    assert f"study.pruner: found median with a budget in {budget.partition(':')[0]} and a tuned data.tokenizer" in found
    load(tmp_path, text, "train.budget={steps: 40}")
    load(tmp_path, text, f"train.budget={{{budget}}}", "study.pruner=none")


def test_pruning_and_curves_use_the_sample_where_there_is_one() -> None:
    whole = {VAL_LOSS: 3.0, VAL_BITS_PER_BYTE: 1.0}
    sampled = {VAL_SAMPLE_LOSS: 3.1, VAL_SAMPLE_BITS_PER_BYTE: 1.1}
    point = Point(1, 1, 0.5, 0.0, whole)
    assert [curve_value(point, metric) for metric in whole] == [3.0, 1.0]
    assert [curve_value(Point(1, 1, 0.5, 0.0, whole | sampled), metric) for metric in whole] == [3.1, 1.1]
    assert curve_value(Point(1, 1, 0.5, 0.0, {}), VAL_LOSS) is None


def test_runs_with_a_tuned_tokenizer_have_the_facts_of_their_own_data(tmp_path: Path) -> None:
    spec = load(
        tmp_path, PLAIN + "compare: {model.drop_rate: [0.0, 0.1]}\ntune: {data.tokenizer: {choice: [byte, gpt2]}}"
    )
    assert [config.tokenizer for config in spec.data_configs()] == ["byte", "gpt2"]
    assert load(tmp_path, GOOD).data_configs() == (load(tmp_path, GOOD).base.data,)

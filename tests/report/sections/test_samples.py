"""Generated texts side by side: the selected evaluations and runs, and the display of control characters."""

from __future__ import annotations

import example_sweep as example
from harness.report.sections.samples import side_by_side
from harness.tracking import Sample


def test_the_first_the_last_and_some_evaluations_between_with_one_common_seed() -> None:
    runs = example.frame(example.confirm_runs({"drop_rate=0.0": {2: 5.2, 3: 5.3}, "drop_rate=0.1": {3: 5.4, 4: 5.5}}))
    seeds = dict(zip(runs["run_id"], runs["seed"], strict=True))

    def samples_of(run_id: str) -> list[Sample]:
        return [Sample(step, 512 * step, f"seed {seeds[run_id]}, step {step}") for step in range(9)]

    moments, seed = side_by_side(example.evidence(example.record(), runs), samples_of)
    assert seed == 3
    assert [[text.text for text in moment.texts] for moment in moments] == [
        [f"seed 3, step {step}"] * 2 for step in (0, 2, 4, 6, 8)
    ]
    assert [text.place for text in moments[0].texts] == [0, 1]
    assert moments[2].when == "after 2,048 training tokens"


def test_line_breaks_in_a_row_are_counted_and_control_characters_made_visible() -> None:
    runs = example.frame(example.confirm_runs({"drop_rate=0.0": {2: 5.2}}))
    written = ["one\n\ntwo\n", "moves you of the" + "\n" * 20, "a\n\n\nb\x1b[31m"]
    evidence = example.evidence(example.record({"drop_rate=0.0": {}}), runs)
    moments, _ = side_by_side(evidence, lambda _: [Sample(n, n, text) for n, text in enumerate(written)])
    shown = [moment.texts[0].text for moment in moments]
    assert shown == ["one\n\ntwo", "moves you of the ⏎ × 20", "a ⏎ × 3\nb\\x1b[31m"]


def test_a_long_text_is_cut_and_its_length_told() -> None:
    runs = example.frame(example.confirm_runs({"drop_rate=0.0": {2: 5.2}}))
    evidence = example.evidence(example.record({"drop_rate=0.0": {}}), runs)
    [moment], _ = side_by_side(evidence, lambda _: [Sample(1, 1, "word " * 10_000)])
    text = moment.texts[0].text
    assert text == f"{('word ' * 10_000)[:20_000]}… (50,000 characters)"


def test_the_greedy_text_stands_beside_the_sampled_one_where_there_is_one() -> None:
    runs = example.frame(example.confirm_runs({"drop_rate=0.0": {2: 5.2}}))
    evidence = example.evidence(example.record({"drop_rate=0.0": {}}), runs)
    written = [Sample(0, 0, "of an older version"), Sample(1, 9, "drawn", "the the\x1b")]
    moments, _ = side_by_side(evidence, lambda _: written)
    assert [(one.texts[0].text, one.texts[0].greedy) for one in moments] == [
        ("of an older version", None),
        ("drawn", "the the\\x1b"),
    ]

"""Labels in place of the names of arms, in every frame of a sweep."""

from __future__ import annotations

import example_sweep as example
from harness.analysis.labelled import renamed_arms, with_labels


def test_every_frame_has_the_labels_and_the_numbers_stay() -> None:
    record = example.record(tune=example.TUNE)
    runs = example.frame([*example.explore_runs(), *example.confirm_runs()])
    evidence = example.evidence(record, runs, example.curves_of(runs))
    shown, labels = with_labels(evidence)
    assert shown.arms == ["drop 0.0", "drop 0.1"] and shown.record.baseline == "drop 0.1"
    assert shown.curves is not None and set(shown.curves["arm"]) == set(shown.runs["arm"]) == {*shown.arms}
    assert "drop 0.0 · seed 2" in set(shown.runs["name"])
    again = renamed_arms(shown.comparison, labels.of_arms)
    assert again.equals(evidence.comparison.astype(again.dtypes))
    assert renamed_arms(shown.runs, labels.of_arms)["name"].tolist() == evidence.runs["name"].tolist()


def test_an_arm_that_is_not_in_the_spec_is_not_taken_for_another() -> None:
    runs = example.frame([*example.confirm_runs(), example.run(9, "drop 0.1", {}, seed=2, loss=1.0)])
    shown, _ = with_labels(example.evidence(example.record(), runs))
    assert sorted(set(shown.runs["arm"])) == ["drop 0.0", "drop 0.1", "“drop 0.1”"]

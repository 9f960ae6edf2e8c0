from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from harness.tracking.records import SweepInfo
from harness.tracking.writing.views import PREFIX, links, view_tags
from stored_runs import sweep_info


def states(info: SweepInfo, **stored: str) -> dict[str, dict[str, Any]]:
    tags = view_tags(info, "abc", stored, 1000)
    return {name.removeprefix(PREFIX): json.loads(json.loads(text)["state"]) for name, text in tags.items()}


def test_views_show_the_sweeps_runs_sorted_by_validation_loss() -> None:
    found = states(sweep_info("x"))
    assert set(found) == {"harness-verdict", "harness-search", "harness-runs"}
    for state in found.values():
        assert str(state["searchFilter"]).startswith("tags.`mlflow.parentRunId` = 'abc'")
        assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/loss`", True)
    assert "`harness.phase` = 'confirm'" in str(found["harness-verdict"]["searchFilter"])
    grouped = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "harness.label"}]}
    assert found["harness-verdict"]["groupBy"] == grouped


def test_parallel_coordinates_show_the_compared_and_the_tuned_values() -> None:
    (chart,) = states(sweep_info("x"))["harness-search"]["compareRunCharts"]
    assert chart["selectedParams"] == ["model.drop_rate", "train.learning_rate"]
    assert chart["selectedMetrics"] == ["val/loss"]


def test_views_of_a_search_over_tokenizers_show_bits_per_byte() -> None:
    info = sweep_info("x")
    found = states(replace(info, tune={**info.tune, "data.tokenizer": {"choice": ["byte", "gpt2"]}}))
    bits = "metrics.`val/bits_per_byte`"
    assert {state["orderByKey"] for state in found.values()} == {bits}
    search = found["harness-search"]
    assert bits in search["selectedColumns"]
    assert search["compareRunCharts"][0]["selectedMetrics"] == ["val/bits_per_byte"]


def test_a_sweep_without_a_search_has_no_view_of_one() -> None:
    info = replace(sweep_info("x"), tune={})
    assert set(states(info)) == {"harness-verdict", "harness-runs"}
    assert [name for name, _ in links(info, "1")] == ["Verdict: confirm runs by arm", "All runs"]


def test_views_are_written_once_and_the_verdict_is_listed_first() -> None:
    info = sweep_info("x")
    tags = view_tags(info, "abc", {}, 1000)
    assert view_tags(info, "abc", tags, 2000) == {}
    changed = view_tags(info, "another parent", {**tags, PREFIX + "harness-runs": "not JSON"}, 2000)
    assert set(changed) == set(tags)
    newest = max(tags, key=lambda name: json.loads(tags[name])["createdAt"])
    assert newest == PREFIX + "harness-verdict"
    assert all(len(text) < 20_000 for text in tags.values())  # what MLflow stores in a tag of an experiment


def test_runs_of_an_older_store_are_grouped_by_the_tag_that_they_have() -> None:
    tags = view_tags(sweep_info("x"), "abc", {}, 1000, "harness.arm")
    state = json.loads(json.loads(tags[PREFIX + "harness-verdict"])["state"])
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "harness.arm"}]
    assert state["selectedColumns"][0] == "tags.`harness.arm`"

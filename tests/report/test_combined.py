from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import example_sweep as example
from browser import browser, needs_browser, show, violations
from harness.core.outcomes import Outcome, Phase
from harness.report import ReportFiles, TrackingError, write_reports
from harness.report.__main__ import app
from harness.report.combined import folder_name
from harness.tracking import SweepInfo, Tracker
from reports import Page, record_run

pytestmark = pytest.mark.slow

BIAS = {"qkv_bias=false": {"model.qkv_bias": False}, "qkv_bias=true": {"model.qkv_bias": True}}
OTHER_TEXT = {"sha256": "0badf00d" * 8, "fingerprint": "1" * 64}
OTHER_TOKENS = {"tokenizer": "byte", "fingerprint": "2" * 64, "tokens": {"train": 16332, "val": 2040, "test": 2044}}


def stored(uri: str, name: str, arms: Any, losses: dict[str, dict[int, float]], **data: Any) -> None:
    plain = example.record(arms, name=name, question=f"Does {name} <b>help</b>?")
    record = replace(plain, data={**plain.data, **data})
    tracker = Tracker(name, uri)
    parent = tracker.open_sweep(
        SweepInfo(**{field: getattr(record, field) for field in SweepInfo.__dataclass_fields__})
    )
    for arm in record.arms:
        for seed, loss in losses[arm.name].items():
            record_run(tracker, parent, arm, Phase.CONFIRM, seed, loss)
    tracker.close_sweep(parent, Outcome.COMPLETE)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with four sweeps: two with the same text, one with another text, one with another tokenizer."""
    address = f"sqlite:///{tmp_path_factory.mktemp('several')}/mlflow.db"
    stored(address, "dropout", example.ARMS, example.LOSSES)
    biased = {"qkv_bias=false": {2: 5.0, 3: 5.2}, "qkv_bias=true": {2: 5.4, 3: 5.5}}
    stored(address, "qkv_bias", BIAS, biased)
    stored(address, "elsewhere", example.ARMS, example.LOSSES, **OTHER_TEXT)
    stored(address, "bytes", example.ARMS, example.LOSSES, **OTHER_TOKENS)
    return address


@pytest.fixture(scope="module")
def files(uri: str, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of the two sweeps that can stand side by side."""
    return write_reports(["dropout", "qkv_bias"], uri, tmp_path_factory.mktemp("reports"))


def test_two_sweeps_side_by_side(files: ReportFiles) -> None:
    assert files.folder.name == "dropout+qkv_bias"
    table = files.comparison
    assert list(table["sweep"]) == ["dropout"] * 2 + ["qkv_bias"] * 2
    # Each difference is to the baseline of the arm's own sweep, the last arm of each.
    assert table.set_index("arm").loc["qkv_bias=false", "difference"] == pytest.approx(-(0.4 + 0.3) / 2)
    assert table.set_index("arm").loc["drop_rate=0.0", "difference"] == pytest.approx((0.1 + 0.3 + 0.3) / 3)
    assert [line[1] for line in files.lines[1:]] == [
        "bias off",
        "drop 0.1",
        "drop 0.0",
        "bias on",
    ]
    html = files.html.read_text("utf-8")
    page = Page(html)
    for wanted in ("Does dropout <b>help</b>?", "Does qkv_bias <b>help</b>?", "not tested against each other"):
        assert wanted in page.text
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = {link[1:] for link in page.values("href") if link.startswith("#")}
    assert links and links <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    markdown = files.markdown.read_text("utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", markdown):
        assert (files.folder / link).is_file(), link
    again = pd.read_csv(files.folder / "dropout" / "comparison.csv")
    assert list(again["arm"]) == list(example.ARMS)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["dropout", "elsewhere"], "dropout and elsewhere have different texts (aca588c1 and 0badf00d)"),
        (
            ["dropout", "bytes"],
            "dropout and bytes have different tokenizers (gpt2 and byte) and tokens of the validation split (401 and "
            "2,040)",
        ),
        (["dropout", "dropout"], "names: found dropout and dropout; allowed: two or more different sweeps"),
        (["dropout", "nope"], "found no experiment 'nope'; allowed: bytes, dropout, elsewhere, qkv_bias"),
    ],
)
def test_sweeps_that_cannot_be_compared_are_refused_with_the_reason(
    uri: str, tmp_path: Path, names: list[str], reason: str
) -> None:
    with pytest.raises(TrackingError, match=re.escape(reason)):
        write_reports(names, uri, tmp_path)
    assert not list(tmp_path.iterdir())
    done = CliRunner().invoke(app, [*names, "--tracking", uri, "--reports", str(tmp_path)])
    assert done.exit_code == 2 and reason in done.stderr


def test_the_folder_of_many_long_names_fits_into_a_file_system() -> None:
    names = [f"{'a-name-of-a-sweep-' * 3}{number}" for number in range(9)]
    assert folder_name(["a", "b"]) == "a+b"
    assert len(folder_name(names)) < 120
    assert folder_name(names) == folder_name(names)
    assert folder_name(names) != folder_name(names[::-1])  # the first sweep comes first in the report


@pytest.mark.usefixtures("no_figures")
def test_the_command_takes_several_names(uri: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dropout", "qkv_bias", "--tracking", uri, "--reports", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "dropout+qkv_bias" / "report.html").is_file() and "bias on" in done.output
    refused = CliRunner().invoke(app, ["dropout", "qkv_bias", "--sweep", "a", "--tracking", uri])
    assert refused.exit_code == 2 and "--sweep: found with 2 names" in refused.stderr


@needs_browser
def test_the_page_of_several_works_in_a_browser(files: ReportFiles) -> None:
    with browser() as driver:
        show(driver, files.html)
        assert driver.get_log("browser") == [] and violations(driver) == []
        # To hide an arm of one sweep leaves the other's alone.
        seen = "return [...document.querySelectorAll(arguments[0])].filter(n => n.getClientRects().length).length"
        before = driver.execute_script(seen, "#qkv_bias-sweep [data-arm='0']")
        driver.find_element("css selector", "#dropout-sweep .arms input").click()
        assert driver.execute_script(seen, "#dropout-sweep [data-arm='0']") == 0
        assert driver.execute_script(seen, "#qkv_bias-sweep [data-arm='0']") == before > 0

"""The report's page in a browser, on paper, on a phone, without JavaScript, and in an accessibility checker."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from browser import browser, needs_browser, show, violations
from clean_sweeps import clean_sweep
from harness.report.assemble import assemble, in_order
from harness.report.write import write_files
from harness.tracking import Sample
from reports import all_runs

ARM, BASELINE = example.LOSSES

pytestmark = [pytest.mark.slow, needs_browser]

PIECES = ["Every", " effort", " of", " the", " people", "\n", " is", " <b>", " wor", "thy"]


def passage_of(run_id: str) -> list[tuple[str, float]]:
    """Ten tokens, less likely in runs of the second arm."""
    share = 0.5 if run_id.startswith("000000") and int(run_id[:8], 16) >= 110 else 0.8
    return [(piece, share ** (place + 1)) for place, piece in enumerate(PIECES)]


def written(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Path:
    record = example.record(tune=example.TUNE, **changes)
    runs = in_order(example.frame(rows), record)
    curves = example.curves_of(runs).assign(seconds=lambda frame: frame["step"] * 0.5)
    content = assemble(
        example.evidence(record, runs, curves),
        example.samples_of,
        "python -m mlflow ui",
        passage_of=passage_of,
        patch="- old\n+ new\n",
    )
    return write_files(content, curves, folder).html


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep with pruned and diverged trials, and a confirm run that diverged halfway."""
    broken = example.run(300, ARM, {}, seed=9, outcome="diverged", reason="made up: loss is nan")
    return written(tmp_path_factory.mktemp("page"), [*all_runs(), broken], dirty=True)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as running:
        yield running


def texts(driver: Any, selector: str) -> list[str]:
    seen = "[...document.querySelectorAll(arguments[0])].filter(n => n.getClientRects().length)"
    return list(driver.execute_script(f"return {seen}.map(n => n.textContent)", selector))


def visible(driver: Any, selector: str) -> int:
    return len(texts(driver, selector))


def column(driver: Any, table: str, heading: str) -> list[str]:
    script = """
        const table = document.querySelector(arguments[0]);
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === arguments[1]);
        const rows = [...table.tBodies[0].rows].filter((row) => row.checkVisibility());
        return rows.map((row) => row.cells[at].textContent);
    """
    return list(driver.execute_script(script, table, heading))


def click(driver: Any, table: str, heading: str) -> None:
    for button in driver.find_elements("css selector", f"{table} .sort"):
        if button.text == heading:
            button.click()
            return
    raise AssertionError(f"no heading {heading}")


def test_the_page_has_no_error_and_leads_with_verdict_table_and_forest(page: Path, driver: Any) -> None:
    show(driver, page)
    assert driver.get_log("browser") == []
    order = driver.execute_script(
        "return [...document.querySelectorAll('h1, .answer, #answer table, #answer figure')].map((n) => n.localName)"
    )
    assert order == ["h1", "p", "table", "figure"]
    assert driver.find_element("css selector", "#figure-forest svg > title").get_attribute("textContent")


def test_tables_are_sorted_by_mouse_and_by_keyboard(page: Path, driver: Any) -> None:
    show(driver, page)
    table = "#runs table"
    before = column(driver, table, "Val loss")
    click(driver, table, "Val loss")
    losses = [float(loss) for loss in column(driver, table, "Val loss") if loss[0] not in "(–"]
    assert losses == sorted(losses) and len(losses) == 10
    assert all(loss[0] in "(–" for loss in column(driver, table, "Val loss")[10:])  # what has no result is last
    assert driver.find_element("css selector", f"{table} th[aria-sort]").get_attribute("aria-sort") == "ascending"
    driver.switch_to.active_element.send_keys("\ue007")  # Enter: the other way round
    losses = [float(loss) for loss in column(driver, table, "Val loss") if loss[0] not in "(–"]
    assert losses == sorted(losses, reverse=True)
    assert sorted(column(driver, table, "Val loss")) == sorted(before)


def test_rows_are_filtered_by_words(page: Path, driver: Any) -> None:
    show(driver, page)
    box = driver.find_element("css selector", "#runs .filter-box")
    box.send_keys("explore pruned")
    assert set(column(driver, "#runs table", "Outcome")) == {"pruned"}
    assert texts(driver, "#runs .found") == ["2 of 15 rows"]
    box.clear()
    box.send_keys("confirm -complete")
    assert column(driver, "#runs table", "Outcome") == ["diverged"]
    # A link to a row that was filtered away brings it back.
    driver.execute_script("location.hash = document.querySelector('#runs tbody tr.sifted').id")
    assert driver.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done(document.querySelector('tr:target').checkVisibility()), 50)"
    )


def test_arms_can_be_hidden_everywhere(page: Path, driver: Any) -> None:
    show(driver, page)
    lines, rows = visible(driver, "svg [data-arm='0']"), visible(driver, "tr[data-arm='0']")
    others = visible(driver, "[data-arm='1']")
    assert lines > 8 and rows > 8
    tick = driver.find_element("css selector", ".arms input[value='0']")
    assert texts(driver, ".arms label") == [ARM, BASELINE]
    tick.click()
    assert visible(driver, "[data-arm='0']") == 0 and visible(driver, "[data-arm='1']") == others
    tick.click()
    assert visible(driver, "svg [data-arm='0']") == lines and visible(driver, "tr[data-arm='0']") == rows


def test_curves_use_the_chosen_x_axis(page: Path, driver: Any) -> None:
    show(driver, page)
    assert texts(driver, ".views .switch label") == [" tokens", " steps", " seconds", " FLOPs"]
    labels = {"tokens": "training tokens", "steps": "optimizer steps", "seconds": "time, s", "flops": "training FLOPs"}
    for axis, label in labels.items():
        driver.find_element("css selector", f".views [value='{axis}']").click()
        assert visible(driver, ".view") == 1
        assert label in texts(driver, ".view svg text")


def test_values_are_read_off_figures_by_mouse_and_keyboard(page: Path, driver: Any) -> None:
    from selenium.webdriver import ActionChains

    show(driver, page)

    def said(name: str) -> str:
        return str(driver.find_element("css selector", f"#figure-{name} .readout").text)

    assert said("forest") == ""
    svg = driver.find_element("css selector", "#figure-loss-curves svg")
    driver.execute_script("arguments[0].focus(); arguments[0].scrollIntoView({block: 'center'})", svg)
    svg.send_keys("\ue015")  # the down arrow: the validation loss
    svg.send_keys("\ue014" * 39)
    losses = rf"{ARM} (\S+) · {BASELINE} (\S+)"
    read = re.fullmatch(rf"Validation loss at 8.1\d k training tokens: {losses}", said("loss-curves"))
    assert read is not None, said("loss-curves")
    assert [float(value) for value in read.groups()] == pytest.approx([5.4, 5.1667], abs=0.01)
    driver.execute_script("document.querySelector('.arms input').click()")
    svg.send_keys("\ue012")  # the left arrow
    assert BASELINE in said("loss-curves") and ARM not in said("loss-curves")
    dot = driver.find_elements("css selector", "#figure-final-loss use[data-read]")[2]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", dot)
    ActionChains(driver).move_to_element(dot).perform()
    assert said("final-loss") == f"{BASELINE}, seed 4: 5.300"


def test_a_token_shows_its_probability_under_both_arms(page: Path, driver: Any) -> None:
    from selenium.webdriver import ActionChains

    show(driver, page)
    token = driver.find_elements("css selector", ".tokens span")[1]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
    ActionChains(driver).move_to_element(token).perform()
    said = driver.find_element("css selector", ".reading").text
    # The second token: 0.8² under the first arm, 0.5² under the second.
    assert f"{BASELINE}: “ effort” probability 0.25, loss 1.39" in said
    assert f"{ARM}: “ effort” probability 0.64, loss 0.45" in said
    assert driver.execute_script("return document.querySelectorAll('.tokens .at').length") == 2
    group = driver.find_element("css selector", ".tokens")
    driver.execute_script("arguments[0].focus()", group)
    group.send_keys("\ue014")  # the right arrow
    group.send_keys("\ue010")  # End
    assert "“thy” probability 9.8e-4, loss 6.93" in driver.find_element("css selector", ".reading").text
    script = "return [...document.querySelectorAll('.tokens')[0].children].map((node) => node.className)"
    levels = driver.execute_script(script)
    losses = [-math.log(chance) for _, chance in passage_of("0000006f")]
    assert [int(level.split()[0][1:]) for level in levels] == [
        sum(loss >= end for end in (0.5, 1, 2, 3, 5, 8)) for loss in losses
    ]


def test_any_two_arms_can_be_chosen_for_the_passage(tmp_path: Path, driver: Any) -> None:
    from selenium.webdriver.support.ui import Select

    arms = {f"drop_rate=0.{tenth}": {"model.drop_rate": tenth / 10} for tenth in range(3)}
    losses = {"drop_rate=0.0": {2: 5.2, 3: 5.3}, "drop_rate=0.1": {2: 5.3, 3: 5.4}, "drop_rate=0.2": {2: 5.9, 3: 6.0}}
    rows = example.confirm_runs(losses)
    chances = {row["run_id"]: 0.9 - 0.2 * list(arms).index(row["arm"]) for row in rows}
    record = replace(example.record(arms), baseline="drop_rate=0.0")
    runs = in_order(example.frame(rows), record)
    curves = example.curves_of(runs)
    content = assemble(
        example.evidence(record, runs, curves),
        example.samples_of,
        "mlflow ui",
        passage_of=lambda run: [("one", chances[run])],
    )
    files = write_files(content, curves, tmp_path)
    show(driver, files.html)

    def heads() -> list[str]:
        return [text.split()[0] for text in texts(driver, ".passage .title")]

    assert heads() == ["drop_rate=0.0", "drop_rate=0.2"]  # the baseline, and what lies furthest from it
    first, second = (Select(box) for box in driver.find_elements("css selector", "section[id$=passage] select"))
    first.select_by_visible_text("drop_rate=0.2")
    second.select_by_visible_text("drop_rate=0.1")
    assert heads() == ["drop_rate=0.2", "drop_rate=0.1"]
    driver.execute_script("arguments[0].focus()", driver.find_element("css selector", ".tokens"))
    said = driver.find_element("css selector", ".reading").text
    assert said.startswith("drop_rate=0.2: “one” probability 0.50") and "drop_rate=0.1: “one” probability 0.70" in said
    assert "drop_rate=0.0" not in said
    first.select_by_visible_text("drop_rate=0.1")
    assert heads() == ["drop_rate=0.1"]
    assert driver.get_log("browser") == [] and violations(driver) == []
    plain = files.markdown.read_text("utf-8").replace("\\", "")
    assert "Tokens on which drop_rate=0.0 and drop_rate=0.2 differ most" in plain


def test_any_two_runs_can_be_compared(page: Path, driver: Any) -> None:
    from selenium.webdriver.support.ui import Select

    show(driver, page)
    first, second = (Select(box) for box in driver.find_elements("css selector", ".pair select"))
    first.select_by_index(0)
    second.select_by_index(1)
    rows = {row.split("\n")[0]: row for row in texts(driver, ".pair tbody th")}
    assert "train.learning_rate" in rows and "val/loss" in rows and "model.drop_rate" not in rows
    second.select_by_index(0)
    assert "the same parameters" in driver.find_element("css selector", ".pair").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_checker_finds_no_serious_fault(page: Path, driver: Any, scheme: str, width: int) -> None:
    show(driver, page, width, scheme)
    assert violations(driver) == []


def test_the_checker_can_find_faults(page: Path, driver: Any, tmp_path: Path) -> None:
    bad = page.read_text("utf-8").replace("--quiet: #5c5c58", "--quiet: #cccccc").replace('<html lang="en">', "<html>")
    (tmp_path / "bad.html").write_text(bad, "utf-8")
    show(driver, tmp_path / "bad.html")
    found = "".join(violations(driver))
    assert "color-contrast" in found and "html-has-lang" in found


def test_a_phone_scrolls_boxes_and_not_the_page(page: Path, driver: Any) -> None:
    show(driver, page, 390)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    wide = driver.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(n => n.scrollWidth > n.clientWidth + 1)"
    )
    assert wide and all(box.get_attribute("tabindex") == "0" for box in wide)


def test_on_a_phone_each_arm_is_a_card_with_its_verdict_in_view(page: Path, driver: Any) -> None:
    show(driver, page, 390)
    script = """
        return [...document.querySelectorAll('#answer table td')].map((cell) => {
          const box = cell.getBoundingClientRect();
          return [cell.dataset.label, getComputedStyle(cell, '::before').content, box.left, box.right];
        });
    """
    cells = driver.execute_script(script)
    assert {"Verdict", "Δ to baseline", "Val loss"} <= {label for label, *_ in cells}
    assert all(content == f'"{label}"' and 0 < left < right <= 390 for label, content, left, right in cells)
    show(driver, page)
    assert {content for _, content, *_ in driver.execute_script(script)} == {"none"}


def cut(driver: Any) -> list[str]:
    """Elements that are wider than their container."""
    script = """
        const wide = document.documentElement.clientWidth;
        return [...document.querySelectorAll('table, pre, svg, .scroll')]
          .filter((node) => node.checkVisibility())
          .filter((node) => node.getBoundingClientRect().right > wide + 1 ||
             (getComputedStyle(node).overflowX !== 'visible' && node.scrollWidth > node.clientWidth + 1))
          .map((node) => node.outerHTML.slice(0, 80));
    """
    return list(driver.execute_script(script))


def test_nothing_is_cut_or_hidden_on_paper(page: Path, driver: Any) -> None:
    paper = round((210 - 2 * 14) / 25.4 * 96)  # A4 less its margins, in CSS pixels
    show(driver, page, paper, "dark", "print")
    assert cut(driver) == []
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    driver.execute_script("document.querySelector('.arms input').click()")
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert visible(driver, "details:not([open])") == 0 and visible(driver, "details pre") == 2
    assert visible(driver, "tr[data-arm='0']") > 8  # paper has all arms
    assert visible(driver, ".filter-box") == visible(driver, ".switch") == 0
    printed = driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    show(driver, page, paper)
    assert cut(driver) != []  # the same tables on a screen of this width: so the list above can fail


def test_without_javascript_everything_can_be_read(page: Path) -> None:
    with browser(javascript=False) as plain:
        show(plain, page)
        text = plain.find_element("css selector", "body").text
        for wanted in ("made up: diverged", "is undecided", "sha256", "model.drop_rate", "to duty"):
            assert wanted in text
        assert not plain.find_elements("css selector", ".sort, .arms, .filter-box")
        tokens = plain.find_elements("css selector", ".tokens span")
        assert "probability 0.25" in tokens[1].get_attribute("title")
        plain.find_element("css selector", ".views [value='steps']").click()
        shown = [
            box.get_attribute("data-axis") for box in plain.find_elements("css selector", ".view") if box.is_displayed()
        ]
        assert shown == ["steps"]


def test_fifty_runs_with_many_points_stay_small(tmp_path: Path, driver: Any) -> None:
    record, runs = clean_sweep(3, arms=5, seeds=10, dimensions=0, factor="model.drop_rate", mishaps=False)
    assert len(runs) == 50
    rows = []
    generator = np.random.default_rng(1)
    for one in runs.to_dict("records"):
        facts = {name: one[name] for name in ("run_id", "arm", "phase", "seed", "outcome")}
        for step in range(200):
            for metric in ("val/loss", "train/loss"):
                value = one["val/loss"] + 5 * math.exp(-step / 20) + generator.normal(0, 0.01)
                spot = {"step": step, "tokens": 512 * step, "seconds": 0.5 * step, "metric": metric, "value": value}
                rows.append({**facts, **spot})
    curves = pd.DataFrame(rows)
    content = assemble(
        example.evidence(record, runs, curves),
        example.samples_of,
        "python -m mlflow ui",
        passage_of=lambda _: [("a", 0.5)] * 200,
    )
    html = write_files(content, curves, tmp_path).html
    assert html.stat().st_size < 3_000_000
    show(driver, html)
    assert driver.get_log("browser") == [] and visible(driver, "#runs tbody tr") == 50
    assert violations(driver) == []


def test_a_figure_fills_the_window_and_is_zoomed_by_keyboard_and_mouse(page: Path, driver: Any) -> None:
    show(driver, page)
    box = "return document.querySelector('#figure-forest svg').getAttribute('viewBox').split(' ').map(Number)"
    whole = driver.execute_script(box)

    def press(keys: str) -> list[float]:
        driver.switch_to.active_element.send_keys(keys)
        return list(driver.execute_script(box))

    driver.execute_script("document.querySelector('#figure-forest .enlarge').focus()")
    assert press("\ue007") == whole  # Enter
    width = "return document.querySelector('dialog[open] svg').getBoundingClientRect().width"
    assert driver.execute_script(width) > 0.9 * 1280
    assert violations(driver) == []
    larger = press("+")
    assert larger[2:] == pytest.approx([length / 1.5 for length in whole[2:]])
    assert larger[0] + larger[2] / 2 == pytest.approx(whole[0] + whole[2] / 2)  # about the middle
    assert press("\ue014")[0] == pytest.approx(larger[0] + larger[2] / 8)  # arrow to the right
    assert press("\ue014" * 20)[0] == pytest.approx(whole[2] - larger[2])  # no further than its edge
    assert press("0") == whole == press("-")
    driver.execute_script(
        "const stage = document.querySelector('dialog .stage'), box = stage.getBoundingClientRect();"
        "const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};"
        "stage.dispatchEvent(new WheelEvent('wheel', {...at, deltaY: -200, cancelable: true}))"
    )
    assert driver.execute_script(box)[2] == pytest.approx(whole[2] * math.exp(-0.5))
    assert press("\ue00c") == whole  # Esc
    assert visible(driver, "dialog") == 0 and visible(driver, "#figure-forest .scroll svg") == 1
    assert driver.switch_to.active_element.text == "Enlarge"
    assert driver.get_log("browser") == []


def test_markup_in_names_is_escaped_on_the_page(tmp_path: Path, driver: Any) -> None:
    evil = '"><img src=x onerror="document.title=`owned`"><script>document.title="owned"</script>'
    arms = {f"a{evil}": {"model.drop_rate": 0.0}, f"b{evil}": {"model.drop_rate": 0.1}}
    rows = example.confirm_runs({name: {2: 5.2, 3: 5.3} for name in arms})
    record = replace(example.record(arms), question=evil, baseline=f"b{evil}")
    runs = in_order(example.frame(rows), record)
    curves = example.curves_of(runs)
    content = assemble(
        example.evidence(record, runs, curves),
        lambda _: [Sample(0, 0, evil, evil)],
        evil,
        passage_of=lambda _: [(evil, 0.5)],
        patch=evil,
    )
    html = write_files(content, curves, tmp_path).html
    show(driver, html)
    assert driver.title == evil and driver.get_log("browser") == []
    assert driver.execute_script("return document.images.length + document.scripts.length") == 1
    driver.execute_script("document.querySelector('.tokens').focus()")
    for box in driver.find_elements("css selector", ".arms input"):
        box.click()
    assert driver.title == evil and driver.execute_script("return document.images.length") == 0
    assert json.dumps(evil)[1:-1] not in html.read_text("utf-8")

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import escape
from mlflow import MlflowClient
from typer.testing import CliRunner

import example_sweep as example
from browser import CHROMIUM
from harness.core.errors import SpecError
from harness.core.outcomes import Outcome, Phase
from harness.report import ReportFiles, TrackingError, compare, load_curves, load_runs, write_report
from harness.report.__main__ import app
from harness.report.assemble import in_order
from harness.report.warnings.collect import fixed_settings
from harness.report.write import without_formulas
from harness.tracking import Sample, SweepInfo, Tracker, load_sweep, schema
from paths import ROOT, SUPPORT
from reports import Page, all_runs, record_run, report
from specs import GOOD, load

pytestmark = pytest.mark.slow

ARM, BASELINE = example.LOSSES


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of the example sweep, read-only."""
    return report(tmp_path_factory.mktemp("standard"), all_runs(), example.record(tune=example.TUNE))


def test_page_contains_everything(standard: ReportFiles) -> None:
    page = Page(standard.html.read_text("utf-8"))
    for wanted in (
        "Does dropout help a small GPT",
        f"{ARM} is undecided: its validation loss is 0.233 nats per token higher than that of {BASELINE}",
        "Evidence for the verdicts",
        "lies between −0.02 and 0.02",
        "about 2.0 % of perplexity",
        "5.400 ± 0.497",
        "Perplexity is the exponential of the mean validation loss",
        "made up: diverged",
        "Every effort moves you to duty",
        "python -m harness.sweep experiments/dropout.yaml",
        "aca588c1" * 8,
        "db73c1e0" * 5,
        "compare: {model.drop_rate: [0.0, 0.1]}",
        "python 3.11.9, torch 2.13.0",
    ):
        assert wanted in page.text, wanted
    assert page.text.count("middle, greedy") == 2  # three evaluations of a run of each arm
    assert page.text.count("middle") == 4
    # The forest plot, curves over tokens, steps and FLOPs, all seeds, three of the search, and the timeline.
    assert len([tag for tag, _ in page.tags if tag == "figure"]) == 9
    markdown = standard.markdown.read_text("utf-8")
    assert "5.400 ± 0.497" in markdown and "made up: diverged" in markdown
    for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown):
        assert (standard.folder / link).is_file()
    assert markdown.count("![") == 7 and markdown.count("](figures/") == 9  # two more ways to draw the curves


def test_every_linked_run_is_listed(standard: ReportFiles) -> None:
    page = Page(standard.html.read_text("utf-8"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(ids)
    links = [link for link in page.values("href") if link.startswith("#run-")]
    # The answer's runs, the evidence's, the best trials, the search, confirm runs and all runs by cost, the samples.
    assert len(links) == 6 + 3 + 2 + 8 + 6 + 14 + 3 * 2
    assert {link[1:] for link in links} <= set(ids)


def test_page_loads_nothing_from_outside(standard: ReportFiles) -> None:
    html = standard.html.read_text("utf-8")
    page = Page(html)
    assert all(link.startswith(("#", "data:")) for name in ("href", "xlink:href", "src") for link in page.values(name))
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_markup_in_text_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>"
    evil += " | `` ```\n# [x](javascript:y) $z$ \\input"
    arms = {f"drop_rate=0.0 {evil}": {"model.drop_rate": 0.0}, BASELINE: {"model.drop_rate": 0.1}}
    rows = example.confirm_runs({name: {2: 5.2, 3: 5.3} for name in arms})
    rows.append(example.run(9, BASELINE, {}, seed=8, outcome="failed", reason=evil))
    rows[0]["train.sample.prompt"] = evil
    record = example.record(arms, question=evil, command=evil, spec_text=evil, versions={evil: evil})
    files = report(tmp_path, rows, record, lambda _: [Sample(0, 0, evil, evil), Sample(1, 512, f"{evil}\x1b[31m")])
    assert not any("\x1b" in file.read_text("utf-8") for file in (files.html, files.markdown))
    page = Page(files.html.read_text("utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1 and "img" not in names
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    # In Markdown, nothing hostile outside code blocks is left unescaped, and no block is left early.
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", files.markdown.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "<img" not in outside
    assert "javascript" in outside and not re.search(r"(?<!\\)\]\(javascript", outside)
    for table in re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE):  # a name may not open another cell
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    tex = [line for line in (tmp_path / "comparison.tex").read_text("utf-8").splitlines() if line[0] != "%"]
    assert len(tex) == 8 and not any(r"\input" in line for line in tex)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_runs_give_the_same_bytes_in_any_order(standard: ReportFiles, tmp_path: Path) -> None:
    first = contents(standard.folder)
    assert sorted(first) == [
        ".report.json",
        "comparison.csv",
        "comparison.tex",
        "curves.csv",
        "figures/final-loss.svg",
        "figures/forest.svg",
        "figures/loss-curves-flops.svg",
        "figures/loss-curves-steps.svg",
        "figures/loss-curves.svg",
        "figures/search-luck.svg",
        "figures/timeline.svg",
        "figures/trial-curves.svg",
        "figures/tuning.svg",
        "report.html",
        "report.md",
        "runs.csv",
        "tables/answer.csv",
        "tables/budget-1.csv",
        "tables/budget-2.csv",
        "tables/differences.csv",
        "tables/evidence.csv",
        "tables/search-1.csv",
        "tables/search-2.csv",
        "tables/trials.csv",
    ]
    report(tmp_path / "b", all_runs()[::-1], example.record(tune=example.TUNE))
    assert contents(tmp_path / "b") == first
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import reports as t; from pathlib import Path;"
        "t.report(Path(sys.argv[1]), t.all_runs(), t.example.record(tune=t.example.TUNE))"
    )
    paths = [str(SUPPORT), str(ROOT)]
    command = [sys.executable, "-c", code, str(tmp_path / "c"), *paths]
    subprocess.run(command, check=True, timeout=120, env={"PYTHONHASHSEED": "11", "TZ": "Asia/Tokyo"})
    assert contents(tmp_path / "c") == first


FORMULAS = [
    "=1+1",
    "@SUM(A1)",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    " =A1",
    "\t=A1",
    "\uff1d1+1",
    "\uff0b1+A1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    assert list(without_formulas(pd.DataFrame({text: [1.0]})).columns) == [f"'{text}"]
    frame = pd.DataFrame({"name": [text, "plain", "-"], "value": [-1.0, 2.0, 3.0]})
    assert list(without_formulas(frame)["name"]) == [f"'{text}", "plain", "-"]
    assert list(without_formulas(frame)["value"]) == [-1.0, 2.0, 3.0]


@pytest.mark.parametrize("text", ["+0.140 ± 0.052", "-0.1", "−3", "a=b", "drop_rate=0.1", "–"])
def test_numbers_and_other_texts_of_a_csv_stay(text: str) -> None:
    assert list(without_formulas(pd.DataFrame({"name": [text]}))["name"]) == [text]


def test_an_old_figure_is_removed(tmp_path: Path) -> None:
    report(tmp_path, all_runs(), example.record(tune=example.TUNE))
    report(tmp_path, example.confirm_runs(), example.record())
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"forest.svg", "loss-curves.svg"} <= left and not {"tuning.svg", "trial-curves.svg"} & left
    assert not list((tmp_path / "tables").glob("search*"))


def test_written_frames_can_be_read_again(standard: ReportFiles) -> None:
    runs = pd.read_csv(standard.folder / "runs.csv").assign(reason="")
    assert len(runs) == 14
    again = compare(runs, BASELINE)
    for table in (again, pd.read_csv(standard.folder / "comparison.csv")):
        pd.testing.assert_frame_equal(table, standard.comparison, check_dtype=False, check_frame_type=False)
    curves = example.curves_of(in_order(example.frame(all_runs()), example.record(tune=example.TUNE)))
    written = pd.read_csv(standard.folder / "curves.csv")
    pd.testing.assert_frame_equal(written, curves, check_dtype=False, rtol=1e-14)


@pytest.mark.usefixtures("no_figures")
def test_verdicts_use_the_delta_of_the_spec(tmp_path: Path) -> None:
    rows = example.confirm_runs({ARM: {2: 5.200, 3: 5.402, 4: 5.599}, BASELINE: {2: 5.201, 3: 5.4, 4: 5.6}})
    study = {"sampler": "tpe", "pruner": "none", "trials": 0, "seeds": 3}
    said = {}
    for delta in (0.02, 0.001, None):  # a sweep that was stored before there was a delta has none
        record = example.record(study={**study, "delta": delta} if delta else study)
        files = report(tmp_path, rows, record)
        said[delta] = next(line[1] for line in files.lines[1:] if line[1] != "baseline")
        assert said[delta] in files.markdown.read_text("utf-8") and said[delta] in files.html.read_text("utf-8")
        assert said[delta] in (tmp_path / "comparison.tex").read_text("utf-8")
        assert f"Seeds for {delta or 0.02}" in files.markdown.read_text("utf-8")
    assert said == {
        0.02: "no difference larger than 0.02",
        0.001: "undecided",
        None: "no difference larger than 0.02",
    }
    assert pd.read_csv(tmp_path / "comparison.csv")["verdict"][0] == "no difference larger than δ"


def test_delta_is_checked_and_is_not_part_of_the_identity_of_a_sweep(tmp_path: Path) -> None:
    sweeps = {delta: load(tmp_path, GOOD.replace("seeds: 3}", f"seeds: 3, delta: {delta}}}")) for delta in (0.02, 0.5)}
    assert [spec.study.delta for spec in sweeps.values()] == [0.02, 0.5]
    assert len({spec.identity("data") for spec in [*sweeps.values(), load(tmp_path, GOOD)]}) == 1
    assert load(tmp_path, GOOD).study.delta == 0.02 and load(tmp_path, GOOD).plain()["study"]["delta"] == 0.02
    for wrong in ("0", "-0.1", ".inf", "big"):
        with pytest.raises(SpecError, match=r"study\.delta: found"):
            load(tmp_path, GOOD.replace("seeds: 3}", f"seeds: 3, delta: {wrong}}}"))


@pytest.mark.usefixtures("no_figures")
def test_without_a_result_nothing_is_ranked(tmp_path: Path) -> None:
    files = report(tmp_path, example.explore_runs(), example.record(tune=example.TUNE))
    page = Page(files.html.read_text("utf-8"))
    assert "nothing is ranked" in page.text and "Δ to baseline" not in page.text
    failed = [example.run(1, ARM, {}, outcome="failed", reason="disk"), example.run(2, BASELINE, {}, outcome=None)]
    bare = Page(report(tmp_path / "bare", failed, example.record()).html.read_text("utf-8"))
    assert "nothing is ranked" in bare.text and "disk" in bare.text and "1 run had not ended" in bare.text


@pytest.mark.usefixtures("no_figures")
def test_without_a_question_the_name_is_the_title(tmp_path: Path) -> None:
    record = replace(example.record(), question="")
    page = Page(report(tmp_path, example.confirm_runs(), record).html.read_text("utf-8"))
    assert "<h1>dropout</h1>" in (tmp_path / "report.html").read_text("utf-8") and "experiment dropout" in page.text


def test_serious_warnings_are_below_the_answer_and_first_in_the_list(standard: ReportFiles, tmp_path: Path) -> None:
    # The example has pruned and diverged trials and three pairs: enough to be warned of.
    assert standard.warnings
    said = "1 warning" if len(standard.warnings) == 1 else f"{len(standard.warnings)} warnings"
    page, markdown = Page(standard.html.read_text("utf-8")), standard.markdown.read_text("utf-8")
    assert f"{said} may change this conclusion" in page.text and f"**{said}** may change" in markdown
    for warning in standard.warnings:
        assert warning in page.text
    listed = [line for line in markdown.splitlines() if line.startswith("- **Warning:**")]
    assert len(listed) == len(standard.warnings)
    # Three seeds that differ little leave nothing to warn of.
    close = {ARM: {2: 5.200, 3: 5.402, 4: 5.599}, BASELINE: {2: 5.201, 3: 5.4, 4: 5.6}}
    clean = report(tmp_path, example.confirm_runs(close), example.record())
    assert not clean.warnings and "may change this conclusion" not in clean.html.read_text("utf-8")


def test_fixed_settings_are_equal_in_all_runs() -> None:
    fixed = dict(fixed_settings(example.frame(all_runs())))
    assert (
        fixed["model.emb_dim"] == "64" and fixed["model.qkv_bias"] == "false" and fixed["train.budget.tokens"] == "8192"
    )
    assert not {"model.drop_rate", "train.learning_rate", "train.seed"} & fixed.keys()


# the real store ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a sweep `dropout` of two arms: an explore trial and two confirm runs each, and one failure."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    tracker = Tracker("dropout", uri)
    described = example.record(tune=example.TUNE)
    names = list(SweepInfo.__dataclass_fields__)
    parent = tracker.open_sweep(SweepInfo(**{name: getattr(described, name) for name in names}))
    for arm in described.arms:
        record_run(tracker, parent, arm, Phase.EXPLORE, 1, 5.5)
        for seed in (2, 3):
            record_run(tracker, parent, arm, Phase.CONFIRM, seed, example.LOSSES[arm.name][seed])
    record_run(tracker, parent, described.arms[0], Phase.EXPLORE, 1, 9.0, Outcome.FAILED)
    tracker.close_sweep(parent, Outcome.FAILED)
    empty = Tracker("empty", uri)
    empty.close_sweep(
        empty.open_sweep(SweepInfo(**{**{name: getattr(described, name) for name in names}, "name": "empty"})),
        Outcome.INTERRUPTED,
    )
    return uri


@pytest.mark.usefixtures("no_figures")
def test_report_of_a_stored_sweep(store: str, tmp_path: Path) -> None:
    files = write_report("dropout", store, tmp_path)
    assert files.folder == tmp_path / "dropout" and files.html.is_file() and files.markdown.is_file()
    row = files.comparison.set_index("arm").loc[ARM]
    assert row["seeds"] == row["pairs"] == 2
    assert row["difference"] == pytest.approx((0.1 + 0.3) / 2)
    assert row["test_mean"] == pytest.approx(5.55)
    page = Page(files.html.read_text("utf-8"))
    assert "after 16 steps" in page.text and "ValueError: made up" in page.text and store in page.text
    best = next(line for line in files.markdown.read_text("utf-8").splitlines() if "5.5000 | 0 | yes" in line)
    assert "1e-3" in best
    before = contents(tmp_path)
    write_report("dropout", store, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("no_figures")
def test_a_report_shows_uncommitted_changes_only_on_demand(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    run_id = load_sweep("dropout", store).run_id
    before = client.get_run(run_id).data.tags[schema.DIRTY]
    client.set_tag(run_id, schema.DIRTY, "true")
    client.log_text(run_id, "+marker of a private change\n", schema.PATCH_FILE)
    for patch, times in ((False, 0), (True, 1)):
        files = write_report("dropout", store, tmp_path, patch=patch)
        for path in (files.html, files.markdown):
            assert path.read_text("utf-8").count("marker of a private change") == times
    client.set_tag(run_id, schema.DIRTY, before)


def test_notebook_frames(store: str) -> None:
    runs, curves = load_runs("dropout", store), load_curves("dropout", store)
    assert compare(runs, BASELINE).set_index("arm").loc[ARM, "mean"] == pytest.approx(5.3)
    assert set(curves["metric"]) >= {"val/loss", "train/loss"}


def test_sweeps_that_cannot_be_reported(store: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="found no experiment 'dropot'"):
        write_report("dropot", store, tmp_path)
    with pytest.raises(TrackingError, match="has no run with a loss yet"):
        write_report("empty", store, tmp_path)
    with pytest.raises(TrackingError, match=r"experiment: found '\.\./x'; allowed: letters"):
        write_report("../x", store, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_figures")
def test_command(store: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dropout", "--tracking", store, "--reports", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "5.300 ± 1.271" in done.output and str(tmp_path / "dropout" / "report.html") in done.output
    unknown = CliRunner().invoke(app, ["dropot", "--tracking", store, "--reports", str(tmp_path)])
    assert unknown.exit_code == 2
    assert unknown.stderr.strip() == "found no experiment 'dropot'; allowed: dropout, empty"
    assert CliRunner().invoke(app, ["dropout", "--tracking", store, "--sweep", "nope"]).exit_code == 2


def test_the_command_starts_without_heavy_libraries() -> None:
    heavy = "{'torch', 'mlflow', 'optuna', 'matplotlib', 'pandas', 'scipy'}"
    code = f"import sys, harness.report.__main__; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    code = (
        "import sys, harness.report.write, harness.report.figures.axes; print({'torch', 'mlflow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# a real browser ------------------------------------------------------------------------------------------------

browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the page is not rendered")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder under every host name, and records the host and path of each request."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        owner = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def log_message(self, format: str, *arguments: Any) -> None:
                owner.asked.append((self.headers["Host"], self.path)) if hasattr(self, "headers") else None

        super().__init__(("127.0.0.1", 0), Handler)

    def of_the_page(self) -> list[tuple[str, str]]:
        """Requests, except those that the browser makes for itself."""
        return [(host, path) for host, path in self.asked if not re.search(r"google(apis)?\.com(:|$)", host)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def rendered(server: Server, name: str, profile: Path) -> str:
    """The document after loading in the browser, in which every host name resolves to `server`."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags.append(f"--user-data-dir={profile}")
    rules = f"--host-resolver-rules=MAP * 127.0.0.1:{server.server_port}"
    url = f"http://page.example/{name}"
    done = subprocess.run([CHROMIUM, *flags, rules, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@browser
def test_the_browser_shows_the_page_and_requests_nothing_else(server: Server, tmp_path: Path) -> None:
    evil = '<img src="http://evil.example/a.png">'
    record = example.record(tune=example.TUNE, question=f"Does {evil} help?")
    files = report(tmp_path, all_runs(), record, lambda _: [Sample(0, 0, evil, evil)])
    dom = Page(rendered(server, "report.html", tmp_path / "profile"))
    assert f"Does {evil} help?" in dom.text and "5.400 ± 0.497" in dom.text
    assert [tag for tag, _ in dom.tags].count("svg") == 9
    assert server.of_the_page() == [("page.example", "/report.html")]
    # The same question left unescaped would be seen, so the line above can fail.
    careless = (
        files.html.read_text("utf-8").replace(str(escape(evil)), evil).replace("default-src 'none'; img-src data:;", "")
    )
    (tmp_path / "careless.html").write_text(careless, "utf-8")
    rendered(server, "careless.html", tmp_path / "profile")
    assert any(host == "evil.example" for host, _ in server.of_the_page())

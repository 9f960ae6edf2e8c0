"""MLflow's own pages over a finished sweep, in a real browser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mlflow import MlflowClient

from browser import browser, needs_browser
from in_process import call
from sandbox import SPEC, Sandbox
from stored_runs import experiment_of

pytestmark = [pytest.mark.slow, needs_browser]

PATIENCE = 120.0  # seconds for a page to show something, on a busy machine


class Pages:
    """A browser on the pages of a store with one sweep."""

    def __init__(self, driver: Any, address: str, client: MlflowClient) -> None:
        self.driver, self.address = driver, address
        self.experiment = experiment_of(client, "tiny")
        runs = client.search_runs([self.experiment.experiment_id])
        self.parent = next(run for run in runs if run.data.tags["harness.role"] == "sweep")
        self.children = [run for run in runs if run is not self.parent]
        self.confirm = next(run for run in self.children if run.data.tags["harness.phase"] == "confirm")

    def open(self, path: str) -> None:
        self.driver.get("about:blank")  # otherwise only the fragment changes, and the page does not reload
        self.driver.get(f"{self.address}/{path}")

    def open_run(self, run: Any, rest: str = "") -> None:
        self.open(f"#/experiments/{self.experiment.experiment_id}/runs/{run.info.run_id}{rest}")

    def until(self, found: Callable[[], Any]) -> Any:
        """The first true value; elements that are missing or were just replaced are looked up again."""
        from selenium.common.exceptions import WebDriverException

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if value := found():
                    return value
            except WebDriverException:
                if time.monotonic() > deadline:
                    raise
            assert time.monotonic() < deadline, self.text[:2000]
            time.sleep(0.3)

    @property
    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def shows(self, *texts: str) -> None:
        self.until(lambda: all(text in self.text for text in texts))

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def links(self) -> dict[str, str]:
        script = "return [...document.querySelectorAll('a')].map(one => [one.innerText.trim(), one.href])"
        return dict(self.driver.execute_script(script))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    sandbox = Sandbox(tmp_path_factory.mktemp("pages"), SPEC)
    done = call(sandbox, "tiny.yaml", figures=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{sandbox.folder / 'mlruns' / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    silent = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment = {**os.environ, **silent, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else 7 more processes
    log = (sandbox.folder / "ui.log").open("w")
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        cwd=sandbox.folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(address):
            assert server.poll() is None and time.monotonic() < deadline, (sandbox.folder / "ui.log").read_text()
            time.sleep(0.3)
        with browser() as driver:
            driver.set_window_size(2400, 1200)  # the table omits columns that do not fit
            yield Pages(driver, address, MlflowClient(tracking_uri=uri))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        log.close()


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except OSError:
        return False


def test_the_sweeps_page_shows_its_question_its_answer_and_its_links(pages: Pages) -> None:
    pages.open_run(pages.parent)
    answer = pages.parent.data.tags["harness.answer"]
    assert "nats" in answer
    pages.shows("Does dropout help a tiny GPT?", answer[:60], "python -m harness.report tiny")
    links = pages.links()
    assert links["Report"].endswith("/artifactPath/report/report.html")
    assert {"Verdict: confirm runs by arm", "Search: tuned values", "All runs"} <= set(links)
    pages.shows(pages.children[0].info.run_name[:30])  # among its child runs


def test_the_table_nests_the_runs_under_their_sweep(pages: Pages) -> None:
    pages.open(f"#/experiments/{pages.experiment.experiment_id}/runs?workflowType=machine_learning")
    pages.shows("9 matching runs")
    expander = "[data-testid='expander-button'], .ag-cell button[role='switch'], .ag-row button"
    pages.until(lambda: pages.all(expander))[0].click()
    pages.until(lambda: sum(run.info.run_name in pages.text for run in pages.children) >= 8)


def test_the_report_opens_inside_the_artifacts(pages: Pages) -> None:
    pages.open_run(pages.parent, "/artifactPath/report/report.html")
    frame = pages.until(lambda: pages.all("iframe"))[0]
    pages.driver.switch_to.frame(frame)
    try:
        assert pages.until(lambda: pages.all("h1"))[0].text == "Does dropout help a tiny GPT?"
        assert pages.until(lambda: pages.all("svg, img"))
    finally:
        pages.driver.switch_to.default_content()


def test_a_runs_samples_and_loss_curve_are_shown_inline(pages: Pages) -> None:
    pages.open_run(pages.confirm, "/artifactPath/samples.md")
    pages.shows("Samples of drop_rate=", "Every effort moves you")
    pages.open_run(pages.confirm, "/artifactPath/loss_curve.svg")
    wide = "return [...document.querySelectorAll('img, canvas, svg')].some(one => one.clientWidth > 200)"
    pages.until(lambda: pages.driver.execute_script(wide))


def test_the_saved_views_draw_the_arms_and_the_tuned_values(pages: Pages) -> None:
    links = {}
    pages.open_run(pages.parent)
    pages.until(lambda: links.update(pages.links()) or "All runs" in links)
    pages.driver.get("about:blank")
    pages.driver.get(links["Verdict: confirm runs by arm"])
    pages.shows("Verdict: confirm runs by arm", "4 matching runs", "A2 · drop 0.2 (val/loss)")
    sections = [line for line in pages.text.splitlines() if line.split(" (")[0] in ("val", "train", "optim")]
    assert [line.split(" (")[0] for line in sections][:2] == ["val", "train"]  # losses first
    pages.until(lambda: pages.all(".js-plotly-plot .scatterlayer .trace"))
    pages.driver.get("about:blank")
    pages.driver.get(links["Search: tuned values"])
    pages.shows("Tuned values against validation loss", "Parallel Coordinates", "4 matching runs")
    pages.until(lambda: pages.all("canvas, .parcoords"))
    pages.until(lambda: "learning_rate" in pages.text or pages.all(".parcoords text, svg text"))
    pages.driver.get("about:blank")
    pages.driver.get(links["All runs"])
    pages.shows("8 matching runs", "harness.label", "val/loss")


def test_the_models_page_lists_the_checkpoints_with_their_data(pages: Pages) -> None:
    pages.open(f"#/experiments/{pages.experiment.experiment_id}/models?workflowType=machine_learning")
    pages.shows("drop_rate=0,0 seed 2", "drop_rate=0,2 seed 3", "Ready", "sotu-1820")

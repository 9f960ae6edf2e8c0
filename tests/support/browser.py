"""A headless Chromium for tests of pages, and an accessibility checker that runs in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with its chromedriver on PATH: the page is not tested in a browser"
)


@contextmanager
def browser(javascript: bool = True) -> Iterator[Any]:
    """A browser with a fresh profile and without network access, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-sync"),
        *(
            "disable-background-networking",
            "disable-component-update",
            "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ),
    ):
        options.add_argument(f"--{flag}")
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(300)  # for the accessibility checker on a long page and a busy machine
    try:
        yield driver
    finally:
        driver.quit()


def show(driver: Any, page: Path, width: int = 1280, scheme: str = "light", media: str = "") -> None:
    """Open a file in a window of this width in CSS pixels; `scheme`: light or dark; `media`: "print" for paper."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = {"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    driver.execute_script("window.left = true")
    driver.get(page.as_uri())
    # On a busy machine `get` may return while the previous page is still shown.
    loaded = "return !window.left && location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(driver, 60, 0.01).until(lambda it: it.execute_script(loaded, page.as_uri()), f"{page} is not shown")


def violations(driver: Any) -> list[str]:
    """Serious and critical accessibility violations that axe finds on the current page."""
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")
    driver.execute_script(source)
    run = "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations']}).then(done);"
    found = driver.execute_async_script(run)
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:160]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]

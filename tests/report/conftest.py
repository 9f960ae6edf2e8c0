"""Reports without figures, for tests that do not look at them: drawing takes most of a report's time."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from harness.report.figures import registry


@pytest.fixture
def no_figures() -> Iterator[None]:
    with mock.patch.multiple(registry, FIGURES={}, AXES=()):
        yield

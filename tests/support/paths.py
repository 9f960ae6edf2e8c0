"""Where tests find the project, its experiments and these modules."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))

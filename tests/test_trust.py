"""Real attempts on what comes from a store, a cache, a folder or an address, each a row of the threat model.

The threat model is in `mlruns/README.md`. After each command, `Home` checks that no file outside the promised folders
was changed and that no secret was written or printed.
"""

from __future__ import annotations

import pytest

from trust import Home, finished, finished_project, home

__all__ = ["finished", "finished_project", "home"]

pytestmark = pytest.mark.slow

# --- folders of the user's own ---------------------------------------------------------------------------------------


def test_a_report_into_a_folder_of_the_users_own(finished: Home) -> None:
    """`--out paper` writes into `paper/tiny`; when that is the user's own, nothing in it is replaced or removed."""
    finished.paper.rename(finished.folder / "tiny")
    done = finished.run("tiny", "--out", str(finished.folder), module="harness.report")
    assert done.returncode == 2 and "tiny" in done.stdout + done.stderr


# --- secrets ---------------------------------------------------------------------------------------------------------

# --- code in a store -------------------------------------------------------------------------------------------------

# --- names, links and addresses --------------------------------------------------------------------------------------

# --- content that cannot be read -------------------------------------------------------------------------------------

# --- ownership and forged results ------------------------------------------------------------------------------------

# --- caches ----------------------------------------------------------------------------------------------------------

# --- sizes and written text ------------------------------------------------------------------------------------------

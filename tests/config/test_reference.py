from __future__ import annotations

from harness.config.fields import field_paths
from harness.config.reference import BEGIN, END, reference
from harness.config.run import RunConfig
from harness.config.study import StudyConfig
from paths import ROOT


def test_the_readme_of_the_experiments_holds_the_reference() -> None:
    text = (ROOT / "experiments" / "README.md").read_text("utf-8")
    found = text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    assert found == reference(), (
        f"the output of `python -m harness.config.reference` replaces all from {BEGIN} to {END}"
    )


def test_every_field_has_a_description_and_a_row() -> None:
    rows = [line.strip("| ").split(" | ") for line in reference().splitlines()[2:]]
    whole = {cells[0].strip("*`"): cells[2] for cells in rows}
    assert all(meaning.strip() for meaning in whole.values())
    for path in [*field_paths(RunConfig), *(f"study.{name}" for name in StudyConfig.model_fields)]:
        parent, _, leaf = path.rpartition(".")
        assert path in whole or f"`{leaf}`: " in whole[parent], path

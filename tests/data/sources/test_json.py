"""JSON Lines and JSON: values one by one, whatever the pieces, and one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import CorpusError
from harness.data.sources import json as module
from harness.data.sources.kinds import kind_of
from harness.data.sources.source import Source


def read(path: Path, content: bytes) -> list[object]:
    path.write_bytes(content)
    source = Source(path, path.name, "data.path")
    return list(kind_of(source).read(source))


values = st.text(max_size=5) | st.fixed_dictionaries({"text": st.text(max_size=9) | st.none(), "n": st.integers()})


@given(
    found=st.lists(values, max_size=6),
    piece=st.integers(1, 9),
    indent=st.none() | st.just(1),
    ascii_only=st.booleans(),
    before=st.sampled_from(["", "\ufeff", " \r\n"]),
)
def test_values_are_those_of_the_whole_file(
    found: list[object],
    piece: int,
    indent: int | None,
    ascii_only: bool,
    before: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    expected = [value["text"] if isinstance(value, dict) else value for value in found]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        array = before + json.dumps(found, indent=indent, ensure_ascii=ascii_only) + "\n"
        assert read(folder / "a.json", array.encode()) == expected
        lines = "\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in found)
        assert read(folder / "a.jsonl", (before + lines).encode()) == expected
        if found and not isinstance(found[0], list):  # values without an array
            assert read(folder / "a.json", (before + lines).encode()) == expected


@pytest.mark.parametrize(
    ("ending", "content", "field", "sentence"),
    [
        (
            ".jsonl",
            b'{"text": "a"}\n{"text": "b"',
            "data.path",
            "found line 2 of 'a.jsonl', which is no JSON (Expecting",
        ),
        (".jsonl", b'{"text": "\xe9"}', "data.path", "found 0xe9 in line 1 of 'a.jsonl'; allowed: UTF-8 text"),
        (".jsonl", b"[1]", "data.path", "found a list as line 1 of 'a.jsonl'; allowed: text or null, or an object"),
        (".jsonl", b'{"text": ["a"]}', "data.field", "found a list under 'text' in line 1 of 'a.jsonl'; allowed: text"),
        (".jsonl", b'{"text": {"a": 1}}', "data.field", "found an object under 'text' in line 1 of 'a.jsonl'"),
        (".jsonl", b'{"text": true}', "data.field", "found true or false under 'text' in line 1"),
        (".jsonl", b'"\\ud800"', "data.path", "found half of a surrogate pair, U+D800, as line 1 of 'a.jsonl'"),
        (".jsonl", b"[" * 100_000, "data.path", "found line 1 of 'a.jsonl', which is no JSON"),
        (".jsonl", b"9" * 5000, "data.path", "found line 1 of 'a.jsonl', which is no JSON (Exceeds the limit"),
        (".jsonl", b'{"a": 1}\n{"b": "x"}', "data.field", "found no 'text' in 'a.jsonl'; allowed: one of 'a', 'b'"),
        (
            ".json",
            b'[{"text": "a"}, ',
            "data.path",
            "found the first 16 bytes of 'a.json', which is no JSON (it ",
        ),
        (
            ".json",
            b'[{"text": "a"} {"text": "b"}]',
            "data.path",
            "found the first 29 bytes of 'a.json', which is no JSON",
        ),
        (
            ".json",
            b'[{"text": "a"}] x',
            "data.path",
            "found the first 17 bytes of 'a.json', which is no JSON (something",
        ),
        (".json", b'{"text": 1}', "data.field", "found a number under 'text' in value 1 of 'a.json'"),
        (".json", b'{"data": [{"text": "a"}]}', "data.field", "found no 'text' in 'a.json'; allowed: one of 'data'"),
        (".json", b'["\xe9"]', "data.path", "found 0xe9 in the 5 bytes from 0 on of 'a.json'; allowed: UTF-8 text"),
        (".json", b'{"text": "a', "data.path", "found character 11 of 'a.json', which is no JSON (Unterminated"),
        (".json", b"[" * 100_000, "data.path", "found a value before byte "),
    ],
)
def test_what_is_wrong_is_one_sentence(ending: str, content: bytes, field: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        read(tmp_path / f"a{ending}", content)
    assert str(caught.value).startswith(sentence)
    assert caught.value.field == field and "; allowed: " in str(caught.value)


def test_a_long_document_is_refused_where_it_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 100)
    monkeypatch.setattr(module, "_PIECE", 10)
    for name, content, place in (
        ("a.jsonl", '"one"\n"' + "x" * 97 + '"\n"' + "x" * 99 + '"', "line 3"),
        ("a.json", '["' + "x" * 300 + '"]', "one value"),
    ):
        with pytest.raises(CorpusError, match=rf"found more than 256 MiB in {place} of '{name}'; allowed: shorter"):
            read(tmp_path / name, content.encode())
    assert read(tmp_path / "a.json", ('["' + "x" * 50 + '"]').encode()) == ["x" * 50]


def test_a_column_that_comes_late_is_found_among_the_first_thousand(tmp_path: Path) -> None:
    lines = b'{"id": 1}\n' * 999 + b'{"text": "a"}\n' + b'{"id": 1}\n' * 2000
    assert read(tmp_path / "a.jsonl", lines) == [None] * 999 + ["a"] + [None] * 2000
    with pytest.raises(CorpusError, match="found no 'text'"):
        read(tmp_path / "a.jsonl", b'{"id": 1}\n' + lines)

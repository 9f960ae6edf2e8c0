from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.yaml import MAX_VALUES, parse_value, parse_yaml, read_yaml
from harness.core.errors import SpecError


def test_yaml_1_2_scalars() -> None:
    values = parse_yaml("a: 400_000\nb: 1e-3\nc: no\nd: true\ne: null\nf: 0o17\n", "f").values
    assert values == {"a": 400_000, "b": 1e-3, "c": "no", "d": True, "e": None, "f": 15}
    assert isinstance(values["b"], float)


def test_lines_of_nested_keys() -> None:
    document = parse_yaml("a: 1\n\nb:\n  c: 2\n  d: {e: 3}\n", "f")
    assert document.lines == {"a": 1, "b": 3, "b.c": 4, "b.d": 5, "b.d.e": 5}
    assert document.line("b.d.missing") == 5
    assert document.line("nowhere") == 1


def test_duplicate_keys_are_all_reported_with_both_lines() -> None:
    document = parse_yaml("a: 1\nb: {x: 1, x: 2}\na: 3\n", "f.yaml")
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2: b.x: found twice (first on line 2); allowed: once",
        "f.yaml:3: a: found twice (first on line 1); allowed: once",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f:1: found nothing"),
        ("- 1", "f:1: found a list"),
        ("hello", "f:1: found a single value"),
        ("a: [1\nb: 2", "f:2: is not valid YAML: expected ',' or ']'"),
        ("a: *nobody", "f:1: is not valid YAML: found undefined alias"),
        ("\ta: 1", "f:1: is not valid YAML"),
        ("# no\r%YAML 1.1\r---\ra: no", "f:2: found '%YAML 1.1'; allowed: YAML 1.2"),
        ("# no\n%YAML 1.1\n---\na: no", "f:2: found '%YAML 1.1'; allowed: YAML 1.2"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
    ],
)
def test_a_text_that_is_not_a_yaml_mapping_gives_one_line(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "f")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_invalid_dates_and_numbers_are_reported_with_other_mistakes() -> None:
    document = parse_yaml("a: 2024-13-45\nb: !!int abc\nc: 1\nc: 2\n", "f")
    assert [str(problem) for problem in document.problems] == [
        "f:1: a: found '2024-13-45', which is not a valid timestamp; allowed: a valid one, or a text in quotes",
        "f:2: b: found 'abc', which is not a valid int; allowed: a valid one, or a text in quotes",
        "f:4: c: found twice (first on line 3); allowed: once",
    ]
    with pytest.raises(SpecError, match="nested too deeply"):
        parse_yaml("a: " + "[" * 5000, "f")


@pytest.mark.parametrize(
    "tagged", ["!!python/object/apply:os.system [x]", "!!python/name:os.system x", "!!set {x}", "!a 1"]
)
def test_values_with_other_tags_are_mistakes_and_run_no_code(tagged: str) -> None:
    document = parse_yaml(f"a: 1\nb: {tagged}\nc: 2\nc: 3", "f")
    tag = tagged.split()[0].replace("!!", "tag:yaml.org,2002:")
    assert [str(problem) for problem in document.problems] == [
        f"f:2: b: found a value tagged {tag}; allowed: plain values",
        "f:4: c: found twice (first on line 3); allowed: once",
    ]


def test_an_anchor_may_be_defined_again(recwarn: pytest.WarningsRecorder) -> None:
    assert parse_yaml("a: &x 1\nb: *x\nc: &x 2\nd: *x", "f").values == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert not recwarn.list  # ruamel's warning would be printed among the command's messages


def test_values_that_do_not_match_their_tag_are_reported() -> None:
    document = parse_yaml("a: !!bool maybe\nb: !!int x\nc: !!float y\nd: !!timestamp z", "f")
    assert [problem.field for problem in document.problems] == ["a", "b", "c", "d"]


def test_alias_bombs_and_recursive_aliases_are_refused() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for last, this in zip("abcdefghi", "bcdefghij", strict=True):
        bomb += f"{this}: &{this} [{', '.join(['*' + last] * 9)}]\n"
    for text in (bomb, "a: &x [*x]"):
        with pytest.raises(SpecError, match=f"more than {MAX_VALUES:,} values"):
            parse_yaml(text, "f")


def test_an_alias_has_the_value_of_its_anchor() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "f").values == {"a": [1, 2], "b": [1, 2]}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"# " + b"x" * 1_000_001)
    for path, message in [
        (tmp_path / "missing.yaml", "missing.yaml: cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (latin, "latin.yaml:2: byte 11 is not UTF-8"),
        (huge, "is larger than 1,000,000 bytes"),
    ]:
        with pytest.raises(SpecError) as caught:
            read_yaml(path)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("50_000", 50_000), ("1e-3", 1e-3), ("[0.0, 0.1]", [0.0, 0.1]), ("muon", "muon"), ("true", True), ("", None)],
)
def test_values_from_the_command_line(text: str, value: object) -> None:
    assert parse_value(text) == value


# Merge keys


def test_a_merge_key_adds_the_fields_of_an_anchor() -> None:
    document = parse_yaml("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\nc: {q: 4, <<: *x}\n", "f")
    assert document.values == {"a": {"p": 1, "q": 2}, "b": {"q": 3, "p": 1}, "c": {"q": 4, "p": 1}}
    assert not document.problems
    assert document.line("b.p") == 1  # where it is written
    assert document.line("b.q") == 4


def test_of_several_merged_mappings_the_first_has_priority() -> None:
    document = parse_yaml("a: &x {p: 1}\nb: &y {<<: *x, p: 2, q: 2}\nc: {<<: [*x, *y]}\nd: {<<: [*y, *x]}", "f")
    assert document.values["c"] == {"p": 1, "q": 2}
    assert document.values["d"] == {"p": 2, "q": 2}
    assert not document.problems


def test_a_mistake_in_a_merged_value_has_the_line_of_the_value() -> None:
    document = parse_yaml("a: &x\n  p: !!int no\nb:\n  <<: *x\n", "f.yaml")
    [problem] = document.problems
    assert str(problem).startswith("f.yaml:2: a.p: found 'no', which is not a valid int")
    assert document.line("b.p") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {<<: 3}", "f:1: a.<<: found '3'; allowed: an alias of a mapping, or a list of them"),
        ("a: &x {p: 1}\nb: {<<: [*x, [1]]}", "f:2: b.<<: found a list; allowed: an alias of a mapping, or a list"),
        ("a: &x {p: 1}\nb: {<<: *x, <<: *x}", "f:2: b.<<: found twice (first on line 2); allowed: once"),
        ("a: {<<: {p: 1, p: 2}}", "f:1: a.p: found twice (first on line 1); allowed: once"),
    ],
)
def test_mistakes_in_merges(text: str, message: str) -> None:
    [problem] = parse_yaml(text, "f").problems
    assert str(problem).startswith(message)


def test_merges_that_never_end_are_refused() -> None:
    chain = "a0: &a0 {p: 1}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 500))
    bomb = "a0: &a0 {p: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 9))
    for text in ("a: &x {p: 1, <<: *x}", chain, bomb):
        with pytest.raises(SpecError, match=f"more than {MAX_VALUES:,} values"):
            parse_yaml(text, "f")


def test_a_quoted_merge_key_is_a_field() -> None:
    assert parse_yaml("a: {'<<': 1}", "f").values == {"a": {"<<": 1}}


# Values of `--set`


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*.txt", "*.txt"),
        ("[*.txt, books/*.txt]", ["*.txt", "books/*.txt"]),
        ("&c", "&c"),
        ("--- a", "--- a"),
        ("'run #2'", "run #2"),
        ("a#b", "a#b"),
        ("one\ntwo", "one two"),
        ("|\n  one\n  two", "one\ntwo"),
        ("\n  steps: 2", {"steps": 2}),
        ("{log_uniform: [1e-4, 1e-2]}", {"log_uniform": [1e-4, 1e-2]}),
        ("\tmuon ", "muon"),
    ],
)
def test_every_character_of_a_value_counts(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb: 2", "is not valid YAML: mapping values are not allowed here"),
        ("1\n...\n2", "is not valid YAML: expected '<document start>'"),
        ("Is run #2 better?", "found '#2 better?', which YAML reads as a comment; allowed: a text with # in quotes"),
        ("# 3", "found '# 3', which YAML reads as a comment"),
        ("{steps: 1, steps: 2}", "steps: found twice"),
        ("!!int x", "found 'x', which is not a valid int"),
    ],
)
def test_a_value_of_which_a_part_would_be_ignored_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_value(text)
    assert message in str(caught.value)


@given(text=st.text(alphabet="ab1 \n\t#*&:-.,[]{}'\"|>%!", max_size=30))
def test_the_letters_of_a_value_are_kept_or_it_is_refused(text: str) -> None:
    try:
        value = parse_value(text)
    except SpecError as error:
        assert "\n" not in str(error.problems[0])
    else:
        assert re.findall("[ab]", str(value)) == re.findall("[ab]", text) or "!" in text or "|" in text or ">" in text


def test_a_star_without_an_anchor_says_that_it_needs_quotes() -> None:
    with pytest.raises(SpecError, match=r"f:1: .*; a text that begins with \* needs quotes"):
        parse_yaml("a: *.txt", "f")


def test_a_misspelled_file_is_answered_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("experiments/dropout.yaml", "experiments/context_length.yaml", "mine.yaml", "dropout.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def message(name: str) -> str:
        with pytest.raises(SpecError) as error:
            read_yaml(Path(name))
        return str(error.value)

    wrong = "cannot be read: No such file or directory"
    assert message("experiments/dropot.yaml") == (
        f"experiments/dropot.yaml: {wrong}; did you mean experiments/dropout.yaml?"
    )
    assert message("dropout") == f"dropout: {wrong}; did you mean experiments/dropout.yaml?"
    assert message("min.yml") == f"min.yml: {wrong}; did you mean mine.yaml?"
    assert message("nowhere/nothing.yaml") == f"nowhere/nothing.yaml: {wrong}"

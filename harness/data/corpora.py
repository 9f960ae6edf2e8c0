"""Texts: built-in corpora, the user's own files, or downloads pinned by their SHA-256."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig
from harness.config.tokenizers import most_ids
from harness.core.text import plural
from harness.data.builtin import load_builtin
from harness.data.cache import DOWNLOADS, SCANS, cache_folder
from harness.data.documents import (
    BLANK_LINE,
    SEPARATORS,
    DocumentHash,
    Documents,
    Scan,
    TextFile,
    documents,
    joined,
    text_size,
)
from harness.data.downloads import download
from harness.data.errors import CorpusError
from harness.data.files import find_files
from harness.data.formats import ENDINGS, structure_of
from harness.data.known_scans import scan_once
from harness.data.sources.kinds import TEXT, TOKENS, kind_of
from harness.data.sources.source import COLUMN, Source
from harness.data.sources.streams import is_compressed
from harness.data.sources.text import text_pieces
from harness.data.token_files import scan_ids


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from. The text stays in its files.

    Attributes:
        name: the built-in name, the path patterns or the file name of the URL.
        source: a description for people: package and version, files, or URL.
        sha256: of the text's UTF-8 bytes with the separators, in hex; see `harness.data.documents.Scan`.
        characters: of the text.
        files: in the order of the text.
        field: the field of the spec that names the text.
        repeats: other names of the files or their folders, see `harness.data.files.Found`.
        separator: between documents, one of the values of `harness.data.documents.SEPARATORS`.
        notes: sentences for the user about what was read.
        documents: sizes and hashes of the documents; None in a process that does not see the text.
        held_out: `val` or `test` → the text of a split that has files of its own.
    """

    name: str
    source: str
    sha256: str
    characters: int
    files: tuple[TextFile, ...]
    field: str
    repeats: Mapping[str, str]
    separator: str = BLANK_LINE
    notes: tuple[str, ...] = ()
    documents: Documents | None = dataclasses.field(default=None, compare=False, repr=False)
    held_out: Mapping[str, Corpus] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def text(self) -> str:
        """The whole text, with its original newlines."""
        return "".join(self.pieces())

    @property
    def token_ids(self) -> bool:
        """Whether its files hold token ids and no text: its characters are ids then, and `pieces` must not be asked."""
        return any(kind_of(file.source) is TOKENS for file in self.files)

    @property
    def parts(self) -> list[Corpus]:
        """This text and those that are held out."""
        return [self, *self.held_out.values()]

    @property
    def whole_sha256(self) -> str:
        """SHA-256 of all parts, in hex: that of the text where nothing is held out."""
        return digest_of([part.sha256 for part in self.parts]) if self.held_out else self.sha256

    @property
    def most_tokens(self) -> int:
        """Tokens of all parts at most, if each byte of the text is one."""
        files = [file for part in self.parts for file in part.files]
        return sum(file.size + file.documents + text_size(self.separator) for file in files)

    @property
    def document_count(self) -> int:
        """How many documents the text has."""
        return sum(file.documents for file in self.files)

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces, none of which needs more than some megabytes, except for a longer document.

        Raises:
            CorpusError: a file cannot be read, or the text is no longer that of `sha256`.
        """
        digest = hashlib.sha256()
        for piece in joined((file.source for file in self.files), self.separator):
            digest.update(piece.encode(errors="surrogatepass"))
            yield piece
        if digest.hexdigest() != self.sha256:
            raise self._changed()

    def chosen(self, wanted: npt.NDArray[np.bool_]) -> Iterator[str]:
        """Yield the text of some of the documents in pieces, with separators between them; errors as in `pieces`.

        Args:
            wanted: for each document, whether it is one of them.
        """
        assert self.documents is not None
        between, found = False, 0
        for number, (_, pieces) in enumerate(documents((file.source for file in self.files), self.separator)):
            found += 1
            if number >= len(wanted):
                break
            if not wanted[number]:
                continue
            if between and self.separator:
                yield self.separator
            between, digest = True, DocumentHash()
            for piece in pieces:
                digest.update(piece)
                yield piece
            if digest.value != self.documents.hashes[number]:
                raise self._changed()
        if found != len(wanted):
            raise self._changed()

    def _changed(self) -> CorpusError:
        return CorpusError(
            self.field, f"found another text in {self.source} while it was read; allowed: files that do not change"
        )


def load_corpus(
    config: DataConfig, root: Path | None = None, cache: Path | None = None, compared: bool = False
) -> Corpus:
    """Load the text that `config` names, which is no mixture.

    Args:
        config: the source; its split is ignored, and of its tokenizer only the size of ids matters.
        root: folder that relative paths start from; the current folder when None.
        cache: folder for a download and for what is known about a large text; see `cache_folder`.
        compared: whether its documents are compared with those of another text.

    Raises:
        CorpusError: the name is unknown, or the text is missing, unreadable, empty, not UTF-8, has another SHA-256 or
            looks like a table or JSON.
    """
    root = root or Path.cwd()
    held_out: dict[str, Corpus] = {}
    compared = compared or bool(config.val_path or config.test_path)
    for split, paths in (("val", config.val_path), ("test", config.test_path)):
        if paths is not None:
            held_out[split] = _load_files(config, root, cache, f"data.{split}_path", paths, {}, compared)
    corpus = dataclasses.replace(_load_main(config, root, cache, held_out, compared), held_out=held_out)
    _check_kinds(corpus, config)
    if config.format is None:
        for part in corpus.parts if config.corpus is None else held_out.values():
            _refuse_structure(part)
    return corpus


def _check_kinds(corpus: Corpus, config: DataConfig) -> None:
    """Refuse token files beside text, and what only documents of text can have."""
    parts = [part for part in corpus.parts if part.token_ids]
    if not parts:
        return
    files = [(part, file) for part in corpus.parts for file in part.files]
    for part, file in files:
        if kind_of(file.source) is not TOKENS:
            raise CorpusError(part.field, f"found text in {file.name!r} beside token files; allowed: one of the two")
    for field, found, allowed in (
        ("data.separator", config.separator, "blank_line"),
        ("data.split.by", config.split.by, "position"),
    ):
        if found != allowed:
            raise CorpusError(field, f"found {found} with token files, which have no documents; allowed: {allowed}")


def _load_main(
    config: DataConfig, root: Path, cache: Path | None, held_out: Mapping[str, Corpus], compared: bool
) -> Corpus:
    separator = SEPARATORS[config.separator]
    if config.corpus is not None:
        source, found = load_builtin(config.corpus, separator)
        return _corpus(config.corpus, source, found, "data.corpus", separator)
    if config.path is not None:
        return _load_files(config, root, cache, "data.path", config.path, held_out, compared)
    return _load_url(config, cache_folder(cache), compared)


def _refuse_structure(corpus: Corpus) -> None:
    for file in corpus.files:
        if kind_of(file.source) is TEXT and (kind := structure_of(next(text_pieces(file.source), ""))):
            raise CorpusError(
                corpus.field,
                f"found {file.name!r}, which looks like {kind}; allowed: files of plain text, or data.format: text to "
                f"read it as it is, or a name that ends in {ENDINGS[kind]}, to read one column or key",
            )


def _id_size(config: DataConfig) -> int:
    """Bytes of a token id."""
    most = most_ids(config.tokenizer)
    return 2 if most is not None and most <= 1 << 16 else 4


def _scan(sources: Sequence[Source], config: DataConfig, cache: Path | None, compared: bool) -> Scan:
    """Read a text once. Raises CorpusError if the token ids could be larger than the memory.

    Training reads them in random order, from a file that all workers map: what does not fit is read from the disk again
    and again. A text has at most as many tokens as bytes. The text itself is never held.
    """
    memory, id_size = _main_memory(), _id_size(config)

    def check(size: int, found: str = "more than ") -> None:
        if size * id_size > memory:
            shown = f"{found}{size / 1e9:,.1f} GB in {plural(len(sources), 'file')}"
            raise CorpusError(
                sources[0].field,
                f"found {shown}; allowed: text whose token ids fit into memory ({id_size} bytes for each byte of text "
                f"at most), {memory / id_size / 1e9:,.1f} GB here",
            )

    # Known before anything is read.
    plain = (source for source in sources if kind_of(source) is TEXT and not is_compressed(source))
    check(sum(source.path.stat().st_size for source in plain), "")
    return scan_once(sources, SEPARATORS[config.separator], cache_folder(cache) / SCANS, check, compared)


def _load_files(
    config: DataConfig,
    root: Path,
    cache: Path | None,
    field: str,
    patterns: tuple[str, ...],
    held_out: Mapping[str, Corpus],
    compared: bool,
) -> Corpus:
    """The text of the files that a field names, without those that are held out."""
    taken = {split: [file.source.path for file in own.files] for split, own in held_out.items()}
    found = find_files(patterns, root, field, [path for paths in taken.values() for path in paths])
    plain, column = config.format == "text", config.field or COLUMN
    sources = [Source(root / file, str(file), field, plain, column) for file in found.files]
    names = [source.name for source in sources]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"
    tokens = all(kind_of(source) is TOKENS for source in sources)
    text = scan_ids(sources) if tokens else _scan(sources, config, cache, compared)
    source = f"{plural(len(names), 'file')}: {shown}"
    notes = list(found.notes)
    if any(kind_of(source).columns for source in sources):
        source += f" ({plural(len(text.documents.sizes), 'document')}, {column!r})"
    elif config.field is not None:
        notes.append(f"data.field {config.field!r} is not used: none of the files has columns or keys")
    separator = "" if tokens else SEPARATORS[config.separator]
    return _corpus(" + ".join(patterns), source, text, field, separator, found.repeats, notes)


def _main_memory() -> int:
    """In bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _corpus(
    name: str,
    source: str,
    found: Scan,
    field: str,
    separator: str,
    repeats: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Corpus:
    if found.blank:
        raise CorpusError(field, f"found no text in {source}; allowed: a text with more than white space")
    return Corpus(
        name=name,
        source=source,
        sha256=found.sha256,
        characters=found.characters,
        files=found.files,
        field=field,
        repeats=repeats or {},
        separator=separator,
        notes=(*notes, *_left_out(found)),
        documents=found.documents,
    )


def _left_out(found: Scan) -> Iterator[str]:
    """A sentence about documents without text."""
    if count := sum(found.left_out.values()):
        words = {"missing": "without a value", "empty": "empty"}
        kinds = ", ".join(f"{number:,} {words[kind]}" for kind, number in sorted(found.left_out.items()))
        yield f"{plural(count, 'document')} without text {'is' if count == 1 else 'are'} left out ({kinds})"


def _load_url(config: DataConfig, cache: Path, compared: bool) -> Corpus:
    url, sha256 = config.url, config.sha256
    assert url is not None  # DataConfig requires one source
    assert sha256 is not None  # and a hash for a URL
    try:
        address = urlsplit(url)
    except ValueError:  # a bracket without its pair
        address = urlsplit("")
    if address.scheme not in ("http", "https") or not address.netloc:
        raise CorpusError("data.url", f"found {url!r}; allowed: an address that starts with http:// or https://")
    file = download(url, sha256.lower(), cache / DOWNLOADS, _main_memory() // _id_size(config))
    name = address.path.rsplit("/", 1)[-1] or address.netloc
    source = Source(file, url, "data.url", config.format == "text", config.field or COLUMN)
    return _corpus(name, url, _scan([source], config, cache, compared), "data.url", SEPARATORS[config.separator])

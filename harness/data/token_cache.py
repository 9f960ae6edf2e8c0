"""Encoded texts in the cache: written once, then verified and memory-mapped by every process.

Checksums find damage, but whoever writes other tokens can write their checksums too. So the process that starts runs
also compares the tokens with the text. Large files are checked again only when one of them has changed since.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig
from harness.config.tokenizers import is_own
from harness.core.files import DamagedError, json_with_checksum, read_json_with_checksum, sha256_of
from harness.core.links import read_bounded
from harness.core.unchanged import State, are_large, state_of
from harness.data.cache import make_private, refuse_shared, unusable_cache, write_private
from harness.data.corpora import Corpus
from harness.data.encoding import (
    FIRST_BYTES,
    TOKEN_BYTES,
    TOKENIZER_FILE,
    VOCABULARY,
    check_splits,
    encode,
    id_type,
    mark_id,
)
from harness.data.errors import CorpusError, reason
from harness.data.given_tokens import check_ids
from harness.data.own_tokenizers import file_name, open_tokenizer, tokenizer_identity
from harness.data.splitting import SPLITS, Division
from harness.data.stored_ids import StoredIds
from harness.data.token_comparison import AlteredError, compare_tokens
from harness.data.tokenizer import Ids, TokenizerFile

_META: Final = "meta.json"
_CHECKED: Final = "checked.json"  # the state of large files that were compared with the text
_META_BYTES: Final = 1_000_000  # at most
_OTHER_BYTES: Final = 110_000_000  # of a file that does not grow with the text, at most
_MOST_TOKENS_A_BYTE: Final = 16  # a normal form of Unicode may write one character as up to 18
_OF_OWN: Final = (TOKENIZER_FILE, FIRST_BYTES)  # arrays of a tokenizer that is not built in

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CachedTokens:
    """The files of an encoded text.

    Attributes:
        arrays: the names of `_names` → memory-mapped array.
        bytes: split → UTF-8 bytes of its text.
        tokenizer_file: what defines the tokenizer; None for a built-in one.
        stored: split → its ids, to be read without mapping them, if the files are large; else empty.
    """

    arrays: Mapping[str, Ids]
    bytes: Mapping[str, int]
    tokenizer_file: TokenizerFile | None = None
    stored: Mapping[str, StoredIds] = field(default_factory=dict)


def open_tokens(
    folder: Path, corpus: Corpus, config: DataConfig, compare: bool, file: TokenizerFile | None = None
) -> CachedTokens:
    """The tokens in a folder of the cache; the text is encoded if they are missing, damaged or not its own.

    Args:
        folder: of this text, tokenizer and split.
        corpus: the text.
        config: the tokenizer, the vocabulary and the split.
        compare: whether cached tokens are compared with the text, by encoding it again. Of a text of more than
            `ENCODED_AGAIN` characters, only as many are, at random places; elsewhere the tokens are decoded, unless
            the tokenizer is not lossless.
        file: what defines the tokenizer; None for a built-in one.

    Raises:
        CorpusError: the text or the tokenizer cannot be used, or the cache cannot be written or is open to others.
    """
    cached = _read(folder, corpus, config, compare, file)
    return cached if cached is not None else _write(folder, corpus, config, file)


def kept_tokenizer(folder: Path, config: DataConfig) -> TokenizerFile | None:
    """What defines the tokenizer of the tokens in a folder of the cache; None for a built-in one and without tokens."""
    if not is_own(config.tokenizer):
        return None
    try:
        refuse_shared(folder)
        return _definition(config, {TOKENIZER_FILE: np.load(folder / f"{TOKENIZER_FILE}.npy")})
    except (OSError, ValueError):
        return None


def description_sha256(folder: Path) -> str:
    """SHA-256 of the description of encoded tokens, which has the hashes of all files.

    Raises:
        OSError: it cannot be read.
    """
    return sha256_of(folder / _META)


def open_described(folder: Path, sha256: str, corpus: Corpus, config: DataConfig) -> CachedTokens | None:
    """The tokens in a folder if they are those whose description has this SHA-256; needs no text and no tokenizer.

    Args:
        folder: of the cache, on this machine or on one whose files are seen here.
        sha256: see `description_sha256`.
        corpus, config: as for `open_tokens`; the files of the corpus are not opened.

    Raises:
        CorpusError: the folder is open to others.
    """
    try:
        same = description_sha256(folder) == sha256
    except OSError:
        return None
    return _read(folder, corpus, config, compare=False) if same else None


def receive_tokens(folder: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Write token files that another machine has encoded into a folder of the cache, the description last.

    Args:
        folder: of this text, tokenizer and split.
        files: name → content in pieces; the names of `token_files`, and no others.

    Raises:
        CorpusError: the cache cannot be written.
    """
    allowed = {f"{name}.npy" for name in (*SPLITS, TOKEN_BYTES, VOCABULARY, *_OF_OWN)} | {_META}
    assert set(files) <= allowed, sorted(files)
    try:
        make_private(folder)
        with tempfile.TemporaryDirectory(prefix=".receiving-", dir=folder.parent) as receiving:
            for name in sorted(files, key=_META.__eq__):
                part = Path(receiving, name)
                with part.open("wb") as stream:
                    for piece in files[name]:
                        stream.write(piece)
                part.chmod(0o600)
                part.replace(folder / name)
    except OSError as error:
        raise unusable_cache(folder.parent, reason(error)) from None


def token_files(folder: Path) -> list[Path]:
    """The files of encoded tokens, with their description."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".npy" or path.name == _META)


def _write(folder: Path, corpus: Corpus, config: DataConfig, file: TokenizerFile | None) -> CachedTokens:
    """Encode a corpus and write it to the cache; returns what `_read` then reads.

    Every file is written to a temporary folder and then renamed into place, the metadata last. The content depends on
    the fingerprint alone, so processes that build the same folder at once replace files by equal ones.
    """
    logger.info("encoding %s (%s characters) with %s", corpus.name, f"{corpus.characters:,}", config.tokenizer)
    tokenizer = open_tokenizer(config.tokenizer, file)
    mark_id(corpus, tokenizer)
    if corpus.token_ids:
        check_ids(corpus, tokenizer)
    division = Division(corpus, config.split)
    check_splits(division, config, tokenizer)
    try:
        make_private(folder)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as building:
            content = encode(division, config, tokenizer, Path(building))
            hashes = {file.name: sha256_of(file) for file in sorted(Path(building).iterdir())}
            content |= {"tokenizer": _named(config, file), "corpus": corpus.whole_sha256, "files": hashes}
            Path(building, _META).write_text(json.dumps({"content": content, "sha256": digest_of(content)}, indent=1))
            for name in (*hashes, _META):
                Path(building, name).chmod(0o600)
                Path(building, name).replace(folder / name)
    except OSError as error:
        raise unusable_cache(folder.parent, reason(error)) from None
    stored = _read(folder, corpus, config, compare=False, encoded=True)
    if stored is None:
        raise unusable_cache(folder.parent, "files written to it cannot be read back")
    return stored


def _read(
    folder: Path,
    corpus: Corpus,
    config: DataConfig,
    compare: bool,
    tokenizer: TokenizerFile | None = None,
    encoded: bool = False,
) -> CachedTokens | None:
    """The cached tokens; None if they are missing, damaged or not those of the text.

    Args:
        folder, corpus, config, compare: as for `open_tokens`.
        tokenizer: what defines the tokenizer; None: the cached definition of one that is not built in is taken.
        encoded: whether this process has just encoded them.
    """
    files = {name: folder / f"{name}.npy" for name in _names(config)}
    for place in (folder.parent, folder, *files.values()):
        refuse_shared(place)
    if not (folder / _META).is_file():  # written last: the folder is new, or another process fills it
        return None
    try:
        state = state_of([*filter(Path.is_file, files.values()), folder / _META])
        checked = are_large(state) and _was_checked(folder, state)
        content = _metadata(folder / _META)
        largest = _largest(corpus)
        for file in files.values():
            if not file.is_file() or file.stat().st_size > largest:
                raise AlteredError(f"{file.name} was altered")
            if not checked and sha256_of(file) != content["files"][file.name]:
                raise AlteredError(f"{file.name} was altered")
        arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
        definition = _definition(config, arrays)
        if tokenizer not in (None, definition):
            raise AlteredError(f"{TOKENIZER_FILE}.npy is another tokenizer")
        if (content["tokenizer"], content["corpus"]) != (_named(config, definition), corpus.whole_sha256):
            raise AlteredError(f"{_META} is of another text")
        sizes = {split: int(content["bytes"][split]) for split in SPLITS}
        cached = CachedTokens(arrays, sizes, definition, _stored(files, arrays) if are_large(state) else {})
        _check_types(cached)
        if compare and not checked:
            compare_tokens(arrays, cached.bytes, corpus, config, open_tokenizer(config.tokenizer, definition))
        if (compare or encoded) and not checked and are_large(state):
            write_private(folder / _CHECKED, [json_with_checksum({"state": state}).encode()])
        return cached
    except CorpusError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("the cached tokens in %s are damaged (%s); encoding them again", folder, error)
        return None


def _stored(files: Mapping[str, Path], arrays: Mapping[str, Ids]) -> dict[str, StoredIds]:
    """The splits, whose memory maps are `arrays`."""
    found = {}
    for split in SPLITS:
        array = arrays[split]
        assert isinstance(array, np.memmap)
        found[split] = StoredIds(files[split], array)
    return found


def _was_checked(folder: Path, state: State) -> bool:
    """Whether files of this state were compared with their text."""
    refuse_shared(folder / _CHECKED)
    try:
        content, verified = read_json_with_checksum(read_bounded(folder / _CHECKED, _META_BYTES))
        return verified and content["state"] == state
    except (OSError, ValueError, LookupError, DamagedError):  # missing or damaged
        return False


def _names(config: DataConfig) -> tuple[str, ...]:
    """The names of the arrays of an encoded text."""
    names = (*SPLITS, TOKEN_BYTES) if config.vocab == "full" else (*SPLITS, TOKEN_BYTES, VOCABULARY)
    return (*names, *_OF_OWN) if is_own(config.tokenizer) else names


def _named(config: DataConfig, file: TokenizerFile | None) -> str:
    """What a description calls the tokenizer: one that is not built in by its content, wherever its file lies."""
    return config.tokenizer if file is None else tokenizer_identity(file)


def _definition(config: DataConfig, arrays: Mapping[str, Ids]) -> TokenizerFile | None:
    if not is_own(config.tokenizer):
        return None
    return TokenizerFile(file_name(config.tokenizer), arrays[TOKENIZER_FILE].tobytes())


def _largest(corpus: Corpus) -> int:
    """Bytes that no file exceeds: a text has at most as many tokens as bytes, unless a tokenizer writes characters out.

    A sparse file may have any size.
    """
    return _OTHER_BYTES + _MOST_TOKENS_A_BYTE * np.dtype(np.uint32).itemsize * corpus.most_tokens


def _metadata(file: Path) -> dict[str, Any]:
    meta = json.loads(read_bounded(file, _META_BYTES))
    content: dict[str, Any] = meta["content"]
    if digest_of(content) != meta["sha256"]:
        raise AlteredError(f"{_META} was altered")
    return content


def _check_types(cached: CachedTokens) -> None:
    """Raise an error unless the arrays have the types and dimensions that `encode` writes."""
    types = dict.fromkeys(SPLITS, np.dtype(id_type(len(cached.arrays[TOKEN_BYTES]))))
    types |= {TOKEN_BYTES: np.dtype(np.int32), VOCABULARY: np.dtype(np.int32)}
    types |= {TOKENIZER_FILE: np.dtype(np.uint8), FIRST_BYTES: np.dtype(np.int64)}
    for name, array in cached.arrays.items():
        if (array.dtype, array.ndim) != (types[name], 1):
            raise AlteredError(f"{name}.npy has another type")

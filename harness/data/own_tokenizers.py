"""Tokenizers that are not built in: a file of the user's, the characters of a text, or a BPE trained on it.

Each is defined by a `TokenizerFile`, whose SHA-256 is its identity. Characters and merges are taken from the training
split alone, so that nothing of the validation and the test text is known to the model.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig
from harness.config.tokenizers import CHAR, JSON, SENTENCEPIECE, is_file, is_own, trained_size
from harness.core.files import DamagedError, json_with_checksum, read_json_with_checksum
from harness.core.links import read_bounded
from harness.data.cache import refuse_shared, unusable_cache, write_private
from harness.data.corpora import Corpus
from harness.data.documents import MARK
from harness.data.encoding import blocks
from harness.data.errors import CorpusError, reason
from harness.data.splitting import SPLITS, Division
from harness.data.tokenizer import END_OF_TEXT, SINGLE_BYTES, Ids, Tokenizer, TokenizerFile, get_tokenizer

TOKENIZERS: Final = "tokenizers"  # folder of the cache
logger = logging.getLogger(__name__)

_TRAINING: Final = 1  # of the recipe; raise it when the training changes
_MOST_BYTES: Final = 100_000_000  # of a file
_CHARACTERS: Final = "characters.txt"
_NAMES: Final = {JSON: "tokenizer.json", SENTENCEPIECE: "tokenizer.model"}


def tokenizer_file(config: DataConfig, corpora: Sequence[Corpus], root: Path, store: Path) -> TokenizerFile | None:
    """What defines the tokenizer of a data section; None for a built-in one.

    Args:
        config: whose tokenizer it is.
        corpora: its text, or those of its mixture.
        root: folder that a relative path starts from.
        store: the cache; a trained tokenizer is kept there.

    Raises:
        CorpusError: the file cannot be read, or a library is not installed.
    """
    name = config.tokenizer
    if not is_own(name):
        return None
    if is_file(name):
        return _read_file(name, root)
    if name == CHAR:
        seen: set[str] = set()
        for piece in training_text(corpora, config):
            seen.update(piece)
        return TokenizerFile(_CHARACTERS, "".join(sorted(found for found in seen if not found.isascii())).encode())
    return _trained(config, corpora, store)


def training_text(corpora: Sequence[Corpus], config: DataConfig) -> Iterator[str]:
    """Yield the training texts in pieces that cut no word of GPT-2's pattern, without tokens between documents."""
    if any(corpus.token_ids for corpus in corpora):
        raise CorpusError(
            "data.tokenizer",
            f"found {config.tokenizer}, made of text, with token files; allowed: the tokenizer that wrote them",
        )
    for corpus in corpora:
        parts = Division(corpus, config.split).pieces()
        found = blocks((text for split, text in parts if split == SPLITS[0]), get_tokenizer("gpt2"))
        yield from (block for block in found if block != MARK)


@functools.lru_cache(maxsize=16)
def open_tokenizer(name: str, file: TokenizerFile | None) -> Tokenizer:
    """The tokenizer of this name.

    Args:
        name: as in `data.tokenizer`.
        file: see `tokenizer_file`.

    Raises:
        CorpusError: it cannot be read, or a library is not installed.
    """
    if file is None:
        return get_tokenizer(name)
    if file.name == _CHARACTERS:
        return _of_characters(name, file)
    if file.name == _NAMES[JSON]:
        from harness.data.tokenizer_json import read_json_tokenizer

        return read_json_tokenizer(name, file)
    from harness.data.sentencepiece_model import read_sentencepiece

    return read_sentencepiece(name, file)


def file_name(tokenizer: str) -> str:
    """The name in `TokenizerFile` of a tokenizer that is not built in."""
    if tokenizer == CHAR:
        return _CHARACTERS
    return _NAMES[SENTENCEPIECE if tokenizer.endswith(SENTENCEPIECE) else JSON]


def tokenizer_identity(file: TokenizerFile) -> str:
    """What fingerprints and descriptions call a tokenizer that is not built in."""
    return f"{file.name} {file.sha256}"


def _read_file(name: str, root: Path) -> TokenizerFile:
    try:
        path = root / Path(name).expanduser()
        content = read_bounded(path, _MOST_BYTES)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; `~user` of an unknown user
        raise CorpusError(
            "data.tokenizer",
            f"found {name!r}, which cannot be read ({reason(error)}); allowed: a file of at most "
            f"{_MOST_BYTES // 1_000_000} MB",
        ) from None
    return TokenizerFile(file_name(name), content)


def _of_characters(name: str, file: TokenizerFile) -> Tokenizer:
    """A token for each byte, and for each character of the file, which has those of more than one byte.

    So a character of ASCII, and any that the training text does not have, is its UTF-8 bytes.
    """
    characters = file.content.decode()
    codes = np.array([ord(character) for character in characters], np.uint32)

    def encode_array(text: str) -> Ids:
        raw = np.frombuffer(text.encode("utf-8"), np.uint8)
        found = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        starts = np.flatnonzero((raw & 0xC0) != 0x80)  # the first byte of each character
        known = np.isin(found, codes)
        ids = raw.astype(np.int64)
        ids[starts[known]] = len(SINGLE_BYTES) + np.searchsorted(codes, found[known])
        later = np.ones(len(raw), bool)  # bytes that are not inside of a known character
        ends = np.append(starts[1:], len(raw))
        for offset in (1, 2, 3):
            inside = starts[known] + offset
            later[inside[inside < ends[known]]] = False
        return ids[later]

    pieces = [*SINGLE_BYTES, *(character.encode() for character in characters)]
    return Tokenizer(name, pieces, encode_array, cuts="anywhere", file=file)


def _trained(config: DataConfig, corpora: Sequence[Corpus], store: Path) -> TokenizerFile:
    """The trained tokenizer of a recipe, from the cache where it was trained before."""
    contents = [Division(corpus, config.split).content() for corpus in corpora]
    key = digest_of(
        {
            **(contents[0] if len(contents) == 1 else {"mix": contents}),
            "recipe": config.tokenizer,
            "training": _TRAINING,
        }
    )
    file = store / TOKENIZERS / f"{key}.json"
    try:
        for place in (file.parent, file):
            refuse_shared(place)
        kept, verified = read_json_with_checksum(read_bounded(file, 2 * _MOST_BYTES))
        if verified and isinstance(kept.get("tokenizer.json"), str):
            return TokenizerFile(_NAMES[JSON], kept["tokenizer.json"].encode())
    except FileNotFoundError:
        pass  # the first time
    except DamagedError as error:
        logger.warning("the trained tokenizer %s %s; training it again", file, error)
    except OSError as error:
        raise unusable_cache(store, reason(error)) from None
    size = trained_size(config.tokenizer)
    assert size is not None  # the only other kind
    text = train_bpe(training_text(corpora, config), size)
    try:
        write_private(file, [json_with_checksum({"tokenizer.json": text}).encode()])
    except OSError as error:
        raise unusable_cache(store, reason(error)) from None
    return TokenizerFile(_NAMES[JSON], text.encode())


def train_bpe(pieces: Iterator[str], size: int) -> str:
    """A byte-level BPE as the text of its `tokenizer.json` (Sennrich et al. 2016; Radford et al. 2019).

    Words are those of GPT-2's pattern, the first token is `<|endoftext|>` and the next 256 are the bytes. A text with
    too few different words gives fewer tokens than asked for.

    Args:
        pieces: of the text, cut where no word is cut.
        size: of the vocabulary.

    Raises:
        CorpusError: the library is not installed.
    """
    from harness.data.tokenizer_json import import_tokenizers

    library = import_tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)

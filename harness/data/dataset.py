"""A corpus as token ids: split, encoded once, cached on disk by content, memory-mapped by every trial."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from harness.config.fingerprint import digest_of
from harness.config.run import DataConfig, RunConfig, Split
from harness.data.cache import TOKENS, cache_folder
from harness.data.corpora import Corpus, load_corpus
from harness.data.document_cuts import Cut, check_documents, cut_documents, first_ids
from harness.data.encoding import FIRST_BYTES, TOKEN_BYTES, VOCABULARY
from harness.data.errors import CorpusError
from harness.data.from_memory import checked_ids, corpus_of_tokens, known_tokenizer, text_file
from harness.data.own_tokenizers import open_tokenizer, tokenizer_file, tokenizer_identity
from harness.data.splitting import SPLITS, Division
from harness.data.stored_ids import StoredIds
from harness.data.token_cache import CachedTokens, open_tokens
from harness.data.tokenizer import Ids, Tokenizer, TokenizerFile, check_tokenizer

if TYPE_CHECKING:
    from harness.data.windows import Windows

FORMAT: Final = 1  # of the cached files and of `split_points`; raise it when either changes
_SCAN_LIMIT: Final = 100_000_000  # tokens: a quarter of a second
_SCAN_CHUNK: Final = 1 << 16  # tokens


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tokens of a corpus, in three splits.

    Attributes:
        corpus: the text, which stays in its files.
        tokenizer: the tokenizer's name.
        fingerprint: SHA-256 over corpus, tokenizer, vocabulary, split and file format. Datasets with equal
            fingerprints have equal tokens.
        train, val, test: token ids, shape (tokens,), memory-mapped and read-only; uint16 for vocabularies of up to
            65,536, else uint32. Each split is encoded by itself. `test` is empty if its share is 0.
        bytes: split → UTF-8 bytes of its text.
        token_bytes: number of bytes of each id, shape (n_vocab,), int32.
        vocabulary: with `data.vocab: corpus`, the tokenizer's ids that occur in any split, ascending, shape
            (n_vocab,); id n stands for the token `vocabulary[n]`. None with `data.vocab: full`.
        tokenizer_file: what defines the tokenizer; None for a built-in one.
        split: how the text is divided.
        first_bytes: split → UTF-8 bytes of the text that its first token stands for; empty for a built-in tokenizer,
            whose `token_bytes` tell them.
        stored: split → its ids, to be read without mapping them, if the files are large; see `reader`.
        config: the section `data` of a run on it.
    """

    corpus: Corpus
    tokenizer: str
    fingerprint: str
    train: Ids
    val: Ids
    test: Ids
    bytes: Mapping[str, int]
    token_bytes: npt.NDArray[np.int32]
    split: Split
    vocabulary: Ids | None = None
    tokenizer_file: TokenizerFile | None = None
    first_bytes: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, StoredIds] = field(default_factory=dict)
    config: DataConfig | None = None

    @classmethod
    def from_text(cls, text: str, tokenizer: str = "gpt2", val: float = 0.1, test: float = 0.1, **more: Any) -> Dataset:
        """The data set of a text in memory, which is kept as a file of the cache, so that runs on it can be repeated.

            data = Dataset.from_text(open("my.txt").read(), tokenizer="byte")
            config = RunConfig.model_validate({"data": data.config, "train": {"budget": {"steps": 100}}})

        Args:
            text: the whole text.
            tokenizer: as `data.tokenizer` of a spec.
            val, test: shares of the text, cut from its end.
            more: other fields of the section `data`, such as `vocab="corpus"`.

        Raises:
            CorpusError: the text is too short, the tokenizer not available, or the cache cannot be written.
            pydantic.ValidationError: a field of `more` or a share is wrong.
        """
        plain = {"path": str(text_file(text)), "format": "text", "tokenizer": tokenizer, **more}
        return open_text(DataConfig.model_validate({**plain, "split": {"val": val, "test": test}}))

    @classmethod
    def from_tokens(
        cls,
        train: Sequence[int] | npt.ArrayLike,
        val: Sequence[int] | npt.ArrayLike,
        test: Sequence[int] | npt.ArrayLike = (),
        tokenizer: str = "gpt2",
    ) -> Dataset:
        """The data set of tokens in memory. A run on it cannot be repeated from its configuration alone.

        Args:
            train, val, test: token ids, shape (tokens,): lists, arrays of NumPy, or tensors on the CPU.
            tokenizer: a built-in one, whose ids these are: `gpt2`, `byte` or another name of tiktoken.

        Raises:
            CorpusError: they are no ids of the tokenizer, or a split but `test` has fewer than two.
        """
        codec = known_tokenizer(tokenizer)
        parts = zip(SPLITS, (train, val, test), (2, 2, 0), strict=True)
        ids = {split: checked_ids(split, tokens, codec.n_vocab, fewest) for split, tokens, fewest in parts}
        digest = hashlib.sha256(b"|".join(ids[split].astype(np.uint32).tobytes() for split in SPLITS)).hexdigest()
        lengths = codec.token_bytes()
        corpus = corpus_of_tokens(digest)
        return cls(
            corpus=corpus,
            tokenizer=tokenizer,
            fingerprint=digest_of({"tokens": digest, "tokenizer": tokenizer, "format": FORMAT}),
            train=ids["train"],
            val=ids["val"],
            test=ids["test"],
            bytes={split: int(lengths[ids[split]].sum()) for split in SPLITS},
            token_bytes=lengths,
            split=Split(),
            config=DataConfig(path=(corpus.name,), tokenizer=tokenizer),
        )

    @property
    def name(self) -> str:
        """Of the corpus."""
        return self.corpus.name

    @property
    def source(self) -> str:
        """Of the corpus, for people."""
        held_out = (f"; {split}: {own.source}" for split, own in self.corpus.held_out.items())
        return "".join((self.corpus.source, *held_out))

    @property
    def sha256(self) -> str:
        """Of the text's UTF-8 bytes, in hex."""
        return self.corpus.whole_sha256

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary: one more than the largest id."""
        return len(self.token_bytes)

    @functools.cached_property
    def copies(self) -> str:
        """A warning about equal documents in different splits; empty if there are none."""
        from harness.data.repeated_text import copies_in_splits  # not at the top: workers do not need it

        return copies_in_splits([(Division(part.corpus, part.split), part.bytes) for part in self.sources.values()])

    @property
    def sources(self) -> Mapping[str, Dataset]:
        """The data sets that it is a mixture of, by name; itself under "" if it is none."""
        return {"": self}

    @property
    def messages(self) -> list[str]:
        """Sentences for the user about text that is left out, repeated or lost by the tokenizer. Raises CorpusError."""
        found = self.notes
        if self.copies:
            found.append((self.corpus.field, f"warning: {self.copies}"))
        if self.lost:
            found.append(("data.tokenizer", f"warning: {self.lost}"))
        return [f"{field}: {sentence}" for field, sentence in found]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Fields of the spec that name a text, with sentences about what is left out or named twice."""
        from harness.data.repeated_text import other_names

        parts = [(part, sentence) for part in self.corpus.parts for sentence in (other_names(part), *part.notes)]
        return [(part.field, sentence) for part, sentence in parts if sentence]

    @functools.cached_property
    def lost(self) -> str:
        """A warning about text that the tokenizer does not keep; empty if it keeps all. Raises CorpusError."""
        from harness.data.lost_text import lost_text

        if self.tokenizer_file is None:
            return ""
        whole = open_tokenizer(self.tokenizer, self.tokenizer_file)
        return lost_text(self.corpus, whole, self.codec, self.val)

    @functools.cached_property
    def codec(self) -> Tokenizer:
        """The tokenizer of this dataset's ids."""
        whole = open_tokenizer(self.tokenizer, self.tokenizer_file)
        return whole if self.vocabulary is None else whole.restricted_to(self.vocabulary)

    @functools.cached_property
    def trained(self) -> Ids | None:
        """The ids that occur in the train split, ascending; None if the split is too long to scan."""
        tokens = self.reader("train")
        if len(tokens) > _SCAN_LIMIT:
            return None
        seen = np.zeros(self.n_vocab, bool)
        for start in range(0, len(tokens), _SCAN_CHUNK):
            seen[tokens[start : start + _SCAN_CHUNK]] = True
        return np.flatnonzero(seen)

    def resolve(self, config: RunConfig) -> RunConfig:
        """The config of a run on this dataset, with `model.vocab_size` filled in.

        Raises:
            CorpusError: `data.vocab` is not that of the dataset, or `model.vocab_size` is too small.
        """
        vocab = "full" if self.vocabulary is None else "corpus"
        if config.data.vocab != vocab:
            raise CorpusError(
                "data.vocab", f"found {config.data.vocab} with a dataset opened with {vocab}; allowed: {vocab}"
            )
        try:
            return config.with_vocabulary(self.n_vocab)
        except ValueError as error:
            raise CorpusError("model.vocab_size", str(error).partition(": ")[2]) from None

    def tokens(self, split: str) -> Ids:
        """The token ids of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def reader(self, split: str) -> Ids | StoredIds:
        """The same ids, of which slices can be taken. Those of large files are read, not mapped.

        Workers take their tokens from here, so that their memory does not grow with the text.
        """
        tokens, stored = self.tokens(split), self.stored.get(split)
        return stored if stored is not None and stored.mapped is tokens else tokens  # a copy may have a part of them

    def shortened(self, val: int) -> Dataset:
        """The same with the first `val` tokens of the validation split, and no test text."""
        return replace(self, val=self.val[:val], test=self.test[:0])

    def windows(self, split: str, context_length: int) -> Windows:
        """The windows of a split, cut as `data.windows` says."""
        from harness.data.windows import AcrossDocuments, WithinDocuments  # not at the top: it imports torch

        tokens = self.reader(split)
        if not self._within_documents:
            return AcrossDocuments(tokens, context_length)
        return WithinDocuments(tokens, context_length, self.codec.end_of_text, self.cut(split, context_length))

    def cut(self, split: str, context_length: int) -> Cut:
        """The windows of a split inside its documents, with `data.windows: within`."""
        key = split, context_length
        if key not in self._cuts:
            self._cuts[key] = cut_documents(self.reader(split), self.codec.end_of_text, context_length)
        return self._cuts[key]

    @functools.cached_property
    def _cuts(self) -> dict[tuple[str, int], Cut]:
        """Split and context length → its windows."""
        return {}

    @property
    def _within_documents(self) -> bool:
        return self.config is not None and self.config.windows == "within"

    def target_bytes(self, split: str) -> float:
        """UTF-8 bytes of a split's text without those of tokens that are never a target.

        That is the first token, or with `data.windows: within` the first of each document, by an estimate for a
        tokenizer that is not lossless.
        """
        tokens = self.reader(split)
        if self._within_documents:
            firsts = first_ids(tokens, self.codec.end_of_text)
            return self.bytes[split] - sum(self.bytes_of(split, ids) for ids in firsts)
        if split in self.first_bytes:
            return self.bytes[split] - self.first_bytes[split]
        return self.bytes[split] - int(self.token_bytes[tokens[:1]].sum())

    def bytes_of(self, split: str, ids: Ids) -> float:
        """UTF-8 bytes that some tokens of a split stand for.

        Exact for a lossless tokenizer. For others the lengths of the pieces do not add up to the text, so they are
        scaled to add up over the whole split.
        """
        size = float(self.token_bytes[ids].sum())
        return size if split not in self.first_bytes else size * self._bytes_a_piece[split]

    @functools.cached_property
    def _bytes_a_piece(self) -> dict[str, float]:
        """Split → bytes of its text for each byte of its tokens' pieces."""
        return {split: self.bytes[split] / max(1, self._piece_bytes(self.reader(split))) for split in SPLITS}

    def _piece_bytes(self, tokens: Ids | StoredIds) -> int:
        starts = range(0, len(tokens), _SCAN_CHUNK)
        return sum(int(self.token_bytes[tokens[start : start + _SCAN_CHUNK]].sum()) for start in starts)


def open_text(
    config: DataConfig,
    root: Path | None = None,
    cache: Path | None = None,
    compare: bool = True,
    file: TokenizerFile | None = None,
) -> Dataset:
    """The data set of one text; arguments and errors as of `harness.data.opening.open_dataset`."""
    check_tokenizer(config.tokenizer)
    store = cache_folder(cache)
    corpus = load_corpus(config, root, store)
    if file is None:
        file = tokenizer_file(config, [corpus], root or Path.cwd(), store)
    return open_corpus(corpus, config, store, compare, file)


def open_corpus(corpus: Corpus, config: DataConfig, store: Path, compare: bool, file: TokenizerFile | None) -> Dataset:
    """The data set of a text that is loaded, in the cache folder `store`."""
    content = {
        **Division(corpus, config.split).content(),
        "tokenizer": config.tokenizer if file is None else tokenizer_identity(file),
        "format": FORMAT,
    }
    fingerprint = digest_of(content if config.vocab == "full" else {**content, "vocab": config.vocab})
    cached = open_tokens(store / TOKENS / fingerprint, corpus, config, compare, file)
    data = dataset_of(cached, corpus, config, fingerprint)
    if compare and config.windows == "within":
        check_documents(config, corpus, data.codec, {split: data.reader(split) for split in SPLITS})
    return data


def dataset_of(cached: CachedTokens, corpus: Corpus, config: DataConfig, fingerprint: str) -> Dataset:
    """The data set whose tokens are in these files."""
    return Dataset(
        corpus=corpus,
        tokenizer=config.tokenizer,
        split=config.split,
        fingerprint=fingerprint,
        train=cached.arrays["train"],
        val=cached.arrays["val"],
        test=cached.arrays["test"],
        bytes=cached.bytes,
        token_bytes=cached.arrays[TOKEN_BYTES].astype(np.int32, copy=False),
        vocabulary=cached.arrays.get(VOCABULARY),
        tokenizer_file=cached.tokenizer_file,
        first_bytes=dict(zip(SPLITS, cached.arrays[FIRST_BYTES].tolist(), strict=True))
        if FIRST_BYTES in cached.arrays
        else {},
        stored=cached.stored,
        config=config,
    )

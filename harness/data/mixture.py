"""A mixture of texts: one data set made of several, each of which is divided, encoded and cached by itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from harness.config.fingerprint import digest_of
from harness.config.mixture import MIX, MixSource
from harness.config.run import DataConfig
from harness.data.cache import cache_folder
from harness.data.corpora import Corpus, load_corpus
from harness.data.dataset import Dataset, open_corpus
from harness.data.document_cuts import Cut
from harness.data.encoding import id_type
from harness.data.errors import CorpusError
from harness.data.own_tokenizers import tokenizer_file
from harness.data.splitting import SPLITS
from harness.data.stored_ids import StoredIds
from harness.data.tokenizer import Ids, TokenizerFile, check_tokenizer

_FIELD: Final = "data.mix"


@dataclass(frozen=True, eq=False)
class Mixture(Dataset):
    """The tokens of several texts, with one tokenizer and one vocabulary.

    Its `train`, `val` and `test` are the splits of all sources one after the other, of which slices can be read. The
    weights are no part of it: they belong to a run's configuration.

    Attributes:
        parts: source → its data set.
    """

    parts: Mapping[str, Dataset] = field(default_factory=dict)

    @property
    def sources(self) -> Mapping[str, Dataset]:
        """The data sets that it is a mixture of, by name."""
        return self.parts

    @property
    def notes(self) -> list[tuple[str, str]]:
        """As of each source."""
        return [(source_field(name, own), text) for name, part in self.parts.items() for own, text in part.notes]

    @functools.cached_property
    def lost(self) -> str:
        """A warning about text of any source that the tokenizer does not keep; empty if it keeps all."""
        return next((part.lost for part in self.parts.values() if part.lost), "")

    @functools.cached_property
    def trained(self) -> Ids | None:
        """The ids that occur in any train split, ascending; None if one is too long to scan."""
        found = [part.trained for part in self.parts.values()]
        known = [ids for ids in found if ids is not None]
        return np.unique(np.concatenate(known)) if len(known) == len(found) else None

    def target_bytes(self, split: str) -> float:
        """UTF-8 bytes of the split of each source without those of its first token, which is never a target."""
        return sum(part.target_bytes(split) for part in self.parts.values())

    def cut(self, split: str, context_length: int) -> Cut:
        """The windows of all sources, of which none reaches from one source into the next."""
        cuts = [part.cut(split, context_length) for part in self.parts.values()]
        ends = np.cumsum([len(part.tokens(split)) for part in self.parts.values()])
        starts = [cut.starts + begin for cut, begin in zip(cuts, [0, *ends[:-1].tolist()], strict=True)]
        return Cut(np.concatenate(starts), np.concatenate([cut.lengths for cut in cuts]))

    def shortened(self, val: int) -> Mixture:
        """The same with the first `val` tokens of each validation split, and no test text."""
        return mixture_of(self.config, {name: part.shortened(val) for name, part in self.parts.items()})


class _Joined:
    """Arrays one after the other, which stay where they are."""

    def __init__(self, arrays: Sequence[Ids | StoredIds]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, wanted: slice) -> Ids:
        start, stop, step = wanted.indices(len(self))
        assert step == 1
        begins = [0, *self._ends[:-1].tolist()]
        parts = (
            array[max(0, start - begin) : max(0, stop - begin)]
            for array, begin in zip(self._arrays, begins, strict=True)
        )
        return np.concatenate(list(parts))


class _Renumbered:
    """An array of ids with other numbers, which are looked up when they are read."""

    def __init__(self, ids: Ids | StoredIds, numbers: Ids) -> None:
        self._ids, self._numbers = ids, numbers

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, wanted: slice) -> Ids:
        return self._numbers[self._ids[wanted]]


def open_mixture(
    config: DataConfig,
    root: Path | None = None,
    cache: Path | None = None,
    compare: bool = True,
    file: TokenizerFile | None = None,
) -> Mixture:
    """The data set of a mixture; arguments and errors as of `harness.data.opening.open_dataset`.

    A tokenizer that is made of text is made of the training texts of all sources, each taken once, whatever its weight.
    """
    check_tokenizer(config.tokenizer)
    store = cache_folder(cache)
    corpora = {name: _of_source(name, load_corpus, part, root, store, True) for name, part in config.parts.items()}
    if file is None:
        file = tokenizer_file(config, list(corpora.values()), root or Path.cwd(), store)
    parts = {
        name: _of_source(name, open_corpus, corpora[name], part, store, compare, file)
        for name, part in config.parts.items()
    }
    return mixture_of(config, parts)


def _of_source(name: str, call: Any, *arguments: Any) -> Any:
    """The result of a call about a source, whose errors name the fields of the source."""
    try:
        return call(*arguments)
    except CorpusError as error:
        raise CorpusError(source_field(name, error.field), error.message) from None


def source_field(name: str, path: str) -> str:
    """`data.path` → `data.mix.NAME.path`; a field that a source does not have stays as it is."""
    own = path.removeprefix("data.")
    return f"{MIX}{name}.{own}" if path.startswith("data.") and own in MixSource.model_fields else path


def mixture_of(config: DataConfig | None, parts: Mapping[str, Dataset]) -> Mixture:
    """The mixture of data sets that are open.

    Args:
        config: of the mixture.
        parts: source → its data set, encoded with the tokenizer of the mixture. With `data.vocab: corpus` each has a
            vocabulary of its own, of which the mixture's is the union.
    """
    first = next(iter(parts.values()))
    if first.vocabulary is None:
        lengths = np.minimum.reduce([part.token_bytes for part in parts.values()])  # that between documents has none
        shared = {name: replace(part, token_bytes=lengths) for name, part in parts.items()}
        vocabulary = None
    else:
        vocabulary, lengths = _union(list(parts.values()))
        shared = {name: _renumbered(part, vocabulary, lengths) for name, part in parts.items()}
    splits = {split: _Joined([part.reader(split) for part in shared.values()]) for split in SPLITS}
    return Mixture(
        corpus=_corpus({name: part.corpus for name, part in parts.items()}),
        tokenizer=first.tokenizer,
        fingerprint=digest_of({"mix": {name: part.fingerprint for name, part in parts.items()}}),
        **cast(dict[str, Any], splits),
        bytes={split: sum(part.bytes[split] for part in parts.values()) for split in SPLITS},
        token_bytes=lengths,
        split=first.split,
        vocabulary=vocabulary,
        tokenizer_file=first.tokenizer_file,
        config=config,
        parts=shared,
    )


def _union(parts: Sequence[Dataset]) -> tuple[Ids, npt.NDArray[np.int32]]:
    """The vocabulary of several data sets, and the bytes of its tokens."""
    known = [part.vocabulary for part in parts if part.vocabulary is not None]
    vocabulary = np.unique(np.concatenate(known))
    lengths = np.full(len(vocabulary), np.iinfo(np.int32).max, np.int32)
    for part, own in zip(parts, known, strict=True):
        places = np.searchsorted(vocabulary, own)
        lengths[places] = np.minimum(lengths[places], part.token_bytes)
    return vocabulary, lengths


def _renumbered(part: Dataset, vocabulary: Ids, lengths: npt.NDArray[np.int32]) -> Dataset:
    """A data set with the ids of a larger vocabulary."""
    assert part.vocabulary is not None
    numbers = np.searchsorted(vocabulary, part.vocabulary).astype(id_type(len(vocabulary)))
    splits = {split: _Renumbered(part.reader(split), numbers) for split in SPLITS}
    return replace(part, **cast(dict[str, Any], splits), vocabulary=vocabulary, token_bytes=lengths)


def _corpus(corpora: Mapping[str, Corpus]) -> Corpus:
    """What is known about the text as a whole."""
    return Corpus(
        name=" + ".join(corpora),
        source="; ".join(f"{name}: {corpus.source}" for name, corpus in corpora.items()),
        sha256=digest_of({name: corpus.whole_sha256 for name, corpus in corpora.items()}),
        characters=sum(corpus.characters for corpus in corpora.values()),
        files=tuple(file for corpus in corpora.values() for file in corpus.files),
        field=_FIELD,
        repeats={},
    )

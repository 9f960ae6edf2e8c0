"""Text and tokens: corpora from a package, files or a URL; tokenizers; datasets that are encoded once; batches."""

from __future__ import annotations

from harness.data.builtin import BUILTIN, Builtin
from harness.data.cache import cache_folder
from harness.data.corpora import Corpus, load_corpus
from harness.data.dataset import Dataset
from harness.data.errors import CorpusError
from harness.data.opening import open_dataset
from harness.data.splitting import SPLITS
from harness.data.tokenizer import Tokenizer, get_tokenizer

__all__ = [
    "BUILTIN",
    "SPLITS",
    "Builtin",
    "Corpus",
    "CorpusError",
    "Dataset",
    "Tokenizer",
    "cache_folder",
    "get_tokenizer",
    "load_corpus",
    "open_dataset",
]

"""Opens the data set of a configuration: of one text, or of a mixture."""

from __future__ import annotations

from pathlib import Path

from harness.config.run import DataConfig
from harness.data.dataset import Dataset, open_text
from harness.data.mixture import open_mixture
from harness.data.tokenizer import TokenizerFile


def open_dataset(
    config: DataConfig,
    root: Path | None = None,
    cache: Path | None = None,
    compare: bool = True,
    file: TokenizerFile | None = None,
) -> Dataset:
    """Open the dataset of a config: the first call encodes it, later ones verify the cache and memory-map it.

    Args:
        config: source, tokenizer and split.
        root: folder that relative paths start from; the current folder when None.
        cache: folder for downloads and tokens; see `cache_folder`. Processes of one user can share it.
        compare: whether cached tokens are compared with the text, see `harness.data.token_cache.open_tokens`. Not in
            workers, whose parent has done it; so they need no tokenizer.
        file: what defines the tokenizer, for one that is not built in; None: it is read or trained here.

    Raises:
        CorpusError: the corpus or the tokenizer is not available, a split would have fewer than two tokens, or the
            cache folder cannot be written or is open to others.
    """
    opened = open_text if config.mix is None else open_mixture
    return opened(config, root, cache, compare, file)

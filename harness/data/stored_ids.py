"""The token ids of a large file, read where they are asked for.

A memory map of a large file grows: a page fault maps all pages around it that the system has in memory, so windows at
random places soon map the whole file, and each worker seems to need as much memory as the text has tokens. `pread`
copies only what is asked for; a window costs a microsecond either way.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from harness.data.errors import CorpusError
from harness.data.tokenizer import Ids


class StoredIds:
    """Token ids in a file, of which slices are read as arrays of their own.

    The file is opened once, so that another file in its place changes nothing.

    Args:
        path: the file.
        mapped: the memory map of all its ids, as `np.load` makes it; not of a slice, whose `offset` may be wrong.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, mapped: np.memmap[tuple[int], np.dtype[np.integer]]) -> None:
        self.path, self.mapped = path, mapped
        self._offset, self._dtype, self._length = mapped.offset, mapped.dtype, len(mapped)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: slice) -> Ids:
        """The ids of a slice without a step, shape (tokens,); read-only.

        Raises:
            CorpusError: the file has become shorter.
        """
        first, last, step = place.indices(self._length)
        assert step == 1, place
        missing, parts = max(0, last - first) * self._dtype.itemsize, []
        begin = self._offset + first * self._dtype.itemsize
        while missing:  # the system may read less than it is asked for
            part = os.pread(self._file, missing, begin)
            if not part:
                raise CorpusError(
                    "data", f"found fewer tokens than before in {str(self.path)!r}; allowed: files that do not change"
                )
            parts.append(part)
            begin, missing = begin + len(part), missing - len(part)
        return np.frombuffer(b"".join(parts), self._dtype)


Tokens = Ids | StoredIds  # of a split

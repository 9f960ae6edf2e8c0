"""Reads what a safetensors file holds without torch: names, types, shapes, and whether all values are finite.

The format: 8 bytes with the length of the header, little-endian; the header, a JSON object that gives each tensor's
type, shape and first and last byte; the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.core.bounded_json import read_json

LENGTH_BYTES: Final = 8
_HEADER_BYTES: Final = 64 * 2**20  # at most
# Type of the weights → numpy's type to read them with. bfloat16 is unknown to numpy: its bits are looked at.
TYPES: Final[Mapping[str, npt.DTypeLike]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_BF16_EXPONENT: Final = 0x7F80  # all bits set: infinite or NaN
_SIGN: Final = 0x8000
_PIECE: Final = 4 * 2**20  # values that are looked at at once


class TensorFileError(ValueError):
    """A file is no complete safetensors file; the message fits behind its name."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: in safetensors' words, such as F32.
        shape: of the tensor.
        start: of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name.

    Raises:
        TensorFileError: it is damaged, truncated or something else.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, _HEADER_BYTES):
            raise TensorFileError("is no safetensors file, or was cut off")
        text = stream.read(length)
    try:
        header = read_json(text)
    except ValueError as error:
        raise TensorFileError(f"is no safetensors file: its header {error}") from None
    if not isinstance(header, dict):
        raise TensorFileError("is no safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    found, ends = {}, [0]
    for name, entry in header.items():
        stored, end = _stored(name, entry, LENGTH_BYTES + length)
        found[name] = stored
        ends.append(end)
    if LENGTH_BYTES + length + max(ends) != size:
        raise TensorFileError(
            f"was cut off or is damaged: found {size:,} bytes; its header says {LENGTH_BYTES + length + max(ends):,}"
        )
    return found


def _stored(name: str, entry: Any, first: int) -> tuple[Stored, int]:
    """A tensor of the header, and the byte after it, counted from the end of the header."""
    try:
        dtype, shape, (start, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
        if not whole or start > end:
            raise TypeError
    except (LookupError, TypeError, ValueError):
        raise TensorFileError(f"is damaged: its header has no valid entry for {name}") from None
    if dtype in TYPES and end - start != math.prod(shape) * np.dtype(TYPES[dtype]).itemsize:
        raise TensorFileError(f"is damaged: {name} has another size than its shape {list(shape)}")
    return Stored(dtype, shape, first + start), end


def first_infinite(path: Path, tensors: Mapping[str, Stored]) -> str:
    """The name of the first tensor with a value that is NaN or infinite; empty if there is none.

    Args:
        path: of the file.
        tensors: some of it, of the types in `TYPES`.
    """
    for name, stored in tensors.items():
        for piece in _pieces(path, stored):
            if stored.dtype == "BF16":
                infinite = ((piece & _BF16_EXPONENT) == _BF16_EXPONENT).any()
            else:
                infinite = not np.isfinite(piece).all()
            if infinite:
                return name
    return ""


def is_zero(path: Path, stored: Stored) -> bool:
    """Whether all values of a tensor are zero."""
    return not any((piece & (_SIGN - 1) if stored.dtype == "BF16" else piece).any() for piece in _pieces(path, stored))


def are_equal(one: tuple[Path, Stored], other: tuple[Path, Stored]) -> bool:
    """Whether two tensors have the same type, shape and bits."""
    if (one[1].dtype, one[1].shape) != (other[1].dtype, other[1].shape):
        return False
    pairs = zip(_pieces(*one), _pieces(*other), strict=True)
    return all(mine.tobytes() == theirs.tobytes() for mine, theirs in pairs)


def _pieces(path: Path, stored: Stored) -> Iterator[Any]:
    """The values of a tensor, of a type in `TYPES`, some at a time, mapped into memory."""
    count = math.prod(stored.shape)
    if count:
        values: Any = np.memmap(path, TYPES[stored.dtype], "r", stored.start, (count,))
        yield from (values[first : first + _PIECE] for first in range(0, count, _PIECE))

"""Checks of values that would otherwise go wrong silently inside a compiled step."""

import zlib
from collections.abc import Sequence

import numpy as np

__all__ = ["check_range", "fingerprint", "flat_ids"]


def check_range(
    values: np.ndarray, size: int, what: str, starts: np.ndarray | None = None, *, first_row: int = 0
) -> None:
    """Raise unless every value is one of 0, ..., size - 1.

    An embedding lookup clips an id that is out of range, and a loss turns such a label into NaN; here the
    mistake is named while its row is still known.

    Equivalent to::

        assert all(0 <= value < size for value in values)

    Args:
        values: integers: one for each row, or those of all rows one after the other. [values]
        size: the number of allowed values.
        what: the name of a value for the message, such as ``"label"``.
        starts: where each row starts in ``values``; None if each value is a row. [rows]
        first_row: the number of the first row, for the message.

    Returns:
        Nothing.

    Raises:
        ValueError: names the first row and value that are out of range; or they are no integers.
    """
    if values.dtype.kind not in "iu":
        raise ValueError(f"wanted integers as {what}, got {values.dtype}; round or cast them first")
    bad = (values < 0) | (values >= size)
    if bad.any():
        first = int(np.argmax(bad))
        row = first if starts is None else int(np.searchsorted(starts, first, side="right")) - 1
        raise ValueError(
            f"row {first_row + row}: {what} {values[first]} is out of range: wanted 0 <= {what} < {size}; "
            f"correct the row, or make room for more than {size} values"
        )


def flat_ids(sequences: Sequence[Sequence[int]], size: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """All sequences one after the other, and where each starts; checked as they are, before any cast.

    Equivalent to::

        np.concatenate(sequences).astype(np.int32), np.cumsum([0, *map(len, sequences)])[:-1]

    Args:
        sequences: the ids of each row.
        size: ids must be below it.
        what: the name of an id for the message.

    Returns:
        The ids, int32 [ids], and the starts, int64 [rows].

    Raises:
        ValueError: names the first row with an id that is out of range; or some ids are no integers.
    """
    sizes = np.array([len(sequence) for sequence in sequences], np.int64)
    starts = np.cumsum(sizes) - sizes
    # An empty list would be an array of floats, and make floats of all the others.
    flat = np.concatenate([np.zeros(0, np.int32), *(sequence for sequence in sequences if len(sequence))])
    check_range(flat, size, what, starts)
    return flat.astype(np.int32, copy=False), starts


def fingerprint(*arrays: np.ndarray) -> int:
    """A checksum of the content of arrays, to know the same data again.

    Equivalent to::

        zlib.crc32(b"".join(array.tobytes() for array in arrays))

    Args:
        arrays: any arrays; their order counts, their shapes do not.

    Returns:
        From 0 to 2**32 - 1.
    """
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
    return checksum

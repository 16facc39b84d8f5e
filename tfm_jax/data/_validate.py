"""Range checks of ids and labels, flat arrays of sequences, and checksums."""

import zlib
from collections.abc import Sequence

import numpy as np

from tfm_jax.types import Tokenizer

__all__ = ["check_range", "check_special_ids", "fingerprint", "flat_ids", "padding_id"]


def check_range(
    function: str,
    what: str,
    values: np.ndarray,
    size: int,
    starts: np.ndarray | None = None,
    *,
    first_row: int = 0,
) -> None:
    """Raises unless every value is one of 0, ..., size - 1.

    An embedding lookup clips an id that is out of range, and a loss turns such a label into NaN. This check
    names the row before that happens.

    Equivalent to::

        assert all(0 <= value < size for value in values)

    Args:
      function: the public function or class, for the message.
      what: the name of a value, for the message, such as ``"label"``.
      values: integers: one per row, or those of all rows one after the other. [values]
      size: the number of allowed values.
      starts: where each row starts in ``values``; None if each value is a row. [rows]
      first_row: the number of the first row, for the message.

    Raises:
      ValueError: names the first row and value that are out of range; or the values are no integers.
    """
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"{function}: got {what} of {values.dtype}; wanted integers. Round or cast them first."
        )
    bad = (values < 0) | (values >= size)
    if bad.any():
        first = int(np.argmax(bad))
        row = first if starts is None else int(np.searchsorted(starts, first, side="right")) - 1
        raise ValueError(
            f"{function}: got {what} {values[first]} in row {first_row + row}; wanted 0 <= {what} < {size}. "
            f"Correct the row, or allow more than {size} values."
        )


def check_special_ids(function: str, vocab_size: int, **ids: int) -> None:
    """Raises unless the ids of special tokens are in the vocabulary.

    Equivalent to::

        assert all(0 <= value < vocab_size for value in ids.values())

    Args:
      function: the public function or class, for the message.
      vocab_size: ids must be below it.
      ids: such as ``pad_id=0``.

    Raises:
      ValueError: names the first id that is out of range.
    """
    for name, value in ids.items():
        if not 0 <= value < vocab_size:
            raise ValueError(
                f"{function}: got {name}={value}; wanted 0 <= {name} < {vocab_size}, the vocabulary size. "
                "Pass that of the tokenizer, or allow more ids."
            )


def padding_id(tokenizer: Tokenizer, vocab_size: int) -> int:
    """The id that fills padding: that of the tokenizer, or 0 if it has none in the vocabulary.

    Which id it is changes nothing: a batch says by its weights, ``valid`` or segment ids what is padding.

    Args:
      tokenizer: the tokenizer.
      vocab_size: the model's.

    Returns:
      An id below ``vocab_size``.
    """
    pad_id = tokenizer.pad_id
    return pad_id if pad_id is not None and pad_id < vocab_size else 0


def flat_ids(
    function: str, what: str, sequences: Sequence[Sequence[int] | np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates sequences of ids; checks their range before they are cast.

    Equivalent to::

        np.concatenate(sequences).astype(np.int32), np.cumsum([0, *map(len, sequences)])[:-1]

    Args:
      function: the public function or class, for the message.
      what: the name of an id, for the message.
      sequences: the ids of each row.
      size: ids must be below it.

    Returns:
      The ids, int32 [ids], and the start of each row, int64 [rows].

    Raises:
      ValueError: names the first row with an id that is out of range; or some ids are no integers.
    """
    sizes = np.array([len(sequence) for sequence in sequences], np.int64)
    starts = np.cumsum(sizes) - sizes
    # An empty list would become an array of floats, and turn all the others into floats.
    flat = np.concatenate([np.zeros(0, np.int32), *(sequence for sequence in sequences if len(sequence))])
    check_range(function, what, flat, size, starts)
    return flat.astype(np.int32, copy=False), starts


def fingerprint(*arrays: np.ndarray) -> int:
    """CRC-32 checksum of the content of arrays.

    Equivalent to::

        zlib.crc32(b"".join(array.tobytes() for array in arrays))

    Args:
      arrays: any arrays; their order counts, their shapes do not.

    Returns:
      From 0 to 2**32 - 1.
    """
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum

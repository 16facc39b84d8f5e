"""Checks of values that would otherwise go wrong silently inside a compiled step."""

import numpy as np

__all__ = ["check_range"]


def check_range(values: np.ndarray, size: int, what: str, starts: np.ndarray | None = None) -> None:
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

    Returns:
        Nothing.

    Raises:
        ValueError: names the first row and value that are out of range.
    """
    bad = (values < 0) | (values >= size)
    if bad.any():
        first = int(np.argmax(bad))
        row = first if starts is None else int(np.searchsorted(starts, first, side="right")) - 1
        raise ValueError(
            f"row {row}: {what} {values[first]} is out of range: wanted 0 <= {what} < {size}; "
            f"correct the row, or make room for more than {size} values"
        )

"""``Mutant``: a function with one bug, and the laws that it violates."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Mutant(NamedTuple):
    """A correct function with one part replaced by a wrong one.

    Args:
      function: the wrong function.
      violates: names of laws that it must violate.
      seen: the thread that reports such a bug, "owner/repository#number"; "" if none is known.
    """

    function: Callable[..., Any]
    violates: list[str]
    seen: str = ""

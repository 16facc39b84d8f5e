"""What stands in the museum: a wrong function, the laws that find it out, and where its bug was seen."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Mutant(NamedTuple):
    """A right function with one part exchanged.

    Args:
      function: the wrong one.
      breaks: names of laws that it must break.
      seen: the thread in which such a bug was found, "owner/repository#number"; "" where none is known.
    """

    function: Callable[..., Any]
    breaks: list[str]
    seen: str = ""

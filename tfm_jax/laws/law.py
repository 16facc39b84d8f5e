"""What a law is: a sentence, cases to try it on, and a statement that a case breaks or does not."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

__all__ = ["TOLERANCE", "Law", "Suite", "Violation", "law", "same"]

TOLERANCE = 2e-5  # of sums of a few numbers near 1 in float32, whatever their order


class Violation(AssertionError):
    """A statement does not hold of a case; says what was got and what was wanted."""


@dataclasses.dataclass(frozen=True)
class Law:
    """A property that a function either has or has not.

    Args:
      name: one word for it, with underscores.
      sentence: what holds.
      cases: a hypothesis strategy of what the statement is tried on, the simplest first.
      statement: called with the function, asked as its suite asks it, and a case; raises ``Violation``.
    """

    name: str
    sentence: str
    cases: SearchStrategy[Any]
    statement: Callable[[Any, Any], None]


def law(cases: SearchStrategy[Any]) -> Callable[[Callable[[Any, Any], None]], Law]:
    """Makes a ``Law`` of a statement: its name, and the first line of its docstring as the sentence.

    Args:
      cases: a hypothesis strategy.

    Returns:
      The decorator.
    """
    return lambda statement: Law(
        statement.__name__, statement.__doc__.strip().splitlines()[0], cases, statement
    )


@dataclasses.dataclass(frozen=True)
class Suite:
    """Laws of one kind of function.

    Args:
      name: what the function is.
      signature: how it is called.
      ask: makes of a function, and the options of ``check``, what the statements call.
      laws: the laws.
    """

    name: str
    signature: str
    ask: Callable[..., Any]
    laws: tuple[Law, ...]

    def __iter__(self) -> Iterator[Law]:
        return iter(self.laws)

    def __getitem__(self, name: str) -> Law:
        for found in self.laws:
            if found.name == name:
                return found
        raise KeyError(f"{name!r}; the laws of {self.name} are {', '.join(x.name for x in self.laws)}")

    def only(self, *names: str) -> "Suite":
        """The suite with these laws alone.

        Args:
          names: of laws.

        Returns:
          A Suite.

        Raises:
          KeyError: for a name that it does not have.
        """
        return dataclasses.replace(self, laws=tuple(self[name] for name in names))


def same(got: Any, wanted: Any, *, atol: float = 0.0, what: str = "output") -> None:
    """Raises ``Violation`` where two arrays differ, nan counting as equal to nan.

    Args:
      got: what the function gave.
      wanted: what the law says: an array of the same shape, or one number for all.
      atol: how far apart two numbers may be, beside a relative ``atol``; 0 is exactly equal.
      what: the name of it in the message.

    Returns:
      Nothing.

    Raises:
      Violation: with both in few digits, or both shapes.
    """
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if wanted.ndim and wanted.shape != got.shape:
        raise Violation(f"{what}: got shape {list(got.shape)}, wanted {list(wanted.shape)}")
    wanted = np.broadcast_to(wanted, got.shape)
    if not np.allclose(got, wanted, rtol=atol, atol=atol, equal_nan=True):
        with np.errstate(invalid="ignore"):  # of two that are infinite
            distance = np.abs(got - wanted)
        apart = np.where(np.isfinite(got) & np.isfinite(wanted), distance, got != wanted)
        worst = tuple(map(int, np.unravel_index(np.nanargmax(apart), apart.shape)))
        at = f"; at {list(worst)} {got[worst]:.9g}, not {wanted[worst]:.9g}" if worst else ""
        raise Violation(f"{what}: got {show(got)}, wanted {show(wanted)}{at}")


def show(x: Any) -> str:
    """An array in few digits, on one line."""
    text = np.array2string(
        np.asarray(x, np.float64), precision=4, suppress_small=True, separator=", ", threshold=64
    )
    return " ".join(text.split())

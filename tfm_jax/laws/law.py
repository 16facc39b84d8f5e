"""``Law`` and ``Suite``: a property in one sentence, a strategy of cases, and a check of one case."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from hypothesis.strategies import SearchStrategy
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike as NumPyArrayLike

__all__ = ["SEVERITIES", "TOLERANCE", "Law", "Suite", "Violation", "assert_close", "describe", "law", "show"]

TOLERANCE = 2e-5  # for sums of a few float32 numbers near 1, in any order
SEVERITIES = ("wrong result", "contract")
"""What a violated law says: the function computes something else than its name says, or it does not make a
promise that this library makes, such as output 0 in a fully masked row."""

S = TypeVar("S")
C = TypeVar("C")
ArrayLike = NumPyArrayLike | JaxArrayLike


class Violation(AssertionError):
    """A law does not hold in a case. The message says what was got and what was wanted.

    Args:
      message: the message.
      case: the case, where it is not the one with which the statement was called.
      severity: where it is a lesser one than the law's.
    """

    def __init__(self, message: str = "", *, case: object = None, severity: str | None = None):
        super().__init__(message)
        self.case, self.severity = case, severity


@dataclasses.dataclass(frozen=True)
class Law:
    """A property of a function.

    Args:
      name: an identifier.
      sentence: the property.
      cases: a hypothesis strategy of cases, the simplest first.
      statement: called with the suite's subject and a case; raises ``Violation`` where the law does not hold.
      severity: "wrong result", or "contract" for a promise of this library that a right function may not
        make.

    Raises:
      ValueError: for another severity.
    """

    name: str
    sentence: str
    cases: SearchStrategy[object]
    statement: Callable[..., None]
    severity: str = SEVERITIES[0]

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"Law: got severity={self.severity!r}; wanted one of {', '.join(SEVERITIES)}.")


def law(
    cases: SearchStrategy[C], *, severity: str = SEVERITIES[0]
) -> Callable[[Callable[[S, C], None]], Law]:
    """Decorator that makes a ``Law`` of a statement.

    The statement's name is the law's name, the first line of its docstring is the law's sentence.

    Args:
      cases: a hypothesis strategy.
      severity: of the law: "wrong result" or "contract".

    Returns:
      The decorator.

    Raises:
      ValueError: the statement has no docstring, or for another severity.
    """

    def make(statement: Callable[[S, C], None]) -> Law:
        lines = (statement.__doc__ or "").strip().splitlines()
        if not lines:
            raise ValueError(
                f"laws.law: got {statement.__name__} without a docstring; wanted the property in one "
                "sentence. Write it as the first line of the docstring."
            )
        return Law(statement.__name__, lines[0], cases, statement, severity)

    return make


@dataclasses.dataclass(frozen=True)
class Suite:
    """The laws of one kind of function.

    Args:
      name: the kind of function.
      signature: how the function is called.
      subject: called with a function and the options of ``check``; returns what the statements call.
      laws: the laws.
    """

    name: str
    signature: str
    subject: Callable[..., object]
    laws: tuple[Law, ...]

    def __iter__(self) -> Iterator[Law]:
        return iter(self.laws)

    def __getitem__(self, name: str) -> Law:
        for found in self.laws:
            if found.name == name:
                return found
        raise KeyError(
            f"laws.{self.name}: got {name!r}; wanted one of {', '.join(x.name for x in self.laws)}"
        )

    def only(self, *names: str) -> "Suite":
        """The suite, restricted to these laws.

        Args:
          names: names of laws.

        Returns:
          A Suite.

        Raises:
          KeyError: for a name that the suite does not have.
        """
        return dataclasses.replace(self, laws=tuple(self[name] for name in names))


def assert_close(got: ArrayLike, wanted: ArrayLike, *, atol: float = 0.0, what: str = "output") -> None:
    """Raises ``Violation`` where two arrays differ. NaN equals NaN.

    Args:
      got: the function's result.
      wanted: an array of the same shape, or one number for all elements.
      atol: the absolute and the relative tolerance; 0 requires equality.
      what: the name of the result in the message.

    Returns:
      Nothing.

    Raises:
      Violation: with both arrays in few digits, or both shapes.
    """
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if wanted.ndim and wanted.shape != got.shape:
        raise Violation(f"{what}: got shape {list(got.shape)}; wanted {list(wanted.shape)}")
    wanted = np.broadcast_to(wanted, got.shape)
    if not np.allclose(got, wanted, rtol=atol, atol=atol, equal_nan=True):
        with np.errstate(invalid="ignore"):  # inf - inf
            distance = np.abs(got - wanted)
        apart = np.where(np.isfinite(got) & np.isfinite(wanted), distance, got != wanted)
        worst = tuple(map(int, np.unravel_index(np.nanargmax(apart), apart.shape)))
        at = f"; at {list(worst)} {got[worst]:.9g}, not {wanted[worst]:.9g}" if worst else ""
        raise Violation(f"{what}: got {show(got)}; wanted {show(wanted)}{at}")


def describe(case: object) -> str:
    """A case as text: the parts of a tuple or a dict on lines of their own, float arrays in few digits."""
    if isinstance(case, tuple):
        names = getattr(case, "_fields", None) or [f"argument {i}" for i in range(len(case))]
        case = dict(zip(names, case, strict=True))
    if isinstance(case, dict):
        return "\n".join(f"{name} = {describe(part)}" for name, part in case.items())
    if isinstance(case, np.ndarray):
        return show(case) if np.issubdtype(case.dtype, np.floating) else str(case.tolist())
    return str(case)


def show(x: ArrayLike) -> str:
    """An array in few digits, on one line."""
    text = np.array2string(
        np.asarray(x, np.float64), precision=4, suppress_small=True, separator=", ", threshold=64
    )
    return " ".join(text.split())

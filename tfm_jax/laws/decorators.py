"""Decorators that make tests of laws: ``holds``, one of a suite, and ``parametrize``, one of each law."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tfm_jax.laws.check import check, check_law
from tfm_jax.laws.law import Suite
from tfm_jax.laws.report import Transcript
from tfm_jax.laws.subject import Subject

__all__ = ["LawViolated", "holds", "parametrize"]

Make = Callable[..., Any]
"""Returns the function under test; its arguments are fixtures."""


class LawViolated(AssertionError):
    """A function violates a law in a test of ``holds`` or ``parametrize``. The message is the report."""


def holds(
    suite: Suite, *, allow_unsupported: tuple[str, ...] = (), **options: Any
) -> Callable[[Make], Callable[..., None]]:
    """Decorator that makes a test of a function that returns the function under test.

    Equivalent to::

        def test(*args):
            report = check(make(*args), suite, **options)
            assert not report.violated and set(report.unsupported) <= set(allow_unsupported)

    Args:
      suite: the laws.
      allow_unsupported: names of laws that the function need not support.
      options: as for ``check``.

    Returns:
      The decorator. The test takes the arguments of the decorated function, such as fixtures, and raises
      ``LawViolated`` with the report.
    """

    def decorate(make: Make) -> Callable[..., None]:
        @functools.wraps(make)
        def test(*args: Any, **kwargs: Any) -> None:
            report = check(make(*args, **kwargs), suite, **options)
            if report.violated or not set(report.unsupported) <= set(allow_unsupported):
                raise LawViolated(f"\n{report}")

        return test

    return decorate


def parametrize(
    suite: Suite,
    *,
    allow_unsupported: tuple[str, ...] = (),
    examples: int = 100,
    seed: int = 0,
    **options: Any,
) -> Callable[[Make], Callable[..., None]]:
    """Decorator that makes one pytest test of each law, of a function that returns the function under test.

    Equivalent to::

        @pytest.mark.parametrize("law", [law.name for law in suite])
        def test(law):
            assert check(make(), suite.only(law), **options).ok

    Args:
      suite: the laws; their names are the ids of the tests, so that ``pytest -k causality`` selects one.
      allow_unsupported: names of laws that the function need not support; where it does not, the test is
        skipped.
      examples: as for ``check``.
      seed: as for ``check``.
      options: as for ``check``.

    Returns:
      The decorator. The test takes the arguments of the decorated function, such as fixtures, and raises
      ``LawViolated`` with the finding. Where the function under test is the same object in each test, they
      share what they compile.

    Raises:
      ImportError: without pytest.
    """
    try:
        import pytest
    except ImportError as error:
        raise ImportError(
            "laws.parametrize: got no pytest; wanted it installed. pip install pytest."
        ) from error

    def decorate(make: Make) -> Callable[..., None]:
        subject_of = _Subjects(suite, options)
        names = [law.name for law in suite]

        @functools.wraps(make)
        def test(*args: Any, law: str, **kwargs: Any) -> None:
            subject = subject_of(make(*args, **kwargs))
            if isinstance(subject, Subject) and not subject.applies(law):
                pytest.skip(f"{law} says nothing under the options {options}")
            found = check_law(suite[law], subject, suite.signature, examples=examples, seed=seed)
            if found.status == "not supported" and law in allow_unsupported:
                pytest.skip(found.reason)
            if found.status != "holds":
                raise LawViolated(f"\n{Transcript().text(found)}")

        parameters = list(inspect.signature(make).parameters.values())
        parameters.append(inspect.Parameter("law", inspect.Parameter.KEYWORD_ONLY))
        test.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        return pytest.mark.parametrize("law", names)(test)

    return decorate


class _Subjects:
    """The subject of a function, the same for the same function as in the call before."""

    def __init__(self, suite: Suite, options: dict[str, Any]):
        self._suite, self._options = suite, options
        self._function, self._subject = None, None

    def __call__(self, function: Any) -> Any:
        if self._subject is None or function is not self._function:
            self._function, self._subject = function, self._suite.subject(function, **self._options)
        return self._subject

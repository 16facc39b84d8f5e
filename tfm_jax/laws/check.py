"""``check``: tests a function against a suite of laws, and reports what holds."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, errors

from tfm_jax.laws.law import Law, Suite, Violation, describe
from tfm_jax.laws.subject import Unsupported

__all__ = ["Finding", "LawViolated", "Report", "check", "findings", "holds"]

STATUSES = ("holds", "violated", "not supported")


class LawViolated(AssertionError):
    """A function violates a law of a ``holds`` test. The message is the report."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one law.

    Args:
      law: the law.
      cases: the number of cases in which the law was checked.
      unsupported: the number of cases for which the function raised ValueError, TypeError or RuntimeError.
      reason: the first of these exceptions, as text; "" without any.
      counterexample: the smallest case found that violates the law, with the message; None where it holds.
    """

    law: Law
    cases: int
    unsupported: int
    reason: str
    counterexample: str | None

    @property
    def status(self) -> str:
        """ "holds", "violated" or "not supported"."""
        if self.counterexample is not None:
            return "violated"
        return "holds" if self.cases else "not supported"

    def __str__(self) -> str:
        lines = [f"{self.status:13s} {self.law.name}: {self.law.sentence}"]
        if self.counterexample is not None:
            lines += [f"    {line}" for line in self.counterexample.splitlines()]
        elif self.unsupported:
            total = self.cases + self.unsupported
            lines.append(f"    {self.unsupported} of {total} cases not supported: {self.reason}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Report:
    """The findings of a suite; as text, one line per law, with the counterexamples.

    Args:
      suite: the name of the suite.
      findings: one per law.
    """

    suite: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every law holds. A law that is not supported is not violated, but does not hold either."""
        return not self.violated and not self.unsupported

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the violated laws."""
        return self._with_status("violated")

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The names of the laws for which the function supports no case."""
        return self._with_status("not supported")

    def _with_status(self, status: str) -> tuple[str, ...]:
        return tuple(found.law.name for found in self.findings if found.status == status)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), self.summary()])

    def summary(self) -> str:
        """The number of laws by status, in one line."""
        holding, violated, unsupported = (len(self._with_status(status)) for status in STATUSES)
        return (
            f"{len(self.findings)} laws of {self.suite}: {holding} hold, {violated} violated, "
            f"{unsupported} not supported"
        )


def check(
    function: Callable[..., Any], suite: Suite, *, examples: int = 100, seed: int = 0, **options: Any
) -> Report:
    """Tests a function, ours or yours, against the laws of a suite.

    Equivalent to::

        Report(suite.name, tuple(findings(function, suite, examples=examples, seed=seed, **options)))

    Args:
      function: called as ``suite.signature`` says. A case for which it raises ValueError, TypeError or
        RuntimeError counts as not supported; any other exception violates the law.
      suite: such as ``laws.attention``, or ``laws.attention.only("fully_masked_rows")``.
      examples: cases per law, at least 1.
      seed: the same seed draws the same cases.
      options: of the suite, such as ``mask`` of ``laws.attention``; ``help(suite.subject)`` describes them.

    Returns:
      A ``Report``. A counterexample is the smallest case found, or the first one where hypothesis' current
      profile leaves out ``Phase.shrink``.

    Raises:
      ValueError: for less than 1 example.
    """
    return Report(suite.name, tuple(findings(function, suite, examples=examples, seed=seed, **options)))


def findings(
    function: Callable[..., Any], suite: Suite, *, examples: int = 100, seed: int = 0, **options: Any
) -> Iterator[Finding]:
    """The findings of ``check``, one at a time.

    Args:
      function: as for ``check``.
      suite: as for ``check``.
      examples: as for ``check``.
      seed: as for ``check``.
      options: as for ``check``.

    Returns:
      An iterator with one ``Finding`` per law.

    Raises:
      ValueError: as ``check``, at the first finding.
    """
    subject = suite.subject(function, **options)  # one for all laws, which share its compiled functions
    for each in suite:
        yield _check_law(each, subject, examples, seed)


def holds(
    suite: Suite, *, allow_unsupported: tuple[str, ...] = (), **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
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

    def decorate(make: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(make)
        def test(*args: Any, **kwargs: Any) -> None:
            report = check(make(*args, **kwargs), suite, **options)
            if report.violated or not set(report.unsupported) <= set(allow_unsupported):
                raise LawViolated(f"\n{report}")

        return test

    return decorate


def _check_law(law: Law, subject: Any, examples: int, seed: int) -> Finding:
    if examples < 1:
        raise ValueError(f"laws.check: got examples={examples}; wanted at least 1")
    count, reasons = 0, []
    profile = hypothesis.settings.default
    shrinks = profile is not None and Phase.shrink in profile.phases

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        # Always generate new cases, whatever else the current profile leaves out.
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]  an enum to it, not a meta
    )
    @hypothesis.given(law.cases)
    def run(case: Any) -> None:
        nonlocal count
        try:
            law.statement(subject, case)
        except Unsupported as unsupported:
            reasons.append(str(unsupported))
            hypothesis.reject()
        except Violation as violation:
            raise Violation(f"{describe(case)}\n{violation}") from None
        count += 1

    counterexample = None
    try:
        run()
    except Violation as violation:
        counterexample = str(violation)
    except errors.Flaky as flaky:
        counterexample = f"two calls with the same arguments give different results:\n{flaky}"
    except errors.Unsatisfiable:
        if not reasons:
            raise
    return Finding(law, count, len(reasons), reasons[0] if reasons else "", counterexample)

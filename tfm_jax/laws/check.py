"""Laws tried on a function: what holds, what breaks, and what could not be asked."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from tfm_jax.laws.law import Law, Suite, Violation
from tfm_jax.laws.subject import Refused

__all__ = ["Finding", "LawViolated", "Report", "check", "findings", "holds"]


class LawViolated(AssertionError):
    """A function breaks a law that it was held to; the message is the report."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one law.

    Args:
      law: which.
      asked: on how many cases the statement was tried to its end.
      refused: how many cases the function refused by an exception.
      refusal: the first of these exceptions, in words; "" without any.
      counter_example: the smallest case found that breaks it, and how; None where it holds.
    """

    law: Law
    asked: int
    refused: int
    refusal: str
    counter_example: str | None

    @property
    def status(self) -> str:
        """ "holds", "breaks" or "cannot be asked"."""
        if self.counter_example is not None:
            return "breaks"
        return "holds" if self.asked else "cannot be asked"

    def __str__(self) -> str:
        lines = [f"{self.status:15s} {self.law.name}: {self.law.sentence}"]
        if self.counter_example is not None:
            lines += [f"    {line}" for line in self.counter_example.splitlines()]
        elif self.refused:
            lines.append(f"    refused {self.refused} of {self.asked + self.refused} cases: {self.refusal}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of all laws of a suite; as text, a line each, and the counter-examples.

    Args:
      suite: the name of the suite.
      findings: one a law.
    """

    suite: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every law holds. One that could not be asked is not broken, but does not hold either."""
        return not self.broken and not self.unasked

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the laws that are broken."""
        return self._named("breaks")

    @property
    def unasked(self) -> tuple[str, ...]:
        """The names of the laws of which the function refused every case."""
        return self._named("cannot be asked")

    def _named(self, status: str) -> tuple[str, ...]:
        return tuple(found.law.name for found in self.findings if found.status == status)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), self.summary()])

    def summary(self) -> str:
        """How many hold, in one line."""
        n = {status: len(self._named(status)) for status in ("holds", "breaks", "cannot be asked")}
        return (
            f"{len(self.findings)} laws of {self.suite}: {n['holds']} hold, {n['breaks']} broken, "
            f"{n['cannot be asked']} cannot be asked"
        )


def findings(
    function: Callable[..., Any], suite: Suite, *, examples: int = 100, seed: int = 0, **options: Any
) -> Iterator[Finding]:
    """Tries law after law; ``check`` for those who want to see each as it comes.

    Args:
      function: as for ``check``.
      suite: as for ``check``.
      examples: as for ``check``.
      seed: as for ``check``.
      options: as for ``check``.

    Returns:
      An iterator of a ``Finding`` a law.

    Raises:
      ValueError: as ``check``, when the first finding is asked for.
    """
    asked = suite.ask(function, **options)  # once: what it has compiled for one law serves the next
    for each in suite:
        yield _try(each, asked, examples, seed)


def check(
    function: Callable[..., Any], suite: Suite, *, examples: int = 100, seed: int = 0, **options: Any
) -> Report:
    """Tries the laws of a suite on a function, ours or anybody's.

    Equivalent to::

        Report(suite.name, tuple(findings(function, suite, examples=examples, seed=seed, **options)))

    Args:
      function: called as ``suite.signature`` says. A ValueError, TypeError or RuntimeError from it refuses a
        case, any other exception breaks the law; a case that it accepts, it must get right.
      suite: such as ``laws.attention``, or ``laws.attention.only("empty_rows")``.
      examples: cases a law, at least 1.
      seed: the same seed tries the same cases.
      options: the suite's own; those of ``laws.attention`` are ``AttentionSubject``'s.

    Returns:
      A ``Report``, to be read or printed. A counter-example is the smallest that was found; where hypothesis'
      current profile has no ``Phase.shrink`` the first.

    Raises:
      ValueError: for less than 1 example.
    """
    return Report(suite.name, tuple(findings(function, suite, examples=examples, seed=seed, **options)))


def holds(
    suite: Suite, *, may_refuse: tuple[str, ...] = (), **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Makes a test of a function that gives the function to be held to the laws.

    Equivalent to::

        def test(*args):
            report = check(make(*args), suite, **options)
            assert not report.broken and set(report.unasked) <= set(may_refuse)

    Args:
      suite: the laws.
      may_refuse: names of laws of which the function may refuse every case.
      options: as for ``check``.

    Returns:
      The decorator. What it makes takes the arguments of what it decorates, such as fixtures, and raises
      ``LawViolated`` with the report.
    """

    def decorate(make: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(make)
        def test(*args: Any, **kwargs: Any) -> None:
            report = check(make(*args, **kwargs), suite, **options)
            if report.broken or not set(report.unasked) <= set(may_refuse):
                raise LawViolated(f"\n{report}")

        return test

    return decorate


def _try(law: Law, asked: Any, examples: int, seed: int) -> Finding:
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    count, refusals = 0, []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        # Cases are always drawn anew, whatever else a profile leaves out.
        phases=(Phase.generate, *({Phase.shrink} & set(hypothesis.settings.default.phases))),
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(law.cases)
    def run(case: Any) -> None:
        nonlocal count
        try:
            law.statement(asked, case)
        except Refused as refusal:
            refusals.append(str(refusal))
            hypothesis.reject()
        except Violation as broken:
            raise Violation(f"{case}\n{broken}") from None
        count += 1

    found = None
    try:
        run()
    except Violation as broken:
        found = str(broken)
    except hypothesis.errors.Flaky as flaky:
        found = f"it does not give the same answer twice:\n{flaky}"
    except hypothesis.errors.Unsatisfiable:
        if not refusals:
            raise
    return Finding(law, count, len(refusals), refusals[0] if refusals else "", found)

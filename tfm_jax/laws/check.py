"""``check``: tests a function against a suite of laws, and reports what holds."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, errors

from tfm_jax.laws.law import Law, Suite, Violation, describe
from tfm_jax.laws.report import Finding, Report, UnsupportedCase, unsupported_case
from tfm_jax.laws.subject import Subject, Unsupported

__all__ = ["check", "check_law", "findings"]

UNSUPPORTED = 25
"""After this many cases, the first ones, that all raise at one line of code, a law is not tried further. With
fewer, a function that supports one size in nine could look as if it supported none."""
TYPE_ERRORS = 5
"""As ``UNSUPPORTED``, for a TypeError or NotImplementedError with one message: it depends on no size."""


class _Stopped(BaseException):
    """Ends a run of hypothesis, which catches exceptions only."""


def check(
    function: Callable[..., Any], suite: Suite, *, examples: int = 100, seed: int = 0, **options: Any
) -> Report:
    """Tests a function, ours or yours, against the laws of a suite.

    Equivalent to::

        Report(suite.name, tuple(findings(function, suite, examples=examples, seed=seed, **options)))

    Args:
      function: called as ``suite.signature`` says; ``laws.torch``, ``laws.numpy`` and ``laws.heads_first``
        adapt functions of other libraries. A case for which it raises ValueError, TypeError, RuntimeError or
        AssertionError counts as not supported; any other exception violates the law. A law whose first cases
        all raise the same is not tried further.
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
      An iterator with one ``Finding`` per law. Where every law refuses its first case in the same way, that
      is all that is tried.

    Raises:
      ValueError: as ``check``, at the first finding.
    """
    subject = suite.subject(function, **options)  # one for all laws, which share its compiled functions
    laws = [law for law in suite if not isinstance(subject, Subject) or subject.applies(law.name)]
    for i, law in enumerate(laws):
        found = check_law(law, subject, suite.signature, examples=examples, seed=seed)
        if i == 0 and len(laws) > 1 and found.first_unsupported and found.status == "not supported":
            others = [
                check_law(other, subject, suite.signature, examples=1, seed=seed, tries=1)
                for other in laws[1:]
            ]
            places = {other.first_unsupported.place if other.first_unsupported else None for other in others}
            if places == {found.first_unsupported.place}:
                for each in (found, *others):
                    assert each.first_unsupported is not None  # it has a place
                    first_unsupported = dataclasses.replace(each.first_unsupported, signature=suite.signature)
                    yield dataclasses.replace(each, first_unsupported=first_unsupported)
                return
        yield found


def check_law(
    law: Law, subject: Any, signature: str, *, examples: int = 100, seed: int = 0, tries: int = UNSUPPORTED
) -> Finding:
    """The finding of one law.

    Args:
      law: the law.
      subject: what its statement calls.
      signature: of the suite.
      examples: as for ``check``.
      seed: as for ``check``.
      tries: after this many cases, the first ones, that all raise at one line, the rest is left out.

    Returns:
      A ``Finding``.

    Raises:
      ValueError: for less than 1 example.
    """
    if examples < 1:
        raise ValueError(f"laws.check: got examples={examples}; wanted at least 1")
    for any_severity in (False, True):  # a violated contract must not hide a wrong result in another case
        search = _Search(law, subject, _UnsupportedCases(signature, tries), any_severity)
        finding = search.finding(_settings(examples, seed))
        if finding.status == "violated" or not search.passed_over:
            break
    return finding


class _Search:
    """The search for a counterexample of a law.

    Args:
      law: the law.
      subject: what its statement calls.
      unsupported: counts the cases that it does not support.
      any_severity: whether a violation of a lesser severity than the law's is a counterexample too.
    """

    def __init__(self, law: Law, subject: Any, unsupported: "_UnsupportedCases", any_severity: bool):
        self._law, self._subject, self._unsupported, self._any = law, subject, unsupported, any_severity
        self._adapt = subject.adapt if isinstance(subject, Subject) else lambda case: case
        self._count, self._skipped, self._violated = 0, 0, False
        self.passed_over = False

    def finding(self, settings: Callable[[Callable[[], None]], Callable[[], None]]) -> Finding:
        """The finding, under settings of hypothesis."""
        counterexample, severity = None, self._law.severity
        try:
            settings(hypothesis.given(self._law.cases)(self._run))()
        except _Stopped:
            pass
        except Violation as violation:
            counterexample, severity = str(violation), violation.severity or severity
        except errors.Flaky as flaky:
            counterexample = f"two calls with the same arguments give different results:\n{flaky}"
        except errors.Unsatisfiable:
            if not self._unsupported.number and not self._skipped:
                raise
        if not self._count and self._skipped and not self._unsupported.number and counterexample is None:
            reason = "no case of this law has the sizes of the options"
            return Finding(self._law, 0, self._skipped, reason, None, severity)
        first, number = self._unsupported.first, self._unsupported.number
        reason = first.reason if first else ""
        return Finding(self._law, self._count, number, reason, counterexample, severity, first)

    def _run(self, drawn: Any) -> None:
        found_nothing = not self._count and not self._violated  # a violation is reduced, however rare it is
        case = self._adapt(drawn)
        if case is None:
            self._skipped += 1
            if found_nothing and self._skipped >= UNSUPPORTED:
                raise _Stopped
            hypothesis.reject()
        try:
            self._law.statement(self._subject, case)
        except Unsupported as unsupported:
            self._unsupported.add(unsupported)
            if found_nothing and self._unsupported.are_enough():
                raise _Stopped from None
            hypothesis.reject()
        except Violation as violation:
            severity = violation.severity or self._law.severity
            if severity == self._law.severity or self._any:
                self._violated = True
                shown = case if violation.case is None else violation.case
                raise Violation(f"{describe(shown)}\n{violation}", severity=severity) from None
            self.passed_over = True
        self._count += 1


class _UnsupportedCases:
    """The cases that a function does not support."""

    def __init__(self, signature: str, tries: int):
        self.first: UnsupportedCase | None = None
        self.number = 0
        self._signature, self._tries = signature, tries
        self._same_place = self._same_reason = True

    def add(self, unsupported: Unsupported) -> None:
        """Counts a case."""
        self.number += 1
        if not self._same_place:
            return
        case = unsupported_case(unsupported, self._signature)
        self.first = self.first or case
        self._same_place = case.place == self.first.place
        self._same_reason = self._same_reason and case.reason == self.first.reason

    def are_enough(self) -> bool:
        """Whether all cases so far say that the law is not supported."""
        is_type_error = self.first is not None and issubclass(
            self.first.kind, TypeError | NotImplementedError
        )
        limit = TYPE_ERRORS if is_type_error and self._same_reason else UNSUPPORTED
        return self._same_place and self.number >= min(limit, self._tries)


def _settings(examples: int, seed: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    profile = hypothesis.settings.default
    shrinks = profile is not None and Phase.shrink in profile.phases
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        # Always generate new cases, whatever else the current profile leaves out.
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]  an enum to it, not a meta
    )
    return lambda test: hypothesis.seed(seed)(settings(test))

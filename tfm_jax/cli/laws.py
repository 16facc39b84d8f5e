"""``tfm laws``: a function against a suite of laws."""

import dataclasses
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Annotated

from tyro.conf import Positional, arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._options import Command
from tfm_jax.ranges import Seed, Size

__all__ = ["Laws"]


@dataclasses.dataclass(frozen=True)
class Laws(Command):
    """Check a function against a suite of laws, with a counterexample for each violated law."""

    function: Annotated[Positional[str], arg(metavar="MODULE.FUNCTION")]
    """The function. That of attention takes q [B, T, N, H], k, v [B, S, K, H], and mask, bool [B, 1, T, S] or
    None."""
    suite: Annotated[str, arg(metavar="SUITE")] = "attention"
    """The suite of laws. An unknown name lists all, and how they call the function."""
    examples: Annotated[Size, arg(metavar="N")] = 100
    """Examples per law; 500 are thorough."""
    seed: Annotated[Seed, arg(metavar="N")] = 0
    """The same seed gives the same examples."""

    def run(self) -> int:
        """Prints each finding; returns 1 unless every law holds."""
        function, laws = self._function(), tfm_jax.laws
        if self.suite not in laws.SUITES:
            known = "\n".join(f"  {suite.name}: {suite.signature}" for suite in laws.SUITES.values())
            raise ValueError(f"--suite: got {self.suite!r}; wanted one of these:\n{known}")
        suite, findings = laws.SUITES[self.suite], []
        for finding in laws.findings(function, suite, examples=self.examples, seed=self.seed):
            print(finding, flush=True)
            findings.append(finding)
        report = laws.Report(suite.name, tuple(findings))
        print(report.summary())
        return 0 if report.ok else 1

    def _function(self) -> Callable[..., object]:
        sys.path.insert(0, os.getcwd())  # as python -m does, to import a module of the current directory
        try:
            function = pkgutil.resolve_name(self.function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"MODULE.FUNCTION: got {self.function}; wanted a function ({error}).") from error
        if not callable(function):
            raise ValueError(f"MODULE.FUNCTION: got {self.function} = {function!r}; wanted a function.")
        return function

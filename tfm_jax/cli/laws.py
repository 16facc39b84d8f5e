"""``tfm laws``: laws are tried on a function."""

import dataclasses
import os
import pkgutil
import sys
from typing import Annotated

from tyro.conf import Positional, arg

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.ranges import Seed, Size

__all__ = ["Laws"]


@dataclasses.dataclass(frozen=True)
class Laws:
    """Tries laws on a function: which it keeps, which it breaks, and how."""

    function: Annotated[Positional[str], arg(metavar="MODULE.FUNCTION")]
    """Called as the suite says; for attention with q [B, T, N, H], k and v [B, S, K, H], and a mask, bool
    [B, 1, T, S] or None."""
    suite: Annotated[str, arg(metavar="SUITE")] = "attention"
    """Which laws; an unknown name lists them all, and how each calls the function."""
    examples: Annotated[Size, arg(metavar="N")] = 100
    """Cases a law; 500 are thorough."""
    seed: Annotated[Seed, arg(metavar="N")] = 0
    """The same seed tries the same cases."""

    def use(self) -> int:
        """Prints each finding as it comes; gives 1 where a law is broken or could not be asked."""
        sys.path.insert(0, os.getcwd())  # as python -m does: what one writes stands beside one
        try:
            function = pkgutil.resolve_name(self.function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{self.function}: {error}") from error
        if not callable(function):
            raise ValueError(f"{self.function} is no function: {function!r}")
        laws, found = tfm_jax.laws, []
        if self.suite not in laws.SUITES:
            known = "\n".join(f"  {suite.name}: {suite.signature}" for suite in laws.SUITES.values())
            raise ValueError(f"there are no laws of {self.suite!r}; known are:\n{known}")
        suite = laws.SUITES[self.suite]
        for finding in laws.findings(function, suite, examples=self.examples, seed=self.seed):
            print(finding, flush=True)
            found.append(finding)
        report = laws.Report(suite.name, tuple(found))
        print(report.summary())
        return 0 if report.ok else 1

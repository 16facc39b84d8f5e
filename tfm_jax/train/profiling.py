"""A trace of some steps of training, by ``jax.profiler``."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from tfm_jax import processes

__all__ = ["Profile", "Tracer", "read_steps"]


@dataclasses.dataclass(frozen=True)
class Profile:
    """Steps to trace, and where to.

    Args:
      first: the first step, from 1.
      last: the last one, included.
      directory: where ``jax.profiler`` writes ``plugins/profile/<time>/``.

    Raises:
      ValueError: for steps that are no range.
    """

    first: int
    last: int
    directory: str | Path

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"Profile: got the steps {self.first}:{self.last}; wanted first:last with 1 <= first <= last."
            )


def read_steps(text: str) -> tuple[int, int]:
    """The first and the last step of a range such as "10:13".

    Raises:
      ValueError: it is not two positive numbers in order.
    """
    if found := re.fullmatch(r"([1-9]\d{0,8}):([1-9]\d{0,8})", text):
        first, last = map(int, found.groups())
        if first <= last:
            return first, last
    raise ValueError(f"got {text!r}; wanted the first and the last step to trace, such as 10:13.")


class Tracer:
    """Traces the steps of a `Profile`, in process 0; does nothing without one.

    Args:
      profile: the steps.
      report: called with one line, where the trace is and how to open it.
    """

    def __init__(self, profile: Profile | None, report: Callable[[str], object] = print):
        self._profile, self._report = profile, report
        self._first = 0  # of the trace that runs

    @contextlib.contextmanager
    def step(self, number: int, flush: Callable[[], None]) -> Iterator[None]:
        """The context in which a step is dispatched.

        Args:
          number: of the step. A run that resumes after the first step of the profile traces the rest.
          flush: waits for the steps before; called when the trace starts and before it ends.
        """
        profile = self._profile
        if profile is None or not profile.first <= number <= profile.last:
            yield
            return
        if not self._first:
            flush()
            if processes.is_main():
                jax.profiler.start_trace(str(profile.directory))
            self._first = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if number == profile.last:
            flush()
            self.close(number)

    def close(self, last: int) -> None:
        """Ends a trace that runs, after step ``last``; a run may end within its profile."""
        first, self._first = self._first, 0
        if not (first and self._profile is not None and processes.is_main()):
            return
        jax.profiler.stop_trace()
        directory = self._profile.directory
        self._report(
            f"profile of steps {first} to {last}: {directory}; open it by xprof {directory} (pip install "
            "xprof), or its .trace.json.gz on ui.perfetto.dev"
        )

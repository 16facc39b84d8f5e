"""Writers of a run's metrics: metrics.jsonl, TensorBoard events, a progress bar. Each is a `Writer`.

Of several processes, process 0 alone writes: those of the others do nothing.
"""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from tfm_jax import processes
from tfm_jax.train.run_directory import replace_text
from tfm_jax.values import plain

__all__ = ["JsonLines", "Progress", "TensorBoard", "read_json_lines"]


class _Closing:
    """A context manager that closes the writer."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JsonLines(_Closing):
    """Appends lines ``{"step": 10, "loss": 2.3, ...}`` to a file; nan and infinity become null.

    Args:
      path: the file.
      after: the step that the run resumes from. Lines of later steps are removed first, so that no step
        occurs twice; so is an incomplete last line, which a kill may leave.

    Raises:
      ValueError: as `read_json_lines`; nothing is changed.
    """

    def __init__(self, path: str | Path, after: int = 0):
        path = Path(path)
        self._file = None
        if not processes.is_main():
            return
        kept = [line for line in read_json_lines(path) if line["step"] <= after]
        replace_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def __call__(self, step: int, means: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(plain({"step": step, **means, **evaluation})) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `JsonLines` file, without an incomplete last one.

    Args:
      path: the file.

    Returns:
      One dict per line; [] if there is no file.

    Raises:
      ValueError: for a line that `JsonLines` did not write; the message names it.
    """
    path, parsed = Path(path), []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, text in enumerate(lines, 1):
        line = _parse_line(text)
        if line is not None:
            parsed.append(line)
        elif text.strip() and number < len(lines):  # only a kill leaves the last line without its end
            raise ValueError(
                f"{path}, line {number}: got {text.decode(errors='replace')!r:.60}; wanted metrics and their "
                "step, as the run wrote them. Remove this line; the others stay"
            )
    return parsed


def _parse_line(text: bytes) -> dict[str, Any] | None:
    """The metrics in a line; None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


class TensorBoard(_Closing):
    """Writes scalars for TensorBoard.

    Args:
      directory: of the event files.
      after: the step that the run resumes from; TensorBoard hides events of later steps written before.

    Raises:
      ImportError: without tensorboardX; the message names the extra.
    """

    def __init__(self, directory: str | Path, after: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard: got no tensorboardX; wanted it installed. pip install 'tfm_jax[experiments]'"
            ) from error
        self._writer = None
        if processes.is_main():
            # a thread writes the queue every second: a kill loses at most that; flush() would not wait for it
            self._writer = SummaryWriter(str(directory), purge_step=after + 1, flush_secs=1)

    def __call__(self, step: int, means: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in {**means, **evaluation}.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Progress(_Closing):
    """A progress bar with the metrics and the remaining time; without a terminal, a few plain lines a minute.

    Args:
      steps: steps of the whole run.
      start: the first step.
      console: where to print; None is standard output.
      seconds: time between two plain lines. Evaluations are always printed.
    """

    def __init__(self, steps: int, start: int = 0, *, console: Console | None = None, seconds: float = 10.0):
        self._steps, self._start, self._seconds = steps, start, seconds
        self._console = console or Console(highlight=False, soft_wrap=True, quiet=not processes.is_main())
        self._started_at, self._printed_at = time.monotonic(), -math.inf
        self._bar: RichProgress | None = None
        if self._console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=self._console)
            self._task = self._bar.add_task("compiling", total=steps, completed=start)
            self._bar.start()

    def __call__(self, step: int, means: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        now = time.monotonic()
        text = f"step {step}/{self._steps}  {_describe({**means, **evaluation})}"
        if self._bar is not None:
            on_the_bar = {name: x for name, x in means.items() if _is_on_the_bar(name)}
            self._bar.update(self._task, completed=step, description=_describe(on_the_bar))
            if evaluation:
                self._bar.console.print(text, markup=False)
        elif evaluation or step == self._steps or now - self._printed_at >= self._seconds:
            left = (now - self._started_at) / max(step - self._start, 1) * (self._steps - step)
            self._console.print(f"{text}  {_duration(left)} left", markup=False)
            self._printed_at = now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _is_on_the_bar(name: str) -> bool:
    return name in ("loss", "learning_rate", "mfu") or name.endswith("_per_second")


def _describe(metrics: Mapping[str, float]) -> str:
    """``loss 2.31  5,120 tokens/s  MFU 41.2 %  peak 12.3 GiB  rate 3.0e-04``"""
    parts = []
    for name, value in metrics.items():
        if name.endswith("_per_second"):
            parts.append(f"{value:,.0f} {name.removesuffix('_per_second')}/s")
        elif name == "mfu":
            parts.append(f"MFU {value:.1%}".replace("%", " %"))
        elif name == "peak_memory_gib":
            parts.append(f"peak {value:.1f} GiB")
        elif name == "learning_rate":
            parts.append(f"rate {value:.1e}")
        elif name != "grad_norm":
            parts.append(f"{name} {value:.4g}")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

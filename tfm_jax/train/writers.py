"""Where a run's figures go: a progress bar, metrics.jsonl, TensorBoard's events. Each is a `Writer`."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from tfm_jax.train.run_directory import replace_text
from tfm_jax.values import plain

__all__ = ["JsonLines", "Progress", "TensorBoard", "read_json_lines"]

_SHORT = {"loss", "learning_rate"}


class _Closing:
    """A writer that has something to close: ``with`` closes it."""

    def close(self) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JsonLines(_Closing):
    """Appends a line ``{"step": 10, "loss": 2.3, ...}`` to a file; what is not finite becomes null.

    Args:
        path: the file.
        after: lines of later steps are taken out first, so that after a resume no step is there twice. So is
            half a line, which a kill may leave.

    Raises:
        ValueError: as `read_json_lines`; nothing is changed.
    """

    def __init__(self, path: str | Path, after: int = 0):
        path = Path(path)
        kept = [line for line in read_json_lines(path) if line["step"] <= after]
        replace_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def __call__(self, step: int, means: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        self._file.write(json.dumps(plain({"step": step, **means, **evaluation})) + "\n")

    def close(self) -> None:
        self._file.close()


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `JsonLines` file, without a last one that is cut short.

    Args:
        path: the file.

    Returns:
        What each line holds; [] if there is no file.

    Raises:
        ValueError: when a line is none that was written here; the message names it. The file stays as it is.
    """
    path, lines = Path(path), []
    found = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, text in enumerate(found, 1):
        line = _line(text)
        if line is not None:
            lines.append(line)
        elif text.strip() and number < len(found):  # the last one has no end: a kill left it
            raise ValueError(
                f"{path}, line {number}: got {text.decode(errors='replace')!r:.60}; wanted figures and their "
                "step, as the run wrote them. Take this line out; the others stay"
            )
    return lines


def _line(text: bytes) -> dict[str, Any] | None:
    """The figures in a line; None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole and not isinstance(line["step"], bool) else None


class TensorBoard(_Closing):
    """Writes scalars for TensorBoard.

    Args:
        directory: of the event files.
        after: the step resumed from; TensorBoard leaves out what was written of later ones.

    Raises:
        ImportError: without tensorboardX, naming the extra that has it.
    """

    def __init__(self, directory: str | Path, after: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard events are written by tensorboardX: pip install 'tfm_jax[experiments]'"
            ) from error
        # its thread writes what waits within a second, so that a kill loses no more; flush() would not wait
        self._writer = SummaryWriter(str(directory), purge_step=after + 1, flush_secs=1)

    def __call__(self, step: int, means: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        for name, value in {**means, **evaluation}.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Progress(_Closing):
    """A bar with the figures and the time left; plain lines, a few a minute, where there is no terminal.

    Args:
        steps: of the whole run.
        start: the step it starts from.
        console: where to draw; None is standard output.
        seconds: time between two plain lines. Evaluations are always printed.
    """

    def __init__(self, steps: int, start: int = 0, *, console: Console | None = None, seconds: float = 10.0):
        self._steps, self._start, self._seconds = steps, start, seconds
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._begun, self._printed = time.monotonic(), -math.inf
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
        text = f"step {step}/{self._steps}  {describe({**means, **evaluation})}"
        if self._bar is not None:
            short = {name: means[name] for name in means if name in _SHORT or name.endswith("_per_second")}
            self._bar.update(self._task, completed=step, description=describe(short))
            if evaluation:
                self._bar.console.print(text, markup=False)
        elif evaluation or step == self._steps or now - self._printed >= self._seconds:
            left = (now - self._begun) / max(step - self._start, 1) * (self._steps - step)
            self._console.print(f"{text}  {_clock(left)} left", markup=False)
            self._printed = now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def describe(figures: Mapping[str, float]) -> str:
    """``loss 2.31  5,120 tokens/s  rate 3.0e-04``"""
    parts = []
    for name, value in figures.items():
        if name.endswith("_per_second"):
            parts.append(f"{value:,.0f} {name.removesuffix('_per_second')}/s")
        elif name == "learning_rate":
            parts.append(f"rate {value:.1e}")
        elif name != "grad_norm":
            parts.append(f"{name} {value:.4g}")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""``--sweep NAME=VALUE VALUE``: a run for each combination of values, one after the other, and their table.

Each run is a call of the experiment with its own directory, as if it had been started alone; programs of the
same shapes come from the compilation cache.
"""

import dataclasses
import gc
import hashlib
import itertools
import json
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from experiments.config import RunConfig
from experiments.runner import Stopped
from experiments.settings import split_assignment
from tfm_jax.console import print_table
from tfm_jax.runs.task import TASK_FILE, read_task
from tfm_jax.train.run_directory import SWEEP_FILE, flatten, is_under, read_config, write_config
from tfm_jax.train.writers import read_json_lines
from tfm_jax.values import plain, to_dict

__all__ = ["Plan", "combinations", "plan", "read_sweep", "run_name", "saved_arguments", "train_all"]

C = TypeVar("C", bound=RunConfig)
Values = dict[str, str]
"""The values of one run, by path of the field."""
METRIC = "validation/loss"
"""What the best run has least of. The test must not choose."""
_RANGE = re.compile(r"range\((-?\d+)(?:, *(-?\d+))?(?:, *(-?\d+))?\)")
_MAX_RUNS = 10_000
_MAX_NAME = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9.,=+_-]+")


def read_sweep(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The values of each swept field.

    Args:
      groups: the words of each ``--sweep``: NAME=VALUE, and further values. ``range(8)``, alone, is the
        numbers from 0 to 7, with a start and a step as in Python.

    Returns:
      The texts of the values by path of the field.

    Raises:
      ValueError: a sweep without a name or with a value twice, a field that is swept twice, or too many runs.
    """
    found: dict[str, tuple[str, ...]] = {}
    for group in groups:
        name, first = split_assignment("--sweep", group[0] if group else "")
        values = (first, *group[1:])
        if name in found:
            raise ValueError(f"--sweep: got {name} twice; wanted all of its values after one --sweep.")
        if len(values) == 1 and (matched := _RANGE.fullmatch(first)):
            numbers = [int(text) for text in matched.groups() if text is not None]
            values = tuple(map(str, range(*numbers)[: _MAX_RUNS + 1])) if 0 not in numbers[2:] else ()
        if not values or len(set(values)) < len(values):
            raise ValueError(
                f"--sweep {name}: got {' '.join(values) or first}; wanted one or more values, each once."
            )
        found[name] = values
    if (count := math.prod(map(len, found.values()))) > _MAX_RUNS:
        raise ValueError(f"--sweep: got {count:,} runs; wanted at most {_MAX_RUNS:,}.")
    return found


def combinations(sweep: Mapping[str, Sequence[str]]) -> list[Values]:
    """The values of each run: all combinations, in which the last field changes first."""
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def run_name(values: Mapping[str, str]) -> str:
    """The name of a run's directory: of its values alone, such as "train.seed=0,model.positions=Alibi".

    Args:
      values: the texts by path of the field.

    Returns:
      A name in ASCII without separators of paths. Where a value has other characters or the name is long, the
      end is a digest of the values.
    """
    name = ",".join(f"{field}={value}" for field, value in values.items())
    if len(name) <= _MAX_NAME and not _UNSAFE.search(name):
        return name
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=4).hexdigest()
    return f"{_UNSAFE.sub('_', name)[:_MAX_NAME].strip('_.')}-{digest}"


@dataclasses.dataclass
class _Row:
    """A run of the sweep, and how it ended."""

    name: str
    values: Values
    config: RunConfig
    status: Literal["waiting", "finished", "failed"] = "waiting"
    loss: float | None = None
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep trains.

    Args:
      name: of the experiment.
      out: the directory of the sweep.
      resume: whether to continue the sweep that is in it.
      arguments: of the command line, without those of the start, for a resume.
      rows: the runs.
    """

    name: str
    out: Path
    resume: bool
    arguments: tuple[str, ...]
    rows: list[_Row]


def plan(
    sweep: Mapping[str, Sequence[str]],
    parse: Callable[[Values, Path, bool], RunConfig],
    *,
    name: str,
    out: Path | None,
    resume: bool,
    arguments: Sequence[str],
) -> Plan:
    """Parses the config of each run, before any is trained.

    Args:
      sweep: the values of each field.
      parse: ``(values, out, resume)`` to the config of a run.
      name: of the experiment.
      out: the directory of the sweep; None makes a new one in ``runs/``.
      resume: whether to continue the sweep that is in it.
      arguments: of the command line.

    Raises:
      FileExistsError: a new sweep in a directory that is not empty.
      ValueError: a resume without a sweep to resume, or two runs with the same config.
      SystemExit: from ``parse``.
    """
    if resume and (out is None or not (out / SWEEP_FILE).is_file()):
        raise ValueError(
            f"--resume: got {out}, without {SWEEP_FILE}; wanted --out with the directory of a sweep."
        )
    out = out or Path(f"runs/{time.strftime(f'{name}-sweep-%Y%m%d-%H%M%S')}")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out}: got files in it; wanted an empty directory. Resume its sweep by --resume, or give "
            "another --out"
        )
    rows: list[_Row] = []
    seen: dict[str, str] = {}
    for values in combinations(sweep):
        directory = out / run_name(values)
        try:
            config = parse(values, directory, resume and (directory / "config.json").is_file())
        except SystemExit as error:
            if error.code:
                print(f"{name}: the error is of the run {directory.name}", file=sys.stderr, flush=True)
            raise
        if config.resume_step is not None:
            raise ValueError("--resume-step: got --sweep too; wanted one run. Resume it by its own --out.")
        key = json.dumps({**to_dict(config), "out": None, "resume": None}, sort_keys=True)
        if (other := seen.setdefault(key, directory.name)) != directory.name:
            raise ValueError(
                f"--sweep: got {other} and {directory.name}, which are the same run; wanted one."
            )
        rows.append(_Row(directory.name, values, config))
    return Plan(name, out, resume, tuple(arguments), rows)


def saved_arguments(out: Path) -> tuple[str, ...] | None:
    """The command line of the sweep in a directory; None where there is none.

    Raises:
      ValueError: the file cannot be read; the message names it.
    """
    path = out / SWEEP_FILE
    if not path.is_file():
        return None
    arguments = read_config(path).get("arguments")
    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        raise ValueError(
            f"{path}: got no arguments; wanted the file that the sweep wrote. Put a copy of it back"
        )
    return tuple(arguments)


def train_all(sweep: Plan, experiment: Callable[[Any], None]) -> int:
    """Trains the runs, one after the other, and prints and writes the table of their results.

    A run that fails is a row with its error, and the others follow. A signal ends the sweep.

    Args:
      sweep: the runs; finished ones are skipped, and those that were started are resumed.
      experiment: takes the config of a run.

    Returns:
      The exit status: 0, or 1 where a run failed.

    Raises:
      SystemExit: with a message, after a signal.
    """
    for row in sweep.rows:
        if _is_finished(row.config):
            _read_result(row)
    _write(sweep)
    for number, row in enumerate(sweep.rows, 1):
        text = f"{sweep.name}: run {number} of {len(sweep.rows)}: {row.name}"
        if row.status == "finished":
            print(f"{text}, finished before", flush=True)
            continue
        print(f"\n{text}{', resumed' * row.config.resume}", flush=True)
        try:
            _train(row, experiment, sweep.name)
        except Stopped as error:
            _print(sweep)
            sys.exit(f"{error}\n{sweep.name}: or the whole sweep by --out {sweep.out} --resume")
        _write(sweep)
    _print(sweep)
    return int(any(row.status == "failed" for row in sweep.rows))


def _train(row: _Row, experiment: Callable[[Any], None], name: str) -> None:
    """Trains a run; the row has its result, or its error."""
    try:
        experiment(row.config)
        _read_result(row)
    except Stopped:
        raise
    except SystemExit as error:
        print(error, file=sys.stderr, flush=True)
        row.status, row.error = "failed", str(error).partition("\n")[0].removeprefix(f"{name}: ")
    except Exception as error:
        traceback.print_exc()
        row.status, row.error = "failed", f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
    gc.collect()  # frees the weights of the run, which reference cycles may hold


def _is_finished(config: RunConfig) -> bool:
    """Whether the run has its result, and of these steps and settings, those of its test included."""
    if not config.resume or config.out is None or not (config.out / "result.json").is_file():
        return False
    saved, wanted = flatten(read_config(config.out / "config.json")), flatten(plain(to_dict(config)))
    free = set(RunConfig.MAY_CHANGE) - {"train.steps", "train.patience"}  # what changes no result
    return all(saved.get(name, x) == x for name, x in wanted.items() if not is_under(name, tuple(free)))


def _read_result(row: _Row) -> None:
    path, stops_early = row.config.out, row.config.train.patience is not None
    assert path is not None
    row.result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    losses = [x for line in read_json_lines(path / "metrics.jsonl") if (x := line.get(METRIC)) is not None]
    if losses:  # a classifier that stops early tests its best checkpoint, any other run its last one
        is_best = stops_early and (path / TASK_FILE).is_file() and bool(read_task(path).labels)
        row.loss = min(losses) if is_best else losses[-1]
    row.status, row.error = "finished", None


def _best(rows: Sequence[_Row]) -> _Row | None:
    return min((row for row in rows if row.loss is not None), key=lambda row: row.loss or 0.0, default=None)


def _write(sweep: Plan) -> None:
    best = _best(sweep.rows)
    content = {
        "arguments": sweep.arguments,
        "best": best and best.name,
        "runs": [
            {
                "name": row.name,
                "values": row.values,
                "status": row.status,
                METRIC: row.loss,
                "result": row.result,
                "error": row.error,
            }
            for row in sweep.rows
        ],
    }
    write_config(sweep.out / SWEEP_FILE, content)


def _print(sweep: Plan) -> None:
    """The table of the runs: their values and results, the best one marked."""
    rows, best = sweep.rows, _best(sweep.rows)
    metrics = list(dict.fromkeys(name for row in rows for name in row.result if _is_number(row.result[name])))
    columns = [*rows[0].values, METRIC, *metrics, ""]
    table = []
    for row in rows:
        numbers = [_text(row.loss), *(_text(row.result.get(name)) for name in metrics)]
        note = "best" if row is best else row.status.replace("finished", "")
        table.append([*row.values.values(), *numbers, note])
    print(flush=True)
    print_table(columns, table, bold=[row is best for row in rows])
    for row in rows:
        if row.error:
            print(f"{sweep.name}: {row.name} failed: {row.error}")
    counts = {
        status: sum(row.status == status for row in rows) for status in ("finished", "failed", "waiting")
    }
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    chosen = f"; best: least {METRIC}" if best else ""
    print(f"{sweep.name}: {len(rows)} runs: {text}{chosen}. The sweep's directory: {sweep.out}", flush=True)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)

"""``tfm compare``: what differs between runs: config, data, versions, results."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from tfm_jax.cli._options import Command
from tfm_jax.console import print_table

__all__ = ["SECTIONS", "Compare", "Description", "describe", "differences"]

SECTIONS = ("config", "data", "versions", "results")
"""The parts of a run that are compared."""
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Compare(Command):
    """Print what differs between runs: their configs, data, versions and results; count what is equal."""

    runs: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="RUN RUN [RUN ...]", help_behavior_hint="")
    ] = ()
    """Directories of runs; that of a sweep means all of its runs."""
    json: bool = False
    """Print a JSON object instead of a table."""

    def check(self) -> None:
        """Checks that there are two or more runs."""
        directories = self._directories
        if len(directories) < 2:
            raise ValueError(f"RUN: got {len(directories)}; wanted two or more, or a sweep with as many.")
        resolved = Counter(path.resolve() for path in directories)
        if twice := [path for path in directories if resolved[path.resolve()] > 1]:
            raise ValueError(f"RUN: got {twice[0]} twice; wanted different runs.")

    @property
    def _directories(self) -> list[Path]:
        return [directory for path in self.runs for directory in _find_runs(path)]

    def run(self) -> int:
        """Prints the differences; returns 0."""
        directories = self._directories
        found = [describe(directory) for directory in directories]
        different, equal = differences(found)
        if self.json:
            runs = [
                {"run": str(directory), "is_finished": x.is_finished, **_chosen(x, different)}
                for directory, x in zip(directories, found, strict=True)
            ]
            print(json.dumps({"runs": runs, "equal": equal}, indent=2, ensure_ascii=False))
            return 0
        names = _names(directories)
        _print_differences(names, found, different)
        counts = [f"{count} of the {section}" for section, count in equal.items() if count]
        print(f"equal: {', '.join(counts) or 'nothing'}")
        if unfinished := [name for name, x in zip(names, found, strict=True) if not x.is_finished]:
            print(f"not finished, with their last metrics as results: {', '.join(unfinished)}")
        return 0


@dataclasses.dataclass(frozen=True)
class Description:
    """What a run is.

    Args:
      sections: the values of each of `SECTIONS`, by name; None where the run does not have them, as one of a
        version before 0.5 has no versions.
      is_finished: whether it has its results; otherwise these are its last metrics.
    """

    sections: Mapping[str, Mapping[str, object] | None]
    is_finished: bool

    def text(self, section: str, name: str, digits: int = 6) -> str:
        """A value for a table, a float with so many significant digits; empty where the run has none."""
        values = self.sections[section]
        if values is None:
            return UNKNOWN
        return _text(values[name], digits) if name in values else ""


def describe(directory: Path) -> Description:
    """What a run is, from the files of its directory.

    Args:
      directory: of the run, of this or an older version.

    Returns:
      The description; the model is that of ``model.json``, where the run has one.

    Raises:
      OSError, ValueError: a file cannot be read; the message names it.
    """
    from tfm_jax import runs  # slow: not before it is needed
    from tfm_jax.train.run_directory import MODEL_FILE, START_FIELDS, flatten, read_config
    from tfm_jax.train.writers import read_json_lines

    config = read_config(directory / "config.json")
    if (directory / MODEL_FILE).is_file():
        config["model"] = {**(config.get("model") or {}), **read_config(directory / MODEL_FILE)}
    config = {name: value for name, value in config.items() if name not in START_FIELDS}
    try:
        origin = runs.read_origin(directory)
    except FileNotFoundError:
        origin = None
    results = _read_results(directory / "result.json")
    metrics: dict[str, object] = {}
    if results is None:
        for line in read_json_lines(directory / "metrics.jsonl"):
            metrics.update((name, value) for name, value in line.items() if value is not None)
    sections = {
        "config": flatten(config),
        "data": None if origin is None else origin.data,
        "versions": None if origin is None else origin.versions,
        "results": metrics if results is None else results,
    }
    return Description(sections, is_finished=results is not None)


def differences(found: Sequence[Description]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The names of the values that differ, by section, and the number of those that are equal in all runs.

    Args:
      found: the runs.
    """
    different: dict[str, list[str]] = {}
    equal: dict[str, int] = {}
    for section in SECTIONS:
        known = [values for x in found if (values := x.sections[section]) is not None]
        names = list(dict.fromkeys(name for values in known for name in values))
        first = known[0] if known else {}
        different[section] = [
            name
            for name in names
            if len(known) < len(found)
            or any(name not in values or values[name] != first[name] for values in known)
        ]
        equal[section] = len(names) - len(different[section])
    return different, equal


def _find_runs(path: Path) -> list[Path]:
    """The directory of a run, or those of a sweep."""
    from tfm_jax.runs import is_run  # slow: not before it is needed
    from tfm_jax.train.run_directory import SWEEP_FILE, read_config

    if is_run(path):
        return [path]
    if not (path / SWEEP_FILE).is_file():
        is_checkpoint = (path / "config.json").is_file()
        got = "a checkpoint" if is_checkpoint else f"no config.json, nor {SWEEP_FILE}"
        raise ValueError(f"{path}: got {got}; wanted the directory of a run, or of a sweep.")
    listed = read_config(path / SWEEP_FILE).get("runs")
    names = [run.get("name") for run in listed if isinstance(run, dict)] if isinstance(listed, list) else []
    return [path / str(name) for name in names if (path / str(name) / "config.json").is_file()]


def _read_results(path: Path) -> dict[str, object] | None:
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: got no JSON ({error}); wanted the file that the run wrote.") from error
    return results if isinstance(results, dict) else {"result": results}


def _chosen(found: Description, different: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The values of a run that differ, by section; None for an unknown section."""
    return {
        section: None
        if values is None
        else {name: values[name] for name in different[section] if name in values}
        for section, values in found.sections.items()
    }


def _names(directories: Sequence[Path]) -> list[str]:
    """The last parts of the paths, where they differ; else the paths."""
    names = [path.resolve().name for path in directories]
    return names if len(set(names)) == len(names) else list(map(str, directories))


def _print_differences(
    names: Sequence[str], found: Sequence[Description], different: Mapping[str, Sequence[str]]
) -> None:
    """A table with a row per difference, or with a row per run, whichever is narrower."""
    rows = [(section, name) for section, chosen in different.items() for name in chosen]
    if not rows:
        return
    fields = [name for _, name in rows]
    cells = {row: _cells(found, *row) for row in rows}
    if _width(names, fields) < _width(fields, names):
        table = [[run, *(cells[row][i] for row in rows)] for i, run in enumerate(names)]
        print_table(["", *fields], table)
        return
    table = []
    heads: list[bool] = []
    for section, chosen in different.items():
        if chosen:
            table.append([section, *("" for _ in found)])
            table += [[f"  {name}", *cells[section, name]] for name in chosen]
            heads += [True] + [False] * len(chosen)
    print_table(["", *names], table, bold=heads)


def _width(first: Sequence[str], heads: Sequence[str]) -> int:
    """Characters of a table with these names in its first column and as heads of the others."""
    return max(map(len, first)) + sum(len(head) + 3 for head in heads)


def _cells(found: Sequence[Description], section: str, name: str) -> list[str]:
    """A value of each run, with all digits of floats where six would show no difference."""
    cells = [x.text(section, name) for x in found]
    return cells if len(set(cells)) > 1 else [x.text(section, name, digits=17) for x in found]


def _text(value: object, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)

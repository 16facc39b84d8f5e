"""A run's directory, its config file, and atomic writes."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tfm_jax import processes
from tfm_jax.train._formats import FORMAT, migrate_config, read_format
from tfm_jax.values import from_dict, plain

__all__ = [
    "BEST_METRIC",
    "FORMAT",
    "MODEL_FILE",
    "START_FIELDS",
    "SWEEP_FILE",
    "RunDirectory",
    "config_errors",
    "flatten",
    "is_under",
    "load_config",
    "read_config",
    "replace_text",
    "write_config",
]

C = TypeVar("C")
BEST_METRIC = "validation/loss"
"""The metric of a run's best checkpoint and of early stopping."""
START_FIELDS = ("out", "resume", "resume_step", "distributed")
"""Fields of a config that say where a run is and how it was started, not what it is."""
MODEL_FILE = "model.json"
"""The config of the model, in a run's directory, if ``config.json`` leaves a part of it to the data."""
SWEEP_FILE = "sweep.json"
"""The runs of a sweep, with their values and results, in the directory that has theirs."""


class RunDirectory:
    """The directory of a training run::

        config.json  metrics.jsonl  events/  checkpoints/  result.json  *.png

    Several processes share it: all open it, and process 0 writes the files.

    Args:
      path: the directory. It is created; for a new run it must be empty.
      config: the run's settings, as JSON can hold them.
      resume: whether to continue the run that is in it.
      free: fields of ``config`` that may differ from the saved ones on a resume, such as "train.keep";
        "mesh" means all fields below it.
      defaults: on a resume, the values of fields that the saved config lacks, as an older one may.

    Raises:
      FileExistsError: for a new run in a directory that is not empty. Nothing is changed.
      FileNotFoundError: on a resume, when the directory has no config.json.
      ValueError: on a resume, when the run had another config or a file of it is damaged; the message names
        the file.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, object],
        *,
        resume: bool = False,
        free: Sequence[str] = (),
        defaults: Mapping[str, object] | None = None,
    ):
        self.path = Path(path).absolute()
        self._fields, self._free = flatten(plain(config)), tuple(free)

        def open_() -> None:
            if resume:
                self._check_run(defaults or {})
            else:
                self._create(config)

        processes.from_main("run directory", open_)
        if not self.config_file.is_file():
            raise FileNotFoundError(
                f"{self.path}: got no config.json in process {processes.index()}, where process 0 has one; "
                "wanted a directory that all processes share. Give an --out on a shared file system"
            )

    def _check_run(self, defaults: Mapping[str, object]) -> None:
        """Raises where the run in the directory cannot be resumed with this config."""
        if not self.config_file.is_file():
            raise FileNotFoundError(
                f"{self.path}: got no config.json; wanted the directory of a run to resume."
            )
        old = flatten(plain(defaults)) | flatten(read_config(self.config_file))
        _check_same(self.path, old, self._fields, self._free)
        self._check_kinds()

    def _create(self, config: Mapping[str, object]) -> None:
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(
                f"{self.path}: got files in it; wanted an empty directory. Resume its run by --resume, or "
                "give another --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config("config.json", config)

    @property
    def config_file(self) -> Path:
        """The file for `read_config`."""
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        """The directory for `Checkpoints`."""
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        """The directory for `TensorBoard`."""
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        """The file for `JsonLines`."""
        return self.path / "metrics.jsonl"

    def fixed_fields(self, excluded: Sequence[str] = ()) -> dict[str, object]:
        """The values of the fields that are not free, by path, without the ``excluded`` ones."""
        free = (*self._free, *excluded)
        return {name: value for name, value in self._fields.items() if not is_under(name, free)}

    def write(self, name: str, value: object) -> None:
        """Writes a JSON file, by process 0 of several; nan and infinity become null."""
        _write(self.path / name, value)

    def write_config(self, name: str, config: Mapping[str, object]) -> None:
        """Writes a config with the number of its format, for `read_config`."""
        write_config(self.path / name, config)

    def _check_kinds(self) -> None:
        """Raises where a file has the name of a directory, or the other way round."""
        for path, kind in (
            (self.checkpoints, "directory"),
            (self.events, "directory"),
            (self.metrics, "file"),
        ):
            if path.exists() and path.is_dir() != (kind == "directory"):
                got = "directory" if path.is_dir() else "file"
                raise ValueError(f"{path}: got a {got}; wanted the {kind} that the run wrote. Move it away")


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a config that a run of this or an older version wrote.

    Equivalent to (for a file of this version)::

        config = json.loads(path.read_text())
        config.pop("format")

    Args:
      path: the run's config.json, or a model.json beside it, which holds the "model" of a config.

    Returns:
      The config in the current format, without the number of the format.

    Raises:
      FileNotFoundError: when there is no such file.
      ValueError: when the file holds no JSON object, or one of a newer format; the message names the file.
    """
    path = Path(path)
    config = _read_object(path)
    number = read_format(path, config)
    config.pop("format", None)
    if path.name == MODEL_FILE:
        return migrate_config({"model": config}, number)["model"]
    return migrate_config(config, number)


def load_config(kind: type[C], path: str | Path) -> C:
    """A run's config as a dataclass.

    Equivalent to (for a file of this version)::

        from_dict(kind, read_config(path))

    Args:
      kind: the dataclass. Fields that the file lacks have their defaults.
      path: the run's config.json.

    Raises:
      FileNotFoundError: when there is no such file.
      ValueError: when it cannot be read, or has a newer format or an unknown field or value; the message
        names the file.
    """
    saved = read_config(path)
    with config_errors(path):
        return from_dict(kind, saved)


def write_config(path: Path, config: Mapping[str, object]) -> None:
    """Writes a config with the number of its format, by process 0 of several; the inverse of `read_config`.

    Args:
      path: the file; nan and infinity become null.
      config: nested dicts.
    """
    _write(path, {"format": FORMAT, **config})


def _write(path: Path, value: object) -> None:
    if processes.is_main():
        replace_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def config_errors(path: str | Path, what: str = "config") -> Iterator[None]:
    """Turns errors of reading the content of a run's file into a ValueError with its name and the fix."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: got no valid {what} ({error}); wanted the file as the run wrote it: put a copy of it "
            "back, or start a new run in another --out"
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Atomic write of a text file: a kill leaves the old or the new file, never a part of it.

    Equivalent to::

        path.write_text(text)

    Args:
      path: the file.
      text: its new content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def flatten(config: object, prefix: str = "") -> dict[str, object]:
    """The leaves of nested dicts by their paths: ``{"train.steps": 100}``.

    Args:
      config: nested dicts of values.
      prefix: the first part of every path.

    Returns:
      The values by path. Empty dicts are dropped.
    """
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {
        name: leaf
        for key, value in config.items()
        for name, leaf in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }


def is_under(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a field is one of these or below one of them: "mesh.data" is below "mesh".

    Args:
      name: path of the field.
      prefixes: paths.

    Returns:
      True or False.
    """
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


_MAX_DEPTH = 100
"""Of nested objects in a run's file; the limit of Python's own parser depends on its version."""


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it is {value!r:.60}")
        if any(name.count(".") > _MAX_DEPTH for name in flatten(value)):
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        return value
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: got no JSON object ({error}); wanted the file that the run wrote. Put a copy "
            "of it back, or start a new run in another --out"
        ) from error


def _check_same(
    path: Path, old: Mapping[str, object], new: Mapping[str, object], free: Sequence[str]
) -> None:
    def show(config: Mapping[str, object], name: str) -> str:
        return repr(config[name]) if name in config else "nothing"

    different = [
        f"  {name}: saved {show(old, name)}, configured {show(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not is_under(name, free)
    ]
    if different:
        raise ValueError(
            f"{path}: got another config; wanted that of the run, whose fields may not change on a resume:\n"
            + "\n".join(different)
            + f"\nLeave them out, or start a new run with the weights of this one: --init-from {path}"
        )

"""A run's directory, and writing files so that a kill leaves the old or the new one, never half of it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfm_jax.values import plain

__all__ = ["RunDirectory", "flat", "is_free", "read_object", "replace_text"]


class RunDirectory:
    """The directory that a run leaves::

        config.json  metrics.jsonl  events/  checkpoints/  result.json  *.png

    Args:
        path: where. It is made; for a new run it must be empty.
        config: the run's settings, as JSON can hold them.
        resume: go on with the run that is there.
        free: fields of ``config`` that may differ from the saved ones on a resume, such as "train.keep";
            "mesh" is all fields below it.
        defaults: on a resume, the values of the fields that the saved config lacks, as of an older version.

    Raises:
        FileExistsError: when a new run would be written over what is there. Nothing is changed.
        FileNotFoundError: when there is no run to go on with.
        ValueError: when that run had another config, or a file of it is damaged; the message names it.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        free: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
    ):
        self.path = Path(path).absolute()
        saved = self.path / "config.json"
        if resume:
            if not saved.is_file():
                raise FileNotFoundError(f"{self.path} holds no run to resume: there is no config.json in it")
            old = flat(plain(defaults or {})) | flat(read_object(saved))
            _check_same(self.path, old, flat(plain(config)), free)
            self._check_kinds()
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(
                f"{self.path} is not empty: go on with its run by --resume, or give another --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("config.json", config)

    @property
    def checkpoints(self) -> Path:
        """For `Checkpoints`."""
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        """For `TensorBoard`."""
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        """For `JsonLines`."""
        return self.path / "metrics.jsonl"

    def _check_kinds(self) -> None:
        """Raises where a file is in the place of a directory, or the other way round."""
        for path, kind in (
            (self.checkpoints, "directory"),
            (self.events, "directory"),
            (self.metrics, "file"),
        ):
            if path.exists() and path.is_dir() != (kind == "directory"):
                got = "directory" if path.is_dir() else "file"
                raise ValueError(f"{path}: got a {got}; wanted the {kind} that the run wrote. Move it away")

    def write(self, name: str, value: Any) -> None:
        """Writes a JSON file; what is not finite becomes null."""
        replace_text(self.path / name, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole, or not at all.

    Equivalent to::

        path.write_text(text)

    Args:
        path: the file.
        text: what it is to hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


_DEEPEST = 100
"""Objects within each other in a run's file; what Python itself reads differs between its versions."""


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object that a run wrote.

    Equivalent to::

        json.loads(path.read_text())

    Args:
        path: the file.

    Returns:
        The object.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no JSON, or another value; the message names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it is {value!r:.60}")
        if any(name.count(".") > _DEEPEST for name in flat(value)):
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        return value
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: got no JSON object ({error}); wanted the file that the run wrote. Put a copy "
            "of it back, or begin a new run in another --out"
        ) from error


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by their path: ``{"train.steps": 100}``.

    Args:
        config: nested dicts of values.
        prefix: what each path begins with.

    Returns:
        The values by path; a dict without entries has none.
    """
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {
        name: leaf
        for key, value in config.items()
        for name, leaf in flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def is_free(name: str, free: Sequence[str]) -> bool:
    """Whether a field is among these names, or below one of them: "mesh.data" is below "mesh".

    Args:
        name: path of the field.
        free: paths.

    Returns:
        True for one that may change.
    """
    return any(name == other or name.startswith(f"{other}.") for other in free)


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]) -> None:
    show = lambda config, name: repr(config[name]) if name in config else "nothing"
    differ = [
        f"  {name}: saved {show(old, name)}, configured {show(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not is_free(name, free)
    ]
    if differ:
        raise ValueError(
            f"the run in {path} was begun with another config, and these fields may not change on a resume:\n"
            + "\n".join(differ)
            + f"\nLeave them out, or begin a new run with the weights of this one: --init-from {path}"
        )

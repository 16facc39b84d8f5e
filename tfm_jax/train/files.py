"""A run's directory, and writing files so that a kill leaves the old or the new one, never half of it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfm_jax.values import plain

__all__ = ["RunDirectory", "replace_text"]


class RunDirectory:
    """The directory that a run leaves::

        config.json  metrics.jsonl  events/  checkpoints/  result.json  *.png

    Args:
        path: where. It is made; for a new run it must be empty.
        config: what the run was asked for, as JSON can hold it.
        resume: go on with the run that is there.
        free: names at the top of ``config`` that may differ from the saved ones on a resume.
        defaults: on a resume, what stands for the fields that the saved config lacks, as of an older version.

    Raises:
        FileExistsError: when a new run would be written over what is there. Nothing is changed.
        FileNotFoundError: when there is no run to go on with.
        ValueError: when that run had another config; the message lists the fields.
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
            old = _flat(plain(defaults or {})) | _flat(json.loads(saved.read_text(encoding="utf-8")))
            _check_same(self.path, old, _flat(plain(config)), free)
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


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]) -> None:
    show = lambda config, name: repr(config[name]) if name in config else "nothing"
    differ = [
        f"  {name}: saved {show(old, name)}, asked for {show(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name.split(".")[0] not in free
    ]
    if differ:
        raise ValueError(f"the run in {path} was begun with another config:\n" + "\n".join(differ))


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """``{"train.steps": 100}``"""
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {
        name: leaf
        for key, value in config.items()
        for name, leaf in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }

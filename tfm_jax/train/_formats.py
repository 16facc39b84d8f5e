"""Format numbers of a run's files, and migrations from older formats."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "NewerFormatError", "migrate_config", "migrate_record", "read_format"]

FORMAT = 2
"""The number that config.json, model.json and checkpoints carry as "format". A file without one has format 1:
version 0.1 wrote none."""

_ATTENTION_IMPLEMENTATIONS = {"optimistic": "cpu_decode"}
"""Backends by their names in format 1."""
_LATER_FILE = "preprocessor_config.json"
"""A file that a run of images gets on its resume, if an older version started it."""


class NewerFormatError(ValueError):
    """A newer version of the package wrote the file."""


def read_format(path: Path, content: Mapping[str, object]) -> int:
    """The format number of a file.

    Args:
      path: the file, for messages.
      content: what it holds.

    Returns:
      The number under "format", from 1 to `FORMAT`; 1 without one.

    Raises:
      NewerFormatError: for a number above `FORMAT`.
      ValueError: for anything else that is not a format number.
    """
    number = content.get("format", 1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(
            f"{path}: got format {number!r:.60}; wanted a number from 1 to {FORMAT}. Put a copy of it back"
        )
    if number > FORMAT:
        raise NewerFormatError(
            f"{path}: got format {number}; wanted at most {FORMAT}. A newer version of tfm_jax wrote it: "
            "upgrade by pip install -U tfm_jax"
        )
    return number


def migrate_config(config: Mapping[str, object], number: int) -> dict[str, Any]:
    """A run's config in the current format.

    Args:
      config: nested dicts, as config.json holds them, without "format".
      number: their format.

    Returns:
      A new dict.
    """
    result = dict(config)
    for migrate in _MIGRATIONS[number - 1 :]:
        result = migrate(result)
    return result


def migrate_record(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A checkpoint's record of its run in the current format.

    Args:
      record: whose "config" maps paths of fields ("model.d_model") to values.
      number: the checkpoint's format.

    Returns:
      A new dict.
    """
    files = record.get("files")
    if isinstance(files, Mapping) and files.get(_LATER_FILE, "") is None:
        record = {**record, "files": {name: digest for name, digest in files.items() if name != _LATER_FILE}}
    if not isinstance(record.get("config"), Mapping):
        return dict(record)
    sections: dict[str, Any] = {}
    for name, value in record["config"].items():
        section, dot, field = name.partition(".")
        if dot:
            sections.setdefault(section, {})[field] = value
        else:
            sections[name] = value
    config: dict[str, Any] = {}
    for section, value in migrate_config(sections, number).items():
        fields = {f"{section}.{field}": x for field, x in value.items()} if isinstance(value, dict) else None
        config.update({section: value} if fields is None else fields)
    return {**record, "config": config}


def _to_format_2(config: dict[str, Any]) -> dict[str, Any]:
    """Renames attention backends; adds the salt of version 0.1, which held out by a permutation."""
    model, data = config.get("model"), config.get("data")
    if isinstance(model, dict) and isinstance(old := model.get("attention_implementation"), str):
        name = _ATTENTION_IMPLEMENTATIONS.get(old, old)
        config["model"] = {**model, "attention_implementation": name}
    if isinstance(data, dict) and "held_out" in data:
        config["data"] = {"held_out_salt": None, **data}
    return config


_MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_to_format_2,)
"""Entry i makes format i + 2 of format i + 1."""

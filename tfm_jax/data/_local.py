"""Local data sets: finding the files of a path, a directory or a glob, and their splits."""

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from tfm_jax.data._formats import read_files
from tfm_jax.data._layout import (
    KINDS,
    METADATA,
    Place,
    SplitsBy,
    assign_splits,
    check_splits,
    class_names,
    kind_of,
)
from tfm_jax.data._open import PACKED
from tfm_jax.data.builtin import SOURCES

__all__ = ["Found", "find_files", "is_one_text", "load_local", "looks_local"]

_ORDER = ("train", "validation", "test")
_RUN_FILES = (
    *("config.json", "model.json", "tokenizer.json", "tokenizer.new.json", "special_tokens_map.json"),
    *("preprocessor_config.json", "metrics.jsonl", "result.json", "sample.txt"),
    *("curves.png", "confusion.png", "attention.png"),
)
_RUN_DIRECTORY = re.compile(r"checkpoints|events|set_aside(-\d+)?")
_RUN_CONFIG = {"data", "model", "train", "out", "resume"}
_LARGEST_CONFIG = 1 << 20  # bytes


class Found(NamedTuple):
    """The data files of a source.

    Args:
        kind: a value of `layout.KINDS`.
        files: of each split that has some, in the order train, validation, test. Of pictures also the tables
            of `layout.METADATA`, each in the first split that has pictures in its directory or below it.
        labels: the class of each picture, where their directories are classes.
    """

    kind: str
    files: Mapping[str, list[Path]]
    labels: Mapping[Path, str] | None = None


def looks_local(source: str) -> bool:
    """Whether a source is the path of files, there or not: a name of the hub has at most one inner slash
    (its configuration, after a colon, may have more).

    Equivalent to::

        exists or begins with "/", "./", "../" or "~" or is a glob or has a suffix of a data file

    Args:
        source: what the user wrote.

    Returns:
        True for a path.
    """
    return bool(
        source.startswith(("/", "./", "../", "~"))
        or source in (".", "..")
        or re.search(r"[*?\[\]\\]", source)
        or source.partition(":")[0].count("/") > 1
        or source.endswith("/")
        or kind_of(source)
        or Path(source).exists()
    )


def is_one_text(source: str, splits: SplitsBy | None = None) -> bool:
    """Whether the training data of a source is one file of plain text: one document, whatever its rows are.

    Equivalent to::

        found = find_files(source, splits)
        found.kind == "text" and len(found.files["train"]) == 1

    Args:
        source, splits: as for `load_local`.

    Returns:
        True for such a file, also where a directory or a glob finds it alone.

    Raises:
        FileNotFoundError, ValueError: as `load_local`.
    """
    found = find_files(source, splits)
    return found.kind == "text" and len(found.files.get("train", ())) == 1


def load_local(
    source: str,
    split: str | None,
    *,
    splits: SplitsBy | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> Any:
    """Load files, the files of a directory, or those that a glob finds.

    A single file is the split "train". Several are split by their directories or names, as `assign_splits`
    says, relative to the directory, or to the one that a glob names before its first wildcard. A path that is
    there is taken literally, whatever characters it has. A text file is one row, or several of at most 65,536
    characters, cut at line ends. A directory of pictures has one directory for each class; of
    pictures that a glob finds, too, and they need two classes to have labels.

    Of a directory, hidden files (``.a``, ``_a``) and those named README or LICENSE are not read. Nor is what
    a run has left in its directory: there, ``config.json`` with the fields of a run's, the files beside it
    that a run writes, ``checkpoints/``, ``set_aside/`` and ``events/``. A glob finds them if it ends in the
    name of the file.

    Args:
        source: the path; the files may be compressed (.gz, .bz2, .xz, .zst).
        split: the split; None for all of them.
        splits: what decides the split of each file, instead of the rule; see `assign_splits`.
        streaming: read while iterating.
        cache_dir, separator, encoding: as for `formats.read_files`.

    Returns:
        What ``datasets.load_dataset`` returns.

    Raises:
        FileNotFoundError: there is no such file, or no data file in the directory.
        ValueError: files of several kinds or of an unknown one, their splits are ambiguous, or their content
            cannot be read.
    """
    found = find_files(source, splits)
    return read_files(
        found.kind,
        found.files,
        split=split,
        streaming=streaming,
        cache_dir=cache_dir,
        separator=separator,
        encoding=encoding,
        labels=found.labels,
    )


def find_files(source: str, splits: SplitsBy | None = None) -> Found:
    """Data files of a path, a directory or a glob, with their kind, splits and classes.

    Args:
        source, splits: as for `load_local`.

    Returns:
        At least one file.

    Raises:
        FileNotFoundError, ValueError: as `load_local`.
    """
    check_splits(splits)
    path = _path(source)
    base, files = _search(path)
    if not files:
        raise FileNotFoundError(_nothing_there(source, path))
    kind, files, metadata = _one_kind(source, files)
    if splits is None and path.is_file():
        splits = "none"
    pictures = kind == "imagefolder"
    relative = {PurePath(os.path.relpath(file, base)): file for file in files}
    try:
        places = assign_splits(list(relative), pictures=pictures, splits=splits)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    labels = class_names(places) if pictures and not metadata else None
    return Found(
        kind,
        _by_split({relative[name]: place for name, place in places.items()}, metadata),
        labels and {relative[name]: label for name, label in labels.items()},
    )


def _path(source: str) -> Path:
    """The path of a source, "~" and "~name" being homes where there is a user of that name."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _search(path: Path) -> tuple[Path, list[Path]]:
    """The directory that the splits of the files are relative to, and the files, in order."""
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, list(_walk(path))
    return _matches(path)


def _one_kind(source: str, files: list[Path]) -> tuple[str, list[Path], list[Path]]:
    """The kind of the files, those that are of it, and the metadata of pictures."""
    kinds = {file: kind_of(file.name) for file in files}
    metadata = []
    if "imagefolder" in kinds.values():
        metadata = [file for file in files if file.name in METADATA]
        kinds = {file: kind for file, kind in kinds.items() if file.name not in METADATA}
    kind, *others = set(kinds.values())
    if others or kind is None:
        raise ValueError(
            f"{source} holds files of several kinds or of an unknown one: {_suffixes(kinds)}; wanted one of "
            f"{', '.join(KINDS)}, which may be compressed ({', '.join(PACKED)}). Choose those of one kind by "
            "a glob, such as 'directory/**/*.jsonl'"
        )
    return kind, list(kinds), metadata


def _walk(directory: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The data files of a directory, in order; links to directories are followed, but not in circles."""
    real = os.path.realpath(directory)
    if real in above:
        return
    of_a_run = _is_run(directory)
    for path in sorted(directory.iterdir()):
        left = of_a_run and (path.name in _RUN_FILES or _RUN_DIRECTORY.fullmatch(path.name))
        if path.name[0] in "._" or left:
            continue
        if path.is_dir():
            yield from _walk(path, (*above, real))
        elif kind_of(path.name) and not re.match(r"(README|LICENSE)\b", path.name) and _is_file(path):
            yield path


def _is_file(path: Path) -> bool:
    """Whether there is a file; that a link leads nowhere is an error, as its data would be missed."""
    if path.is_file():
        return True
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path} is a link to {os.readlink(path)}, and nothing is there; restore that, or remove the link"
        )
    return False


def _matches(path: Path) -> tuple[Path, list[Path]]:
    """The directory that a glob names before its first wildcard, and the files that it finds, in order."""
    base = next(parent for parent in path.parents if parent.exists() or not glob.has_magic(str(parent)))
    pattern = os.path.join(glob.escape(str(base)), path.relative_to(base))
    found = [Path(name) for name in sorted(set(glob.glob(pattern, recursive=True))) if _is_file(Path(name))]
    if glob.has_magic(path.name):
        found = [file for file in found if not _left_by_a_run(file, base)]
    return base, found


def _left_by_a_run(file: Path, base: Path) -> bool:
    """Whether a run has written a file, into its own directory in ``base``, or ``base`` itself."""
    parts = file.relative_to(base).parts
    return any(
        (_RUN_DIRECTORY.fullmatch(name) if depth < len(parts) - 1 else name in _RUN_FILES)
        and _is_run(base.joinpath(*parts[:depth]))
        for depth, name in enumerate(parts)
    )


def _is_run(directory: Path) -> bool:
    """Whether a directory is that of a run: its config.json has the fields of a run's."""
    path = directory / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_CONFIG:
            return False
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.keys() >= _RUN_CONFIG


def _by_split(places: Mapping[Path, Place], metadata: list[Path]) -> dict[str, list[Path]]:
    """The files of each split, with the metadata of its pictures."""
    splits = {name: [file for file in places if places[file].split == name] for name in _ORDER}
    for table in metadata:
        holds = (name for name in splits if any(table.parent in file.parents for file in splits[name]))
        if (first := next(holds, None)) is None:
            raise ValueError(
                f"{table} is a table of pictures, but there are none in its directory; wanted it beside or "
                "above the pictures. Move or rename it"
            )
        splits[first].append(table)
    return {name: files for name, files in splits.items() if files}


def _nothing_there(source: str, path: Path) -> str:
    matches = [] if path.is_dir() else glob.glob(str(path), recursive=True)
    if left := [match for match in matches if Path(match).is_file()]:
        return f"{source!r} finds only what runs have left, such as {left[0]!r}; name that to read it"
    if matches:
        return f"{source!r} finds only directories; go on to their files, such as '{source}/*.jsonl'"
    what = "no data file in the directory" if path.is_dir() else "no file or directory"
    *first, last = map(repr, SOURCES)
    return (
        f"there is {what} {source!r} (from {Path.cwd()}); pass a path that is there, the name of a hub "
        f"data set, or {', '.join(first)} or {last}, which need no file"
    )


def _suffixes(files: Iterable[Path]) -> str:
    return ", ".join(sorted({"".join(file.suffixes[-2:]) or file.name for file in files}))

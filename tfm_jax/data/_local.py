"""Local data files: those of a path, a directory or a glob, with their splits and classes."""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path, PurePath

from tfm_jax.data._layout import (
    KINDS,
    METADATA,
    Assignment,
    SplitsBy,
    assign_splits,
    check_splits,
    class_names,
    kind_of,
)
from tfm_jax.data._open import COMPRESSED
from tfm_jax.data.aligned import find_aligned
from tfm_jax.data.builtin import SOURCES

__all__ = ["DataFiles", "find_files", "is_path"]

_ORDER = ("train", "validation", "test")
_RUN_FILES = (
    *("config.json", "model.json", "tokenizer.json", "tokenizer.new.json", "special_tokens_map.json"),
    *("preprocessor_config.json", "metrics.jsonl", "result.json", "sample.txt", "task.json"),
    *("curves.png", "confusion.png", "attention.png", "inputs.npz", "start_inputs.npz"),
)
_RUN_RESULT = re.compile(r"result-\d+\.json")
"""Of a run before it was made longer."""
_RUN_DIRECTORY = re.compile(r"checkpoints|events|profile|set_aside(-\d+)?")
_RUN_CONFIG = {"data", "model", "train", "out", "resume"}
_SWEEP_FILE, _SWEEP = "sweep.json", {"arguments", "best", "runs"}
_LARGEST_CONFIG = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """The data files of a source.

    Args:
      kind: a value of `_layout.KINDS`, or "aligned".
      files: of each split that has some, in the order train, validation, test. For images also the tables of
        `_layout.METADATA`, each in the first split that has images in its directory or below it.
      labels: the class of each image, if their directories are classes.
      target: the target texts of the kind "aligned".
    """

    kind: str
    files: Mapping[str, list[Path]]
    labels: Mapping[Path, str] | None = None
    target: Path | None = None

    @property
    def is_one_text(self) -> bool:
        """Whether the training data is a single text file: one document, in one or more rows."""
        return self.kind == "text" and len(self.files.get("train", ())) == 1


def is_path(source: str) -> bool:
    """Whether a source is a path of files, existing or not, rather than a hub data set.

    A hub name has at most one slash (its configuration, after a colon, may have more).

    Equivalent to::

        exists or begins with "/", "./", "../" or "~" or is a glob or has a suffix of a data file

    Args:
      source: as the user wrote it.

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


def find_files(source: str | Sequence[str], splits: SplitsBy | None = None) -> DataFiles:
    """The data files of a path, a directory or a glob, or two aligned text files.

    A single file is the split "train". Several are split by `assign_splits`, by their path relative to the
    directory, or to the directory before the first wildcard of a glob. An existing path is literal, even if
    it has the characters of a glob.

    In a directory, hidden files (``.a``, ``_a``) and those named README or LICENSE are skipped. So is what a
    run wrote in its directory (one with a ``config.json`` that has the fields of a run): its files,
    ``checkpoints/``, ``set_aside/``, ``events/`` and ``profile/``; and the ``sweep.json`` of a sweep. A glob
    finds them if it ends in the name of the file.

    Args:
      source: the path, or two; the files may be compressed (.gz, .bz2, .xz, .zst).
      splits: what decides the split of each file instead of the rule; see `assign_splits`.

    Returns:
      At least one file.

    Raises:
      FileNotFoundError: there is no such file, or no data file in the directory.
      ValueError: the files are of several kinds or of an unknown one, or their splits are ambiguous.
    """
    check_splits(splits)
    if not isinstance(source, str):
        if splits not in (None, "none"):
            raise ValueError(
                f"load: got splits={splits!r} for two aligned files, which are training data; wanted one "
                "path. Leave it out, and name other files for validation and test."
            )
        texts, target = find_aligned(source)
        return DataFiles("aligned", {"train": [texts]}, target=target)
    path = _expanded(source)
    base, files = _search(path)
    if not files:
        raise FileNotFoundError(_nothing_found(source, path))
    kind, files, metadata = _one_kind(source, files)
    if splits is None and path.is_file():
        splits = "none"
    images = kind == "imagefolder"
    relative = {PurePath(os.path.relpath(file, base)): file for file in files}
    try:
        assignments = assign_splits(list(relative), images=images, splits=splits)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    labels = class_names(assignments) if images and not metadata else None
    return DataFiles(
        kind,
        _by_split({relative[name]: assigned for name, assigned in assignments.items()}, metadata),
        None if labels is None else {relative[name]: label for name, label in labels.items()},
    )


def _expanded(source: str) -> Path:
    """The path of a source, with "~" and "~name" expanded if there is such a user."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _search(path: Path) -> tuple[Path, list[Path]]:
    """The directory that splits are relative to, and the files, sorted."""
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, list(_walk(path))
    return _expand_glob(path)


def _one_kind(source: str, files: list[Path]) -> tuple[str, list[Path], list[Path]]:
    """The one kind of the files, the files, and the metadata of images."""
    kinds = {file: kind_of(file.name) for file in files}
    metadata = []
    if "imagefolder" in kinds.values():
        metadata = [file for file in files if file.name in METADATA]
        kinds = {file: kind for file, kind in kinds.items() if file.name not in METADATA}
    kind, *others = set(kinds.values())
    if others or kind is None:
        raise ValueError(
            f"{source}: got files of several kinds or of an unknown one: {_suffixes(kinds)}; wanted one of "
            f"{', '.join(KINDS)}, which may be compressed ({', '.join(COMPRESSED)}). Choose those of one "
            "kind with a glob, such as 'directory/**/*.jsonl'."
        )
    return kind, list(kinds), metadata


def _walk(directory: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The data files of a directory, sorted; follows links to directories, but no cycles."""
    real = os.path.realpath(directory)
    if real in above:
        return
    is_run = _is_run(directory)
    for path in sorted(directory.iterdir()):
        of_run = is_run and (_is_run_file(path.name) or _RUN_DIRECTORY.fullmatch(path.name))
        if path.name[0] in "._" or of_run or _is_sweep(path):
            continue
        if path.is_dir():
            yield from _walk(path, (*above, real))
        elif kind_of(path.name) and not re.match(r"(README|LICENSE)\b", path.name) and _is_file(path):
            yield path


def _is_file(path: Path) -> bool:
    """Whether the path is a file; a dangling link is an error, since its data would be missing."""
    if path.is_file():
        return True
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path}: got a link to {os.readlink(path)}, which does not exist; wanted a file. Restore it, or "
            "remove the link."
        )
    return False


def _expand_glob(path: Path) -> tuple[Path, list[Path]]:
    """The directory before the first wildcard of a glob, and the files that match, sorted."""
    base = next(parent for parent in path.parents if parent.exists() or not glob.has_magic(str(parent)))
    pattern = os.path.join(glob.escape(str(base)), path.relative_to(base))
    matches = sorted(set(glob.glob(pattern, recursive=True)))
    files = [Path(name) for name in matches if _is_file(Path(name))]
    if glob.has_magic(path.name):
        files = [file for file in files if not _is_of_run(file, base)]
    return base, files


def _is_of_run(file: Path, base: Path) -> bool:
    """Whether a run wrote the file, into its directory in ``base``, or ``base`` itself."""
    parts = file.relative_to(base).parts
    return _is_sweep(file) or any(
        (_RUN_DIRECTORY.fullmatch(name) if depth < len(parts) - 1 else _is_run_file(name))
        and _is_run(base.joinpath(*parts[:depth]))
        for depth, name in enumerate(parts)
    )


def _is_run_file(name: str) -> bool:
    return name in _RUN_FILES or _RUN_RESULT.fullmatch(name) is not None


def _is_run(directory: Path) -> bool:
    """Whether the directory is that of a run: its config.json has a run's fields."""
    return _has_keys(directory / "config.json", _RUN_CONFIG)


def _is_sweep(path: Path) -> bool:
    """Whether the path is the table of a sweep."""
    return path.name == _SWEEP_FILE and _has_keys(path, _SWEEP)


def _has_keys(path: Path, keys: Set[str]) -> bool:
    """Whether the path is a file of a JSON object with these keys."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_CONFIG:
            return False
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.keys() >= keys


def _by_split(assignments: Mapping[Path, Assignment], metadata: list[Path]) -> dict[str, list[Path]]:
    """The files of each split, with the metadata of its images."""
    splits = {name: [file for file in assignments if assignments[file].split == name] for name in _ORDER}
    for table in metadata:
        holders = (name for name in splits if any(table.parent in file.parents for file in splits[name]))
        if (first := next(holders, None)) is None:
            raise ValueError(
                f"{table}: got a table of images without images in its directory; wanted it beside or "
                "above the images. Move or rename it."
            )
        splits[first].append(table)
    return {name: files for name, files in splits.items() if files}


def _nothing_found(source: str, path: Path) -> str:
    matches = [] if path.is_dir() else glob.glob(str(path), recursive=True)
    if of_run := [match for match in matches if Path(match).is_file()]:
        return (
            f"load: got {source!r}, which matches only files that runs wrote, such as {of_run[0]!r}; wanted "
            "data files. Name that file to read it."
        )
    if matches:
        return (
            f"load: got {source!r}, which matches only directories; wanted files. Add them, such as "
            f"'{source}/*.jsonl'."
        )
    problem = "no data files" if path.is_dir() else "no file or directory"
    *first, last = map(repr, SOURCES)
    return (
        f"load: got {source!r} (from {Path.cwd()}) and found {problem}; wanted an existing path, the name "
        f"of a hub data set, or a built-in one. Pass a path, or {', '.join(first)} or {last}."
    )


def _suffixes(files: Iterable[Path]) -> str:
    return ", ".join(sorted({"".join(file.suffixes[-2:]) or file.name for file in files}))

"""Directory layout of data sets: kinds of files, their splits, and classes of images, from their names."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple, get_args

from tfm_jax.data._open import COMPRESSED

__all__ = [
    "KINDS",
    "METADATA",
    "Assignment",
    "SplitsBy",
    "assign_splits",
    "check_splits",
    "class_names",
    "kind_of",
]

KINDS = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "json"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".txt", ".text", ".conll", ".bio", ".iob", ".iob2"), "text"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"), "imagefolder"),
}
"""The kind of a file, by its suffix."""
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
"""Tables of the images in their directory and below it."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SHARD = re.compile(r"[-_.]\d+[-_.]of[-_.]\d+([-_.][0-9a-f]+)?$")

SplitsBy = Literal["directories", "files", "none"]
"""What decides the split of a file instead of the rule of `assign_splits`."""

_FIX = (
    "Pass splits=... (--data.splits): 'directories' makes each directory with a split's name "
    "that split and all else training data, 'files' reads the names of the files, 'none' makes all of it "
    "training data and each directory of images a class."
)


class Assignment(NamedTuple):
    """The split of a file.

    Args:
      split: "train", "validation" or "test".
      depth: the number of leading directories of its path, up to the one that names the split; 0 if none
        does.
    """

    split: str
    depth: int = 0


def kind_of(name: str) -> str | None:
    """The kind of a file, by its name.

    Equivalent to::

        KINDS.get(suffix of the name without a suffix of COMPRESSED)

    Args:
      name: of the file, in any case, such as "a.jsonl.gz".

    Returns:
      A value of `KINDS`; None for another file.
    """
    return KINDS.get(os.path.splitext(_uncompressed(name))[1].lower())


def assign_splits(
    files: Sequence[PurePath], *, images: bool, splits: SplitsBy | None = None
) -> dict[PurePath, Assignment]:
    """The split of each file of a directory.

    The rule (``splits=None``):

    - While all files are in one directory that has no split's name, that directory is entered.
    - The first directories are splits if all of them have a split's name (train, training; valid, validation,
      val, dev, eval; test, testing; in any case). Below one of these, it alone decides.
    - If only some have one, directories that hold their images directly are classes. Anything else is
      ambiguous.
    - If none has one, they are classes, or just directories. Splits further down are ambiguous.
    - For all other files, the split is the first or last word of the name of a table or text, without its
      suffixes, if that is a split's name; otherwise "train". Words are runs of letters; the numbers of a
      shard (``-00000-of-00002``) are ignored.

    Args:
      files: unique paths relative to the directory.
      images: whether they are images, whose names are ignored.
      splits: what decides instead of the rule. "directories": the first directory in a file's path that has
        a split's name. "files": the words of a file's name, of an image too. "none": nothing. A file that
        names no split is in "train".

    Returns:
      The split of each file.

    Raises:
      ValueError: the rule is ambiguous, or the first and last word of a name are two splits.
    """
    if splits is None:
        return _by_rule(files, images)
    if splits == "none":
        return dict.fromkeys(files, Assignment("train"))
    assign = {"directories": _by_directories, "files": _by_name}[splits]
    return {file: assign(file) for file in files}


def check_splits(splits: str | None) -> None:
    """Raises unless ``splits`` is a value of `SplitsBy` or None."""
    if splits is not None and splits not in get_args(SplitsBy):
        raise ValueError(
            f"load: got splits={splits!r}; wanted {', '.join(map(repr, get_args(SplitsBy)))} or None. "
            "Pass None for the rule of directories and names."
        )


def class_names(assignments: Mapping[PurePath, Assignment]) -> dict[PurePath, str] | None:
    """The class of each image: the name of its directory.

    Equivalent to::

        {image: image.parent.name}

    Args:
      assignments: of all images, by their path relative to the source.

    Returns:
      The classes; None if the images are at several depths, one is directly in the directory of its split,
      or there is only one class.
    """
    depths = {len(image.parts) for image in assignments}
    has_bare = any(len(image.parts) - 1 == assigned.depth for image, assigned in assignments.items())
    names = {image: image.parent.name for image in assignments}
    return names if len(depths) == 1 and not has_bare and len(set(names.values())) > 1 else None


def _by_rule(files: Sequence[PurePath], images: bool) -> dict[PurePath, Assignment]:
    outer = _common_depth(files)
    members = defaultdict(list)
    for file in files:
        if len(file.parts) > outer + 1:
            members[file.parts[outer]].append(file)
    named = {name for name in members if _split(name)}
    if named != members.keys():
        flat = all(len(file.parts) == outer + 2 for below in members.values() for file in below)
        if named and not (images and flat):
            raise ValueError(_some_are_splits(named, members.keys() - named))
        if not named:
            _check_no_splits_below(files, outer)
        named = set()
    assignments = {}
    for file in files:
        first = file.parts[outer] if len(file.parts) > outer + 1 else ""
        if first in named:
            assignments[file] = Assignment(_SPLITS[first.lower()], outer + 1)
        else:
            assignments[file] = Assignment("train") if images else _by_name(file)
    return assignments


def _common_depth(files: Sequence[PurePath]) -> int:
    """The number of nested directories without a split's name that hold all files."""
    shortest = min(len(file.parent.parts) for file in files)
    for depth in range(shortest):
        names = {file.parts[depth] for file in files}
        if len(names) > 1 or _split(*names):
            return depth
    return shortest


def _check_no_splits_below(files: Sequence[PurePath], outer: int) -> None:
    """Raises if a directory that names no split holds several splits, such as one corpus of many."""
    members = defaultdict(set)
    for file in files:
        for depth in range(outer + 1, len(file.parts) - 1):
            members[file.parts[:depth]].add(file.parts[depth])
    for parts, names in sorted(members.items()):
        splits = {_split(name) for name in names}
        if None not in splits and len(splits) > 1:
            raise ValueError(
                f"got its directory {PurePath(*parts).as_posix()!r} with {_listed(names)}, the names of "
                f"splits; wanted those as the first directories. {_FIX}"
            )


def _some_are_splits(named: Collection[str], others: Collection[str]) -> str:
    return (
        f"got directories of which {_listed(named)} have the names of splits, {_listed(others)} have not; "
        f"wanted all or none of them. {_FIX}"
    )


def _by_directories(file: PurePath) -> Assignment:
    for depth, name in enumerate(file.parts[:-1], 1):
        if split := _split(name):
            return Assignment(split, depth)
    return Assignment("train")


def _by_name(file: PurePath) -> Assignment:
    stem, _ = os.path.splitext(_uncompressed(file.name))
    words = re.findall(r"[^\W\d_]+", _SHARD.sub("", stem))
    splits = {split for word in (words[:1] + words[-1:]) if (split := _split(word))}
    if len(splits) > 1:
        raise ValueError(
            f"got its file {file.as_posix()!r}, which begins with one split's name and ends with another's; "
            "wanted one of them. Rename it, or pass splits='none' (--data.splits none of an experiment), or "
            "'directories'."
        )
    return Assignment(splits.pop() if splits else "train")


def _split(name: str) -> str | None:
    return _SPLITS.get(name.lower())


def _uncompressed(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in COMPRESSED else name


def _listed(names: Collection[str]) -> str:
    few = sorted(names)[:5]
    return ", ".join(map(repr, few)) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

"""What the names of files and directories declare: the kind of a file, its split, the class of a picture."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple, get_args

from tfm_jax.data._open import PACKED

__all__ = ["KINDS", "METADATA", "Place", "SplitsBy", "assign_splits", "class_names", "kind_of"]

KINDS = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "json"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".txt", ".text"), "text"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"), "imagefolder"),
}
"""The kind of a file, by its suffix."""
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
"""Tables of the pictures in their own directory and below it."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SHARD = re.compile(r"[-_.]\d+[-_.]of[-_.]\d+([-_.][0-9a-f]+)?$")

SplitsBy = Literal["directories", "files", "none"]
"""What decides the split of a file, where the rule of `assign_splits` does not."""

HOW = (
    "Pass splits= (--data.splits of an experiment): 'directories' makes each directory with a split's name "
    "that split and all else training data, 'files' goes by the names of the files, 'none' makes all of it "
    "training data and each directory of pictures a class"
)
"""How a user declares what the rule cannot decide, for messages."""


class Place(NamedTuple):
    """Where a file belongs.

    Args:
        split: "train", "validation" or "test".
        directories: how many of the first directories of its path are used up where one of them names the
            split, that one included; 0 where none does.
    """

    split: str
    directories: int = 0


def kind_of(name: str) -> str | None:
    """Kind of a file by its name.

    Equivalent to::

        KINDS.get(suffix of the name without a suffix of PACKED)

    Args:
        name: of the file, in any case, such as "a.jsonl.gz".

    Returns:
        A value of `KINDS`; None for another file.
    """
    return KINDS.get(os.path.splitext(_unpacked(name))[1].lower())


def assign_splits(
    files: Sequence[PurePath], *, pictures: bool, splits: SplitsBy | None = None
) -> dict[PurePath, Place]:
    """Split of each file of a directory.

    By the rule (``splits=None``):

    - While all files lie in one directory that is not named as a split, that directory is entered.
    - The first directories are splits if all of them have a split's name (train, training; valid, validation,
      val, dev, eval; test, testing; in any case). Below one of these, it alone decides.
    - If only some have one, the directories of pictures are classes where each holds its pictures directly.
      Anything else is ambiguous.
    - If none has one, they are classes, or just directories. Splits further down are ambiguous.
    - All other files are in the split that the first or the last word of a table's or text's name, without
      its suffixes, is the name of, and else in "train". Words are runs of letters; the numbers of a shard
      (``-00000-of-00002``) do not count.

    Args:
        files: paths relative to the directory, no two alike.
        pictures: whether they are pictures, whose own names do not count.
        splits: what decides instead of the rule. "directories": the first directory in a file's path that has
            a split's name. "files": the words of a file's name, also of a picture's. "none": nothing.
            Where that names no split, the file is in "train".

    Returns:
        The place of each file.

    Raises:
        ValueError: the rule cannot decide, or a name's first and last word are two splits.
    """
    if splits is None:
        return _by_rule(files, pictures)
    place = {"directories": _by_directories, "files": _by_name, "none": lambda file: Place("train")}[splits]
    return {file: place(file) for file in files}


def check_splits(splits: str | None) -> None:
    """Raise unless ``splits`` is a value of `SplitsBy` or None."""
    if splits is not None and splits not in get_args(SplitsBy):
        raise ValueError(
            f"splits: got {splits!r}; wanted {', '.join(map(repr, get_args(SplitsBy)))} or None. "
            "None goes by the rule of load_local"
        )


def class_names(places: Mapping[PurePath, Place]) -> dict[PurePath, str] | None:
    """Class of each picture: the name of its directory.

    Equivalent to::

        {picture: picture.parent.name}

    Args:
        places: of all pictures, relative to their source.

    Returns:
        The classes; None where the pictures do not all lie at one depth, where one lies directly in the
        directory of its split, or where there is only one class.
    """
    depths = {len(picture.parts) for picture in places}
    bare = any(len(picture.parts) - 1 == place.directories for picture, place in places.items())
    names = {picture: picture.parent.name for picture in places}
    return names if len(depths) == 1 and not bare and len(set(names.values())) > 1 else None


def _by_rule(files: Sequence[PurePath], pictures: bool) -> dict[PurePath, Place]:
    outer = _entered(files)
    below = defaultdict(list)
    for file in files:
        if len(file.parts) > outer + 1:
            below[file.parts[outer]].append(file)
    named = {name for name in below if _split(name)}
    if named != below.keys():
        direct = all(len(file.parts) == outer + 2 for rest in below.values() for file in rest)
        if named and not (pictures and direct):
            raise ValueError(_some_are_splits(named, below.keys() - named))
        if not named:
            _check_nothing_below(files, outer)
        named = set()
    by_name: Callable[[PurePath], Place] = (lambda file: Place("train")) if pictures else _by_name
    places = {}
    for file in files:
        first = file.parts[outer] if len(file.parts) > outer + 1 else ""
        places[file] = Place(_SPLITS[first.lower()], outer + 1) if first in named else by_name(file)
    return places


def _entered(files: Sequence[PurePath]) -> int:
    """How many directories there are, one in the other, that hold all files and are not named as splits."""
    shortest = min(len(file.parent.parts) for file in files)
    for depth in range(shortest):
        names = {file.parts[depth] for file in files}
        if len(names) > 1 or _split(*names):
            return depth
    return shortest


def _check_nothing_below(files: Sequence[PurePath], outer: int) -> None:
    """Raise where the directories within one that names no split are several splits, as of a corpus each."""
    within = defaultdict(set)
    for file in files:
        for depth in range(outer + 1, len(file.parts) - 1):
            within[file.parts[:depth]].add(file.parts[depth])
    for parts, names in sorted(within.items()):
        found = {_split(name) for name in names}
        if None not in found and len(found) > 1:
            raise ValueError(
                f"its directory {PurePath(*parts).as_posix()!r} holds {_listed(names)}, the names of splits; "
                f"wanted them as the first directories. {HOW}"
            )


def _some_are_splits(named: Collection[str], others: Collection[str]) -> str:
    return (
        f"of its directories, {_listed(named)} have the names of splits, {_listed(others)} have not; wanted "
        f"all or none of them. {HOW}"
    )


def _by_directories(file: PurePath) -> Place:
    for depth, name in enumerate(file.parts[:-1], 1):
        if split := _split(name):
            return Place(split, depth)
    return Place("train")


def _by_name(file: PurePath) -> Place:
    stem, _ = os.path.splitext(_unpacked(file.name))
    words = re.findall(r"[^\W\d_]+", _SHARD.sub("", stem))
    found = {split for word in (words[:1] + words[-1:]) if (split := _split(word))}
    if len(found) > 1:
        raise ValueError(
            f"the name of its file {file.as_posix()!r} begins with one split's name and ends with another's; "
            "wanted one of them. Rename it, or pass splits='directories' or 'none' (--data.splits of an "
            "experiment)"
        )
    return Place(*found or ("train",))


def _split(name: str) -> str | None:
    return _SPLITS.get(name.lower())


def _unpacked(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in PACKED else name


def _listed(names: Collection[str]) -> str:
    few = sorted(names)[:5]
    return ", ".join(map(repr, few)) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

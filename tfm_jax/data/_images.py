"""Pictures in files, with the name of their class or with what a metadata file says of them."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from tfm_jax.data._open import PACKED, open_bytes
from tfm_jax.data.columns import sorted_names

__all__ = ["DescribedPictures", "Pictures"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures, each with its class.

    Args:
        labels: the name of the class of each file; None for pictures without one.
    """

    labels: Mapping[Path, str] | None

    @functools.cached_property
    def _names(self) -> list[str]:
        return sorted_names((self.labels or {}).values())

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The picture, and its class among those that occur in any split."""
        label = {} if self.labels is None else {"label": datasets.ClassLabel(names=self._names)}
        return datasets.Features({"image": datasets.Image(), **label})

    def rows(self, file: Path) -> Iterator[dict[str, Any]]:
        """The one row of a file."""
        label = {} if self.labels is None else {"label": self._numbers[self.labels[file]]}
        yield {"image": _image(file), **label}


@dataclasses.dataclass(frozen=True)
class DescribedPictures:
    """Pictures that a metadata file names: ``file_name`` for "image", ``NAME_file_name`` for column "NAME".

    Args:
        reader: of the metadata files.
        of_split: the pictures of the split; rows of the others are left out.
        everywhere: the pictures of all splits.
    """

    reader: Any
    of_split: frozenset[str]
    everywhere: frozenset[str]

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns of the metadata, with pictures for the names of files."""
        found = datasets.Features()
        for name, feature in self.reader.features(files).items():
            column = _column(name)
            if (column or name) in found:
                raise ValueError(f"{files[0]}: two columns would be called {column or name!r}; rename one")
            found[column or name] = datasets.Image() if column else feature
        if not any(isinstance(feature, datasets.Image) for feature in found.values()):
            raise ValueError(
                f"{files[0]}: it has no column 'file_name', only {list(found)}; name the picture of each row "
                "in one, by its path from the directory of this file"
            )
        return found

    def rows(self, file: Path) -> Iterator[dict[str, Any]]:
        """The rows of a metadata file whose pictures are in the split."""
        named = set()
        for number, row in enumerate(self.reader.rows(file)):
            paths = {name: _path(file, number, row[name]) for name in row if _column(name)}
            if missing := set(paths.values()) - self.everywhere:
                raise ValueError(
                    f"{file}, row {number}: there is no picture {min(missing)}; correct the name"
                )
            named.update(paths.values())
            if self.of_split.issuperset(paths.values()):
                images = {_column(name): _image(Path(path)) for name, path in paths.items()}
                yield {name: value for name, value in row.items() if name not in paths} | images
        below = {path for path in self.of_split if path.startswith(os.path.abspath(file.parent) + os.sep)}
        if left := len(below - named):
            log.warning("left out %d of %d pictures: %s has no row for them", left, len(below), file)


def _column(name: str) -> str | None:
    """The column of the pictures that a column of names names; None for another column."""
    if name == "file_name":
        return "image"
    return name.removesuffix("_file_name") if name.endswith("_file_name") else None


def _path(file: Path, number: int, name: Any) -> str:
    """The picture that a row names, below the directory of the metadata."""
    above = os.path.abspath(file.parent)
    path = os.path.normpath(os.path.join(above, name)) if isinstance(name, str) and name else above
    if not path.startswith(above + os.sep):
        raise ValueError(
            f"{file}, row {number}: got the file name {name!r}; wanted a path below {above}, relative to it"
        )
    return path


def _image(file: Path) -> dict[str, Any]:
    """A picture as the data set library stores it: by its path, or its bytes where the file is compressed."""
    if file.suffix.lower() in PACKED:
        with open_bytes(file) as content:
            return {"bytes": content.read(), "path": None}
    return {"bytes": None, "path": os.path.abspath(file)}

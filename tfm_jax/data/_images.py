"""Readers of image files, with their class or with the columns of a metadata file."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import datasets

from tfm_jax.data._open import COMPRESSED, open_bytes
from tfm_jax.data.labels import sorted_names

__all__ = ["ImageReader", "MetadataReader", "Reader"]

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Reader of one kind of file."""

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns of all the files."""
        ...

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The rows of a file, read while iterating."""
        ...


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Image files, each with its class.

    Args:
      labels: the class name of each file; None for images without classes.
    """

    labels: Mapping[Path, str] | None

    @functools.cached_property
    def _names(self) -> list[str]:
        return sorted_names((self.labels or {}).values())

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names)}

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The image, and its class among those of all splits."""
        label = {} if self.labels is None else {"label": datasets.ClassLabel(names=self._names)}
        return datasets.Features({"image": datasets.Image(), **label})

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The one row of a file."""
        label = {} if self.labels is None else {"label": self._ids[self.labels[file]]}
        yield {"image": _image(file), **label}


@dataclasses.dataclass(frozen=True)
class MetadataReader:
    """The rows of metadata files, with the images that they name.

    ``file_name`` is the image of column "image", and ``NAME_file_name`` that of column "NAME".

    Args:
      reader: of the metadata files.
      of_split: the images of the split; rows of other images are skipped.
      of_all_splits: the images of all splits.
    """

    reader: Reader
    of_split: frozenset[str]
    of_all_splits: frozenset[str]

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns of the metadata, with images in place of file names."""
        features = datasets.Features()
        for name, feature in self.reader.features(files).items():
            column = _image_column(name)
            if (column or name) in features:
                raise ValueError(
                    f"{files[0]}: got two columns for {column or name!r}; wanted one. Rename the other."
                )
            features[column or name] = datasets.Image() if column else feature
        if not any(isinstance(feature, datasets.Image) for feature in features.values()):
            raise ValueError(
                f"{files[0]}: got the columns {list(features)}; wanted 'file_name'. Name the image of "
                "each row in it, by its path relative to the directory of this file."
            )
        return features

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The rows of a metadata file whose images are in the split."""
        named = set()
        for number, row in enumerate(self.reader.rows(file)):
            columns = {name: column for name in row if (column := _image_column(name))}
            paths = {name: _image_path(file, number, row[name]) for name in columns}
            if missing := set(paths.values()) - self.of_all_splits:
                raise ValueError(
                    f"{file}, row {number}: got {min(missing)}, which is no image there; wanted one. "
                    "Correct the name."
                )
            named.update(paths.values())
            if self.of_split.issuperset(paths.values()):
                images = {columns[name]: _image(Path(path)) for name, path in paths.items()}
                yield {name: value for name, value in row.items() if name not in paths} | images
        below = {path for path in self.of_split if path.startswith(os.path.abspath(file.parent) + os.sep)}
        if dropped := len(below - named):
            log.warning("dropped %d of %d images: %s has no row for them", dropped, len(below), file)


def _image_column(name: str) -> str | None:
    """The image column for a column of file names; None for another column."""
    if name == "file_name":
        return "image"
    return name.removesuffix("_file_name") if name.endswith("_file_name") else None


def _image_path(file: Path, number: int, name: object) -> str:
    """The path of the image that a row names, below the directory of the metadata."""
    directory = os.path.abspath(file.parent)
    path = os.path.normpath(os.path.join(directory, name)) if isinstance(name, str) and name else directory
    if not path.startswith(directory + os.sep):
        raise ValueError(
            f"{file}, row {number}: got the file name {name!r}; wanted a path below {directory}, relative "
            "to it. Correct it."
        )
    return path


def _image(file: Path) -> dict[str, str | bytes | None]:
    """An image as ``datasets.Image`` stores it: its path, or its bytes if the file is compressed."""
    if file.suffix.lower() in COMPRESSED:
        with open_bytes(file) as content:
            return {"bytes": content.read(), "path": None}
    return {"bytes": None, "path": os.path.abspath(file)}

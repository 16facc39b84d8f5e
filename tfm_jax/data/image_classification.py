"""Labelled images as examples for image classification."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from tfm_jax.checks import check_shapes
from tfm_jax.data._validate import check_range, fingerprint
from tfm_jax.data.columns import Dataset, check_columns, column_values
from tfm_jax.data.image_files import decode_image, is_pillow
from tfm_jax.data.labels import label_ids, label_names
from tfm_jax.types import ImageClassificationBatch

__all__ = ["ImageClassificationExamples", "image_classification_examples"]


_FUNCTION = "image_classification_examples"


class ImageClassificationExamples:
    """Labelled images of one size, scaled to [0, 1] when a batch is taken.

    Equivalent to::

        {"images": images / 255, "labels": labels, "weights": ones}

    Args:
      images: uint8, or float32 in [0, 1] (not scaled again). [examples, height, width, channels]
      labels: int [examples]
      classes: the number of classes; labels must be below it.

    Raises:
      ValueError: a label is out of range or no integer, or the shapes do not match.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: int):
        check_shapes(
            "ImageClassificationExamples",
            images=(images, "B Hi Wi C"),
            labels=(labels, "B"),
            fix="The axes are examples, height, width and channels; each example has one label.",
        )
        check_range("ImageClassificationExamples", "label", labels, classes)
        self.images, self.labels, self.classes = images, labels.astype(np.int32), classes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> int:
        """A checksum of the images and labels."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> int:
        return fingerprint(self.images, self.labels)

    def take(
        self, indices: np.ndarray, shape: tuple[int, ...] | None = None
    ) -> ImageClassificationBatch[np.ndarray]:
        """A batch of the examples: images [B, height, width, channels], labels [B] and weights [B]."""
        images = self.images[indices]
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / np.float32(255)
        weights = np.ones(len(indices), np.float32)
        return {"images": images, "labels": self.labels[indices], "weights": weights}


def image_classification_examples(
    dataset: Dataset,
    *,
    image: str = "image",
    label: str = "label",
    classes: Sequence[str] | int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> ImageClassificationExamples:
    """Reads a data set of labelled images into memory.

    Args:
      dataset: the data set; a stream must be finite. A value is an image file (a `datasets.Image`, or bytes),
        or an array [height, width] or [height, width, channels] of uint8 values or of floats in [0, 1].
        Image files follow their EXIF orientation; of several frames the first is read.
      image, label: the names of the columns.
      classes: the class names, such as `label_names` returns for the training data; or their number or None,
        as for `label_names`.
      size: height and width to which image files are resized; arrays are not, and must have it. None: all
        have one size.
      channels: of image files (not arrays): 1 converts all to grey, 3 to RGB. None: to grey if all of them
        are, otherwise to RGB. Transparency is dropped; palettes and CMYK become RGB. Of 16-bit colours
        Pillow keeps the upper 8 bits; grey with more than 8 bits is an error.

    Returns:
      The examples, uint8 or float32 as in the data set.

    Raises:
      ValueError: the data set has no such columns or no rows, images differ in shape, an image file cannot be
        read or is grey with more than 8 bits, a value is out of range, or a label is none of the classes.
        Names the row, and the image file if there is one.
    """
    check_columns(_FUNCTION, dataset, [image, label], "image='...' and label='...'")
    if channels not in (None, 1, 3):
        raise ValueError(
            f"{_FUNCTION}: got channels={channels!r}; wanted 1 (grey), 3 (RGB) or None (as the files are)."
        )
    names = list(classes) if isinstance(classes, Sequence) else label_names(dataset, label, classes=classes)
    labels = label_ids(dataset, names, label)
    values = column_values(_FUNCTION, _undecoded(dataset, image), image)
    arrays = _read_all(values, size, channels)
    if channels is None and any(array.shape[-1] == 3 for array, _ in arrays):
        arrays = [(_as_rgb(array), True) if is_file else (array, is_file) for array, is_file in arrays]
    for row, (array, _) in enumerate(arrays):
        if array.shape != arrays[0][0].shape:
            raise ValueError(
                f"{_FUNCTION}: got an image of shape {list(array.shape)} in {_where(values[row], row)}; "
                f"wanted {list(arrays[0][0].shape)}, as in row 0. Resize image files with size=(height, "
                "width)"
                + ", and give arrays one number of channels" * (array.shape[-1] != arrays[0][0].shape[-1])
                + "."
            )
    return ImageClassificationExamples(np.stack([array for array, _ in arrays]), labels, len(names))


def _read_all(
    values: Sequence[object], size: tuple[int, int] | None, channels: int | None
) -> list[tuple[np.ndarray, bool]]:
    """All images, as `_read`; the error of the first that cannot be read lists the others."""
    arrays, errors = [], {}
    for row, value in enumerate(values):
        where = _where(value, row)
        try:
            arrays.append(_read(value, where, size, channels))
        except ValueError as error:
            errors[where] = error
    if not errors:
        return arrays
    (_, first), *others = errors.items()
    if not others:
        raise first
    listed = ", ".join(where for where, _ in others[:5]) + ", ..." * (len(others) > 5)
    raise ValueError(f"{first} So with {len(others)} more: {listed}.") from first


def _undecoded(dataset: Dataset, image: str) -> Dataset:
    """The data set with image files as bytes or paths, so that one reader decodes all of them."""
    feature = (dataset.features or {}).get(image)
    if isinstance(feature, datasets.Image) and feature.mode is None:
        return dataset.cast_column(image, datasets.Image(decode=False))
    return dataset


def _as_rgb(array: np.ndarray) -> np.ndarray:
    """A grey image in three equal channels, as Pillow converts it."""
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def _where(value: object, row: int) -> str:
    """The row of an image and the name of its file, for messages."""
    path = value.get("path") if isinstance(value, dict) else None
    return f"row {row} ({path})" if path else f"row {row}"


def _read(
    value: object, where: str, size: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, bool]:
    """One image as uint8 or float32 [height, width, channels], and whether it was an image file."""
    if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
        value = _file_content(value, where)
    if value is None or isinstance(value, dict | str):
        raise ValueError(
            f"{_FUNCTION}: got {value!r:.80} in {where}; wanted an image. Choose the column with image='...'."
        )
    if isinstance(value, bytes) or is_pillow(value):
        return decode_image(_FUNCTION, value, where, size=size, channels=channels), True
    return _checked_array(value, where, size, channels), False


def _checked_array(
    value: object, where: str, size: tuple[int, int] | None, channels: int | None
) -> np.ndarray:
    array = np.asarray(value)
    array = array[..., None] if array.ndim == 2 else array
    kind, largest = ("integers", 255) if array.dtype.kind in "ui" else ("floats", 1.0)
    if array.ndim != 3 or array.dtype.kind not in "uif" or not array.size:
        raise ValueError(
            f"{_FUNCTION}: got {array.dtype} {list(array.shape)} in {where}; wanted an image [height, "
            "width] or [height, width, channels] of numbers. Convert it."
        )
    if not (array.min() >= 0 and array.max() <= largest):
        raise ValueError(
            f"{_FUNCTION}: got values from {array.min()} to {array.max()} in {where}; wanted {kind} from "
            f"0 to {largest}. Scale the image first."
        )
    if size is not None and tuple(size) != array.shape[:2]:
        raise ValueError(
            f"{_FUNCTION}: got an array of {list(array.shape[:2])} pixels in {where} with size={size}, which "
            "resizes image files only; wanted arrays of that size. Leave it out, or resize them."
        )
    if channels not in (None, array.shape[-1]):
        raise ValueError(
            f"{_FUNCTION}: got an array of {array.shape[-1]} channels in {where} with channels={channels}, "
            "which converts image files only; wanted arrays with that number. Convert them."
        )
    return array.astype(np.uint8 if kind == "integers" else np.float32)


def _file_content(value: Mapping[str, object], where: str) -> object:
    """The content of an image that is stored as its bytes or its path."""
    if value.get("bytes"):
        return value["bytes"]
    path = str(value["path"])
    if "://" in path:
        return datasets.Image().decode_example({"bytes": None, "path": path})
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{_FUNCTION}: got {error} for {where}; wanted an image file. Restore it, or drop the row."
        ) from error

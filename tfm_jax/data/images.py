"""Labelled images as rows of the classification batch."""

import functools
import io
from typing import Any

import datasets
import numpy as np

from tfm_jax.data.columns import check_columns, column_values
from tfm_jax.data.validate import check_range, fingerprint

__all__ = ["ImageRows", "classification_rows"]


class ImageRows:
    """Labelled images of one size, scaled to [0, 1] when they are taken.

    Equivalent to::

        {"image": images / 255, "label": labels, "weight": ones}

    Args:
        images: uint8, or float32 in [0, 1] (not scaled again). [rows, height, width, channels]
        labels: int [rows]
        classes: the number of classes; labels must be below it.

    Raises:
        ValueError: a label is out of range or no integer, or the shapes do not belong together.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: int):
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                "wanted images [rows, height, width, channels] and labels [rows], "
                f"got {list(images.shape)} and {list(labels.shape)}"
            )
        check_range(labels, classes, "label")
        self.images, self.labels, self.classes = images, labels.astype(np.int32), classes

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the images and labels."""
        return fingerprint(self.images, self.labels)

    def take(self, indices: np.ndarray, shape: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
        """The rows at the indices: image [B, height, width, channels], label [B], weight [B]."""
        images = self.images[indices]
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / np.float32(255)
        return {"image": images, "label": self.labels[indices], "weight": np.ones(len(indices), np.float32)}


def classification_rows(
    dataset: datasets.Dataset | datasets.IterableDataset,
    *,
    image: str = "image",
    label: str = "label",
    classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> ImageRows:
    """Read a data set of labelled images in MNIST's layout, or like it.

    Args:
        dataset: the data set; a stream must end. An image is a picture of the data set library, its bytes, or
            an array [height, width] or [height, width, channels] of uint8 values or of floats in [0, 1].
            Pictures are read as grey (one channel) or as RGB (three), whichever is nearer to what they are.
        image, label: the names of the columns.
        classes: the number of classes; None takes it from the data set, or else the largest label.
        size: height and width that pictures (not arrays) are scaled to. None: they must all have one size.

    Returns:
        The rows, held in memory as they came (uint8 or float32).

    Raises:
        ValueError: there are no such columns or no rows, images differ in shape, a value is not in its range,
            or a label is not an integer in range; names the row.
    """
    check_columns(dataset, [image, label], "image='...' and label='...'")
    labels = _labels(column_values(dataset, label), label)
    arrays = [_array(value, row, size) for row, value in enumerate(column_values(dataset, image))]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"row {row}: its image has shape {list(array.shape)}, but that of row 0 has "
                f"{list(arrays[0].shape)}; scale pictures to one size with size=(height, width), and use one "
                "number of channels"
            )
    if classes is None:
        feature = (dataset.features or {}).get(label)
        classes = getattr(feature, "num_classes", None) or int(labels.max()) + 1
    return ImageRows(np.stack(arrays), labels, classes)


def _labels(values: list[Any], column: str) -> np.ndarray:
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(
                f"row {row}: wanted an integer label in column {column!r}, got {value!r:.80}; "
                "number the classes from 0"
            )
    return np.array(values, np.int64)


def _array(value: Any, row: int, size: tuple[int, int] | None) -> np.ndarray:
    """One image as uint8 or float32 [height, width, channels]."""
    if isinstance(value, dict) and value.get("bytes"):  # a picture that the file's metadata does not declare
        value = value["bytes"]
    if value is None or isinstance(value, dict | str):
        raise ValueError(f"row {row}: wanted an image, got {value!r:.80}; choose the column with image='...'")
    if isinstance(value, bytes) or hasattr(value, "getbands"):
        value = _pixels(value, row, size)
    array = np.asarray(value)
    array = array[..., None] if array.ndim == 2 else array
    kind, largest = ("integers", 255) if array.dtype.kind in "ui" else ("floats", 1.0)
    if array.ndim != 3 or array.dtype.kind not in "uif" or not array.size:
        raise ValueError(
            f"row {row}: wanted an image [height, width] or [height, width, channels] of numbers, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if not (array.min() >= 0 and array.max() <= largest):
        raise ValueError(
            f"row {row}: an image of {kind} has values from 0 to {largest}, "
            f"got {array.min()} to {array.max()}; scale it first"
        )
    return array.astype(np.uint8 if kind == "integers" else np.float32)


def _pixels(picture: Any, row: int, size: tuple[int, int] | None) -> np.ndarray:
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'tfm_jax[experiments]'") from error
    if isinstance(picture, bytes):
        try:
            picture = PIL.Image.open(io.BytesIO(picture))
        except PIL.UnidentifiedImageError as error:
            raise ValueError(f"row {row}: its bytes are not a picture that Pillow can read") from error
    if picture.mode in ("I", "F") or ";" in picture.mode:  # a conversion would clip these silently
        raise ValueError(
            f"row {row}: a picture of mode {picture.mode} has more than 8 bits a channel; pass it as an "
            "array of floats in [0, 1]"
        )
    picture = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    if size is not None:
        picture = picture.resize((size[1], size[0]))
    return np.asarray(picture)

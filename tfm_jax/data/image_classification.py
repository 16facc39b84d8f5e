"""Labelled images as rows of the classification batch."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tfm_jax.data._validate import check_range, fingerprint
from tfm_jax.data.columns import Dataset, check_columns, column_values
from tfm_jax.data.text_classification import label_ids, label_names

__all__ = ["ImageClassificationExamples", "image_classification_examples"]


_BETWEEN = {"P": "RGBA", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "LAB": "RGB"}
"""Modes that Pillow converts to grey or RGB by way of another, or with a warning."""


class ImageClassificationExamples:
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


def image_classification_examples(
    dataset: Dataset,
    *,
    image: str = "image",
    label: str = "label",
    classes: Sequence[str] | int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> ImageClassificationExamples:
    """Read a data set of labelled images in MNIST's layout, or like it.

    Args:
        dataset: the data set; a stream must end. An image is a picture of the data set library, its bytes, or
            an array [height, width] or [height, width, channels] of uint8 values or of floats in [0, 1].
            A picture is turned as its EXIF orientation says; of several frames the first is read.
        image, label: the names of the columns.
        classes: the names of the classes, as `label_names` has them of the training rows; or their number or
            None, as for `label_names`.
        size: height and width that pictures (not arrays) are scaled to. None: they must all have one size.
        channels: of pictures (not arrays): 1 reads all as grey, 3 as RGB. None: as grey where all of them
            are, else as RGB. Transparency is dropped; palettes and CMYK become RGB. Of a colour with 16 bits
            Pillow keeps the upper 8; grey with more than 8 is an error.

    Returns:
        The rows, held in memory as they came (uint8 or float32).

    Raises:
        ValueError: there are no such columns or no rows, images differ in shape, a picture cannot be read or
            is grey with more than 8 bits, a value is not in its range, or a label is none of the classes;
            names the row, and the file of a picture that has one.
    """
    check_columns(dataset, [image, label], "image='...' and label='...'")
    if channels not in (None, 1, 3):
        raise ValueError(
            f"channels: got {channels!r}; wanted 1 (grey), 3 (RGB) or None (as the pictures are)"
        )
    names = list(classes) if isinstance(classes, Sequence) else label_names(dataset, label, classes=classes)
    labels = label_ids(dataset, names, label)
    pictures = _undecoded(dataset, image)
    values = column_values(pictures, image)
    arrays = [_array(value, _where(value, row), size, channels) for row, value in enumerate(values)]
    if channels is None and any(array.shape[-1] == 3 for array, _ in arrays):
        arrays = [(_colour(array), True) if made else (array, made) for array, made in arrays]
    for row, (array, _) in enumerate(arrays):
        if array.shape != arrays[0][0].shape:
            raise ValueError(
                f"{_where(values[row], row)}: its image has shape {list(array.shape)}, but that of row 0 has "
                f"{list(arrays[0][0].shape)}; scale pictures to one size with size=(height, width)"
                + ", and give arrays one number of channels"
                * (array.shape[-1] != arrays[0][0].shape[-1])
            )
    return ImageClassificationExamples(np.stack([array for array, _ in arrays]), labels, len(names))


def _undecoded(dataset: Dataset, image: str) -> Dataset:
    """The data set with pictures as bytes or paths: one reader for all of them, and few in memory."""
    feature = (dataset.features or {}).get(image)
    if isinstance(feature, datasets.Image) and feature.mode is None:
        return dataset.cast_column(image, datasets.Image(decode=False))
    return dataset


def _colour(array: np.ndarray) -> np.ndarray:
    """A grey image in three equal channels, as Pillow makes them."""
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def _where(value: Any, row: int) -> str:
    """What a message calls an image: its row and, where it has one, the name of its file."""
    path = value.get("path") if isinstance(value, dict) else None
    return f"row {row} ({path})" if path else f"row {row}"


def _array(
    value: Any, where: str, size: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, bool]:
    """One image as uint8 or float32 [height, width, channels], and whether it was a picture."""
    if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
        value = _file(value, where)
    if value is None or isinstance(value, dict | str):
        raise ValueError(f"{where}: wanted an image, got {value!r:.80}; choose the column with image='...'")
    if isinstance(value, bytes) or hasattr(value, "getbands"):
        return _pixels(value, where, size, channels), True
    array = np.asarray(value)
    array = array[..., None] if array.ndim == 2 else array
    kind, largest = ("integers", 255) if array.dtype.kind in "ui" else ("floats", 1.0)
    if array.ndim != 3 or array.dtype.kind not in "uif" or not array.size:
        raise ValueError(
            f"{where}: wanted an image [height, width] or [height, width, channels] of numbers, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if not (array.min() >= 0 and array.max() <= largest):
        raise ValueError(
            f"{where}: an image of {kind} has values from 0 to {largest}, "
            f"got {array.min()} to {array.max()}; scale it first"
        )
    if channels not in (None, array.shape[-1]):
        raise ValueError(
            f"{where}: got an array of {array.shape[-1]} channels and channels={channels}, which only "
            "pictures are converted to; convert the arrays"
        )
    return array.astype(np.uint8 if kind == "integers" else np.float32), False


def _file(value: dict[str, Any], where: str) -> Any:
    """The content of a picture that is stored as its bytes or its path."""
    if value.get("bytes"):
        return value["bytes"]
    if "://" in value["path"]:
        return datasets.Image().decode_example({"bytes": None, "path": value["path"]})
    try:
        return Path(value["path"]).read_bytes()
    except OSError as error:
        raise ValueError(f"{where}: its picture cannot be read: {error}") from error


def _pixels(picture: Any, where: str, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """A picture, turned upright, as uint8 [height, width, 1 or 3]."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'tfm_jax[experiments]'") from error
    try:
        if isinstance(picture, bytes):
            picture = PIL.Image.open(io.BytesIO(picture))
        picture.load()
        picture = PIL.ImageOps.exif_transpose(picture)
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{where}: its bytes are not a picture that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: its picture is damaged or too large: {error}") from error
    if picture.mode in ("I", "F") or ";" in picture.mode:  # a conversion would clip these silently
        raise ValueError(
            f"{where}: a picture of mode {picture.mode} has more than 8 bits a channel; pass it as an "
            "array of floats in [0, 1]"
        )
    grey = picture.mode in ("1", "L", "LA", "La") if channels is None else channels == 1
    between = _BETWEEN.get(picture.mode, picture.mode)
    picture = picture.convert(between).convert("L" if grey else "RGB")
    if size is not None:
        picture = picture.resize((size[1], size[0]))
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array

"""The size of pictures and of their patches, where no option sets them."""

import io
import math
from collections.abc import Mapping

import datasets
import numpy as np

from tfm_jax.data.columns import iter_column

__all__ = ["choose_patch", "choose_size", "picture_sizes"]

LARGEST = 64
"""Longest side of pictures, in pixels, that is chosen: a size to train on CPUs."""
LONGEST = 256
"""Largest number of patches that is chosen."""
_MULTIPLE = 8
"""Both sides of a chosen size are multiples of it, and so of patches of a quarter of a side."""
_ORIENTATION = 0x0112  # the key of EXIF


def picture_sizes(dataset: datasets.Dataset, column: str) -> np.ndarray | None:
    """Height and width of each picture, from the header of its file and in its EXIF orientation.

    Args:
      dataset: the pictures.
      column: of the images.

    Returns:
      int [pictures, 2], without pictures that cannot be read; None if the images are no files.
    """
    if isinstance(dataset.features[column], datasets.Image):
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    sizes = []
    for value in iter_column(dataset.select_columns([column]), column):
        content = value.get("bytes") or value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(content, bytes | str):
            return None
        if (size := _size(content)) is not None:
            sizes.append(size)
    return np.array(sizes, np.int64).reshape(-1, 2)


def _size(content: bytes | str) -> tuple[int, int] | None:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            width, height = image.size
            has_exif = image.format != "PNG" or "exif" in image.info  # a PNG is decoded to look for more
            turned = has_exif and image.getexif().get(_ORIENTATION, 1) >= 5
    except Exception:  # Pillow raises many kinds; the reader of the pictures names the file
        return None
    return (width, height) if turned else (height, width)


def choose_size(sizes: np.ndarray) -> tuple[int, int]:
    """The height and width to resize pictures to.

    Pictures of one size of at most 64 pixels a side keep it. Others get their median height and width, scaled
    down to at most 64 pixels and rounded to multiples of 8.

    Args:
      sizes: height and width of each picture, int [pictures, 2], at least one.

    Returns:
      Height and width.
    """
    first = sizes[0]
    if (sizes == first).all() and first.max() <= LARGEST:
        height, width = map(int, first)
        if height * width // choose_patch(height, width) ** 2 <= LONGEST:
            return height, width
    median = np.median(sizes, axis=0)
    scaled = median * min(1.0, LARGEST / median.max())
    height, width = (max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE) for side in scaled.tolist())
    return height, width


def choose_patch(height: int, width: int) -> int:
    """Side of a patch: the largest up to a quarter of the height that divides height and width."""
    common = math.gcd(height, width)
    return next(side for side in range(max(1, height // 4), 0, -1) if common % side == 0)

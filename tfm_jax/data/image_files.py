"""Decoding of image files and images of Pillow, as training reads them."""

import io
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["decode_image", "is_pillow"]

_VIA = {"P": "RGBA", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "LAB": "RGB"}
"""Modes that Pillow converts to grey or RGB only via another mode, or with a warning."""


def is_pillow(value: object) -> "TypeGuard[PIL.Image.Image]":
    """Whether a value is an image of Pillow, which may not be installed."""
    return hasattr(value, "getbands")


def decode_image(
    function: str,
    image: "bytes | PIL.Image.Image",
    where: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> np.ndarray:
    """Decodes an image file, in its EXIF orientation.

    Args:
      function: the name that begins messages.
      image: the content of the file, or an image of Pillow.
      where: which image it is, for messages.
      size: height and width to resize to, with Pillow's default filter (bicubic); None keeps the size.
      channels: 1 converts to grey, 3 to RGB; None: to grey if the file is, else to RGB. Transparency is
        dropped.

    Returns:
      uint8 [height, width, 1 or 3].

    Raises:
      ImportError: there is no Pillow.
      ValueError: the image cannot be read, or is grey with more than 8 bits.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError(
            f"{function}: got no Pillow; wanted it to read image files. Run pip install "
            "'tfm_jax[experiments]'."
        ) from error
    try:
        if isinstance(image, bytes):
            image = PIL.Image.open(io.BytesIO(image))
        image.load()
        image = PIL.ImageOps.exif_transpose(image)
    except PIL.UnidentifiedImageError as error:
        raise ValueError(
            f"{function}: got bytes that Pillow does not know in {where}; wanted an image file. Replace it."
        ) from error
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(
            f"{function}: got a damaged or too large image file in {where}: {error}; wanted one that Pillow "
            "can read. Replace it."
        ) from error
    if image.mode in ("I", "F") or ";" in image.mode:  # a conversion would clip these silently
        raise ValueError(
            f"{function}: got an image of mode {image.mode} in {where}; wanted at most 8 bits per channel. "
            "Pass it as an array of floats in [0, 1]."
        )
    is_grey = image.mode in ("1", "L", "LA", "La") if channels is None else channels == 1
    image = image.convert(_VIA.get(image.mode, image.mode)).convert("L" if is_grey else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]))
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array

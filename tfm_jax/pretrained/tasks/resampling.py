"""Image resizing that equals Pillow 13 bit for bit: the same filters, passes and fixed-point arithmetic."""

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array

__all__ = ["METHODS", "PILLOW", "Method", "resize"]

Method = Literal["nearest", "box", "linear", "hamming", "cubic", "lanczos3"]
METHODS: tuple[Method, ...] = get_args(Method)
PILLOW: dict[Method, int] = {"nearest": 0, "lanczos3": 1, "linear": 2, "cubic": 3, "box": 4, "hamming": 5}
"""Pillow's numbers of the methods."""
_BITS = 22
"""Fraction bits of a weight: 32 minus 8 for a pixel and 2 for the overshoot of negative weights."""


class _Filter(NamedTuple):
    """A filter kernel that is 0 beyond ``support`` on either side."""

    at: Callable[[np.ndarray], np.ndarray]
    support: float


def _cubic(x: np.ndarray) -> np.ndarray:
    """The convolution kernel of Keys 1981 with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _hamming(x: np.ndarray) -> np.ndarray:
    window = np.float64(np.float32(0.54)) + np.float64(np.float32(0.46)) * np.cos(np.pi * x)
    return np.where(np.abs(x) < 1, np.sinc(x) * window, 0)


_FILTERS = {
    "box": _Filter(lambda x: np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0), 0.5),
    "linear": _Filter(lambda x: np.maximum(1 - np.abs(x), 0), 1.0),
    "hamming": _Filter(_hamming, 1.0),
    "cubic": _Filter(_cubic, 2.0),
    "lanczos3": _Filter(lambda x: np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0), 3.0),
}


def resize(images: Any, size: tuple[int, int], method: Method) -> Any:
    """Resizes images; shrinking is antialiased.

    Equivalent to::

        PIL.Image.fromarray(image).resize((width, height), method)       # of each image, Pillow 13

    Args:
      images: uint8 [..., H, W, C]. Pillow itself resizes an array of numpy [H, W, 1 or 3], if it is
        installed, to another one: that is faster, and compiles nothing for its shape.
      size: (height, width), each at least 1; static.
      method: the filter. Pillow calls "linear" BILINEAR, "cubic" BICUBIC (a = -1/2), "lanczos3" LANCZOS.

    Returns:
      uint8 [..., height, width, C]; an axis that keeps its size is not filtered.
    """
    (H, W), (height, width) = images.shape[-3:-1], size
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (1, 3) and _has_pillow():
        return _by_pillow(images, size, method)
    if method == "nearest":
        images = jnp.take(images, _nearest(H, height), axis=-3)
        return jnp.take(images, _nearest(W, width), axis=-2)
    # Pillow filters along the height first if that shrinks more than twice as much as the width.
    rows_last = H - height <= max(0, 2 * (W - width))
    for axis in (-2, -3) if rows_last else (-3, -2):
        images = _filtered(images, axis, size[axis + 3], method)
    return images


@functools.cache
def _has_pillow() -> bool:
    """Whether a Pillow is installed whose results are those of version 13."""
    try:
        return int(importlib.metadata.version("pillow").split(".")[0]) >= 13
    except importlib.metadata.PackageNotFoundError:
        return False


def _by_pillow(image: np.ndarray, size: tuple[int, int], method: Method) -> Any:
    import PIL.Image

    picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = np.asarray(picture.resize((size[1], size[0]), PILLOW[method]))
    return resized.reshape(*size, image.shape[-1])


def _filtered(images: Any, axis: int, size: int, method: Method) -> Array:
    """One filter pass along an axis, rounded to uint8."""
    n = images.shape[axis]
    if n == size:
        return images
    first, weights = (jnp.asarray(x) for x in _taps(n, size, method))
    along = [1] * images.ndim
    along[axis] = size

    def tap(j: Array | int) -> Array:
        pixels = jnp.take(images, first + j, axis=axis, mode="clip").astype(jnp.int32)
        return pixels * weights[j].reshape(along)

    half = jnp.int32(1 << (_BITS - 1))
    sums = jax.lax.fori_loop(1, len(weights), lambda j, sums: sums + tap(j), tap(0) + half)
    return jnp.clip(sums >> _BITS, 0, 255).astype(jnp.uint8)


@functools.lru_cache(maxsize=64)
def _taps(n: int, m: int, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """The first of n pixels that each of m outputs reads, int32 [m], and its weights, int32 [taps, m].

    The weights are in units of 2**-22.
    """
    kernel, scale = _FILTERS[method], n / m
    wide = max(scale, 1.0)  # antialiasing: the filter covers all pixels that become one
    support = kernel.support * wide
    centers = (np.arange(m)[:, None] + 0.5) * scale
    first = np.maximum(np.trunc(centers - support + 0.5), 0)
    end = np.minimum(np.trunc(centers + support + 0.5), n)
    at = first + np.arange((end - first).max())
    weights = np.where(at < end, kernel.at((at - centers + 0.5) * (1 / wide)), 0.0)
    total = np.cumsum(weights, axis=1)[:, -1:]  # sequential, like the loop in Pillow
    weights = np.divide(weights, total, out=weights, where=total != 0) * (1 << _BITS)
    fixed = np.trunc(weights + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return first[:, 0].astype(np.int32), fixed.T


def _nearest(n: int, m: int) -> np.ndarray:
    """The index of the nearest of n pixels for each of m, int32 [m]."""
    steps = np.full(m, n / m)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int32), n - 1)

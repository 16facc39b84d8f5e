"""Image processor: images into what a model reads, as a checkpoint's ``preprocessor_config.json`` says."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tfm_jax.pretrained.config_keys import check_only, warn_ignored
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.tasks.resampling import METHODS, Method, resize
from tfm_jax.pretrained.weights.files import read_json
from tfm_jax.types import Array

__all__ = ["ImageProcessor", "load_image_processor"]

Sides = tuple[int, int]  # height, width


@dataclass(frozen=True)
class ImageProcessor:
    """Images resized, cropped, scaled and normalized.

    Equivalent to::

        pixels = center_crop(resize(images, size), crop)        # uint8; as Pillow 13 resizes
        (pixels * scale - mean) / std

    Args:
      size: (height, width) in pixels; one number is the shorter side's, and the longer side keeps the ratio;
        None leaves images as they are.
      scale: what pixels are multiplied by, finite and above 0.
      mean, std: one number a channel, finite; ``std`` above 0.
      method: "nearest", "box", "linear", "hamming", "cubic" or "lanczos3"; the result is Pillow's exactly.
      crop: (height, width) of the part in the middle that is kept; where it is larger than the image, zeros
        are added around. None crops nothing.

    Raises:
      ValueError: for another method, and numbers outside these ranges.
    """

    size: Sides | int | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    method: Method = "linear"
    crop: Sides | None = None

    def __post_init__(self):
        if not (self.size is None or _is_count(self.size) or _are_sides(self.size)):
            raise _wrong(
                "size", self.size, "(height, width), one number or None, each a whole number above 0"
            )
        if not (self.crop is None or _are_sides(self.crop)):
            raise _wrong("crop", self.crop, "(height, width) or None, whole and above 0")
        if not _is_number(self.scale) or self.scale <= 0:
            raise _wrong("scale", self.scale, "a finite number above 0")
        if not _are_numbers(self.mean):
            raise _wrong("mean", self.mean, "a finite number a channel")
        if not _are_numbers(self.std) or min(self.std) <= 0 or len(self.std) != len(self.mean):
            raise _wrong("std", self.std, f"a finite number above 0 for each of {len(self.mean)} channels")
        if self.method not in METHODS:
            raise _wrong("method", repr(self.method), f"one of {', '.join(METHODS)}")

    def __call__(self, images: Array) -> Array:
        """Maps images uint8 [..., H, W, C] to float32 [..., height, width, C].

        Another dtype, another number of channels than of ``mean``, and H or W of 0 are a ValueError.
        """
        channels = len(self.mean)
        if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != channels:
            raise ValueError(
                f"images must be uint8 [..., H, W, C] with C = {channels}, got "
                f"{images.dtype}{list(images.shape)}"
            )
        if 0 in images.shape[-3:]:
            raise ValueError(f"images must have pixels, got {images.dtype}{list(images.shape)}")
        pixels = jnp.asarray(images)
        if self.size is not None:
            pixels = resize(pixels, _sides_of(self.size, pixels.shape[-3:-1]), self.method)
        if self.crop is not None:
            pixels = _cropped(_cropped(pixels, -3, self.crop[0]), -2, self.crop[1])
        along = lambda numbers: jnp.broadcast_to(jnp.asarray(numbers, jnp.float32), pixels.shape)
        return (pixels.astype(jnp.float32) * self.scale - along(self.mean)) / along(self.std)


def _wrong(name: str, value: Any, words: str) -> ValueError:
    return ValueError(f"ImageProcessor: got {name}={value}; wanted {words}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def _are_sides(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_count, value))


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_real and abs(value) <= float(np.finfo(np.float32).max)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_number, value))


def _sides_of(size: Sides | int, shape: Sides) -> Sides:
    """(height, width) of a resized image of this shape."""
    if isinstance(size, tuple):
        return size
    short, long = sorted(shape)
    other = int(size * long / short)
    return (size, other) if shape[0] <= shape[1] else (other, size)


def _cropped(pixels: Array, axis: int, size: int) -> Array:
    """The middle of one axis; zeros around it where that is shorter, the odd one before it."""
    n = pixels.shape[axis]
    if n < size:
        widths = [(0, 0)] * pixels.ndim
        before = math.ceil((size - n) / 2)
        widths[axis] = (before, size - n - before)
        return jnp.pad(pixels, widths)
    first = (n - size) // 2
    return jnp.take(pixels, np.arange(first, first + size, dtype=np.int32), axis=axis)


_HALF = [0.5, 0.5, 0.5]
_SQUARE = {"do_resize": True, "size": 224, "resample": 2, "image_mean": _HALF, "image_std": _HALF}
_DEIT = {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224}
_CLIP = {
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_TYPES = {"ViT": _SQUARE, "DeiT": _SQUARE | _DEIT, "CLIP": _SQUARE | _DEIT | _CLIP}
"""The processors of images that are followed, and what each does where its file says nothing."""
_COMMON = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_center_crop": False,
    "default_to_square": True,
}
_NOT_DONE = ("do_pad", "do_flip_channel_order", "do_reduce_labels", "do_thumbnail", "do_align_long_axis")
_IGNORED = {
    # How an image file becomes an array, what else there is, or where it comes from: the same pixels.
    *("do_convert_rgb", "input_data_format", "data_format", "return_tensors", "device", "disable_grouping"),
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "pad_size"),
    *("_valid_processor_keys", "_processor_class", "image_seq_length", "transformers_version"),
}
_RESAMPLING: Mapping[int, Method] = {
    0: "nearest",
    1: "lanczos3",
    2: "linear",
    3: "cubic",
    4: "box",
    5: "hamming",  # the numbers that Pillow gives them
}


def load_image_processor(path_or_repo_id: str | Path) -> ImageProcessor:
    """Reads the ``preprocessor_config.json`` of a checkpoint.

    Args:
      path_or_repo_id: as ``load`` takes it.

    Returns:
      The ``ImageProcessor``. What the file leaves out is as in its ``image_processor_type``: that of ViT
      (also where it names none), of DeiT or of CLIP. Unknown keys, which change nothing, are named once,
      as by ``load``.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for another ``image_processor_type``, a step that is not done here, and a value that does
        not fit.
    """
    path = directory_of(path_or_repo_id) / "preprocessor_config.json"
    settings = read_json(path)
    try:
        whole = _COMMON | _TYPES[_type_of(settings)] | settings
        processor = _processor(whole)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if unknown := sorted(whole.keys() - _IGNORED - _COMMON.keys() - _TYPES["DeiT"].keys() - {*_NOT_DONE}):
        warn_ignored(path, unknown)
    return processor


def _type_of(settings: Mapping[str, Any]) -> str:
    """Which of ``_TYPES`` a file is of; a ValueError where it is of none."""
    keys = ("image_processor_type", "feature_extractor_type")
    key = next((key for key in keys if settings.get(key) is not None), None)
    if key is None:
        return "ViT"
    for name in _TYPES:
        if settings[key] in {f"{name}{end}" for end in ("ImageProcessor", "FeatureExtractor")} | {
            f"{name}ImageProcessor{end}" for end in ("Fast", "Pil")
        }:
            return name
    known = ", ".join(f"{name}ImageProcessor" for name in _TYPES)
    raise ValueError(f"{key}={settings[key]!r} is not supported; wanted one of {known}")


def _processor(settings: Mapping[str, Any]) -> ImageProcessor:
    steps = {name: settings.get(name) or False for name in _NOT_DONE}
    if problems := check_only(steps, **dict.fromkeys(_NOT_DONE, False)):
        raise ValueError(" ".join(problems))
    flag = lambda name: _flag(settings, name)
    mean, std = _channels(settings)
    normalized = flag("do_normalize")
    if flag("do_center_crop") and settings.get("crop_size") is None:
        raise ValueError("do_center_crop needs a crop_size")
    processor = ImageProcessor(
        size=_size(settings, "size", flag("default_to_square")) if flag("do_resize") else None,
        scale=_number(settings, "rescale_factor") if flag("do_rescale") else 1.0,
        method=_method(settings["resample"]) if flag("do_resize") else "linear",
        crop=_size(settings, "crop_size", True) if flag("do_center_crop") else None,
    )
    plain = {"mean": (0.0,) * len(mean), "std": (1.0,) * len(mean)}
    return dataclasses.replace(processor, **({"mean": mean, "std": std} if normalized else plain))


def _flag(settings: Mapping[str, Any], name: str) -> bool:
    """A step that is null is left out."""
    if not isinstance(settings[name], bool | type(None)):
        raise ValueError(f"got {name}={settings[name]!r}; wanted true or false")
    return bool(settings[name])


def _number(settings: Mapping[str, Any], name: str) -> float:
    value = settings[name]
    if not _is_number(value) or value <= 0:
        raise ValueError(f"got {name}={value!r}; wanted a finite number above 0")
    return value


def _method(number: Any) -> Method:
    if type(number) is not int or number not in _RESAMPLING:
        raise ValueError(f"resample={number!r} is not supported, only {dict(_RESAMPLING)}")
    return _RESAMPLING[number]


def _channels(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel; one number is of each of the other's, or of three."""
    found = [settings["image_mean"], settings["image_std"]]
    count = next((len(value) for value in found if isinstance(value, list)), 3)
    mean, std = (tuple(x) if isinstance(x, list) else (x,) * count for x in found)
    for name, value in (("image_mean", mean), ("image_std", std)):
        if not _are_numbers(value) or len(value) != count:
            raise ValueError(f"got {name}={settings[name]!r}; wanted a finite number for each channel")
    if min(std) <= 0 and settings["do_normalize"]:
        raise ValueError(f"got image_std={settings['image_std']!r}; wanted numbers above 0: it divides")
    return mean, std


def _size(settings: Mapping[str, Any], name: str, square: bool) -> Sides | int:
    value = settings[name]
    found = value
    if isinstance(value, dict):
        if value.keys() == {"height", "width"}:
            found = (value["height"], value["width"])
        elif value.keys() == {"shortest_edge"} and name == "size":
            found = value["shortest_edge"]
        else:
            forms = '{"height", "width"} or {"shortest_edge"}' if name == "size" else '{"height", "width"}'
            raise ValueError(f"{name}={value} is not supported, only {forms}")
    elif isinstance(value, list):
        found = tuple(value)
    elif square:
        found = (value, value)
    if not (_are_sides(found) or (_is_count(found) and name == "size")):
        raise ValueError(f"got {name}={value!r}; wanted whole numbers above 0")
    return found

"""Image preprocessing as in a checkpoint's ``preprocessor_config.json``: resize, crop, scale, normalize."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np

from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.config_keys import FLOAT32, POSITIVE_FLOAT32, Settings, check_only, warn_ignored
from tfm_jax.pretrained.tasks.resampling import METHODS, PILLOW, Method, resize
from tfm_jax.pretrained.weights.files import read_json
from tfm_jax.ranges import SIZE, Range
from tfm_jax.types import Array

__all__ = ["ImageProcessor", "load_image_processor"]

Sides = tuple[int, int]  # height, width


@dataclass(frozen=True)
class ImageProcessor:
    """Image preprocessing: resize, center crop, scale, normalize.

    Equivalent to::

        pixels = center_crop(resize(images, size), crop)        # uint8, with Pillow 13's resize
        (pixels * scale - mean) / std

    Args:
      size: (height, width) in pixels. An integer is the shorter side; the longer one keeps the aspect ratio.
        None does not resize.
      scale: the factor of the pixels, finite and above 0.
      mean, std: one number per channel, finite; ``std`` above 0.
      method: "nearest", "box", "linear", "hamming", "cubic" or "lanczos3"; the result equals Pillow's.
      crop: (height, width) of the center crop. Smaller images are padded with zeros. None does not crop.

    Raises:
      ValueError: for an unknown method, and numbers outside these ranges.
    """

    size: Sides | int | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    method: Method = "linear"
    crop: Sides | None = None

    def __post_init__(self):
        if not (self.size is None or _is_size(self.size) or _are_sides(self.size)):
            raise _error("size", self.size, "(height, width), an integer or None; integers of at least 1")
        if not (self.crop is None or _are_sides(self.crop)):
            raise _error("crop", self.crop, "(height, width) or None; integers of at least 1")
        if not _fits(self.scale, POSITIVE_FLOAT32):
            raise _error("scale", self.scale, POSITIVE_FLOAT32.wanted)
        if not _all_in(self.mean, FLOAT32):
            raise _error("mean", self.mean, "a tuple of a finite number per channel")
        if not _all_in(self.std, POSITIVE_FLOAT32) or len(self.std) != len(self.mean):
            raise _error("std", self.std, f"a finite number above 0 for each of {len(self.mean)} channels")
        if self.method not in METHODS:
            raise _error("method", repr(self.method), f"one of {', '.join(METHODS)}")

    def __call__(self, images: Array | np.ndarray) -> Array:
        """Maps images uint8 [..., H, W, C] to float32 [..., height, width, C].

        Raises a ValueError for another dtype, a C that is not the length of ``mean``, and an axis of size 0.
        """
        channels = len(self.mean)
        if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != channels:
            raise _error(
                "images", f"{images.dtype}{list(images.shape)}", f"uint8 [..., H, W, C] with C = {channels}"
            )
        if 0 in images.shape[-3:]:
            raise _error("images", f"{images.dtype}{list(images.shape)}", "at least one pixel")
        pixels: Any = images
        if self.size is not None:
            pixels = resize(pixels, _sides_of(self.size, (pixels.shape[-3], pixels.shape[-2])), self.method)
        if self.crop is not None:
            pixels = _cropped(_cropped(pixels, -3, self.crop[0]), -2, self.crop[1])
        xp = np if isinstance(pixels, np.ndarray) else jnp
        mean, std = (xp.broadcast_to(np.asarray(x, np.float32), pixels.shape) for x in (self.mean, self.std))
        pixels = pixels.astype(np.float32)
        # 1 / 255 in float32 is not the quotient by 255, with which training scales, to the last bit.
        scaled = pixels / np.float32(255) if self.scale == 1 / 255 else pixels * np.float32(self.scale)
        return jnp.asarray((scaled - mean) / std)


def _error(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"ImageProcessor: got {name}={value}; wanted {wanted}.")


def _fits(value: object, wanted: Range) -> bool:
    return isinstance(value, numbers.Number) and value in wanted


def _is_size(value: object) -> TypeGuard[int]:
    return _fits(value, SIZE)


def _are_sides(value: object) -> TypeGuard[Sides]:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_size, value))


def _all_in(values: object, wanted: Range) -> bool:
    return isinstance(values, tuple) and len(values) > 0 and all(_fits(value, wanted) for value in values)


def _sides_of(size: Sides | int, shape: Sides) -> Sides:
    """The (height, width) to which an image of this shape is resized."""
    if isinstance(size, tuple):
        return size
    short, long = sorted(shape)
    longer = int(size * long / short)
    return (size, longer) if shape[0] <= shape[1] else (longer, size)


def _cropped(pixels: Any, axis: int, size: int) -> Any:
    """The center of one axis, padded with zeros where the axis is shorter; an odd zero comes first."""
    n = pixels.shape[axis]
    if n < size:
        widths = [(0, 0)] * pixels.ndim
        before = math.ceil((size - n) / 2)
        widths[axis] = (before, size - n - before)
        return np.pad(pixels, widths) if isinstance(pixels, np.ndarray) else jnp.pad(pixels, widths)
    kept = [slice(None)] * pixels.ndim
    kept[axis] = slice((n - size) // 2, (n - size) // 2 + size)
    return pixels[tuple(kept)]


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
"""The supported classes of image processors, and their defaults."""
_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
_COMMON = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_center_crop": False,
    "default_to_square": True,
}
_UNSUPPORTED_STEPS = (
    "do_pad",
    "do_flip_channel_order",
    "do_reduce_labels",
    "do_thumbnail",
    "do_align_long_axis",
)
# Keys that change no pixel: decoding of files, other parts of the checkpoint, the origin.
_NO_EFFECT = {
    *("do_convert_rgb", "input_data_format", "data_format", "return_tensors", "device", "disable_grouping"),
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "pad_size"),
    *("_valid_processor_keys", "_processor_class", "image_seq_length", "transformers_version"),
}
_RESAMPLING: Mapping[int, Method] = {number: method for method, number in PILLOW.items()}
"""Methods by Pillow's numbers."""


def load_image_processor(path_or_repo_id: str | Path) -> ImageProcessor:
    """Reads the ``preprocessor_config.json`` of a checkpoint.

    Args:
      path_or_repo_id: as for ``load``.

    Returns:
      The ``ImageProcessor``. Absent keys have the defaults of the ``image_processor_type``: ViT (also where
      the file names none), DeiT or CLIP. Unknown keys have no effect and are logged once.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for another ``image_processor_type``, a step that is not supported, and an invalid value.
    """
    path = CheckpointFiles.find(path_or_repo_id) / "preprocessor_config.json"
    settings = read_json(path)
    try:
        settings = _COMMON | _TYPES[_type_of(settings)] | settings
        processor = _processor(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    known = _NO_EFFECT | _COMMON.keys() | _TYPES["DeiT"].keys() | {*_UNSUPPORTED_STEPS}
    if unknown := sorted(settings.keys() - known):
        warn_ignored(path, unknown)
    return processor


def _type_of(settings: Settings) -> str:
    """The key in ``_TYPES`` of a file; a ValueError for another class."""
    keys = ("image_processor_type", "feature_extractor_type")
    key = next((key for key in keys if settings.get(key) is not None), None)
    if key is None:
        return "ViT"
    for name in _TYPES:
        if settings[key] in {f"{name}{end}" for end in ("ImageProcessor", "FeatureExtractor")} | {
            f"{name}ImageProcessor{end}" for end in ("Fast", "Pil")
        }:
            return name
    supported = ", ".join(f"{name}ImageProcessor" for name in _TYPES)
    raise ValueError(f"got {key}={settings[key]!r}; wanted one of {supported}.")


def _processor(settings: Settings) -> ImageProcessor:
    steps = {name: settings.get(name) or False for name in _UNSUPPORTED_STEPS}
    if problems := check_only(steps, **dict.fromkeys(_UNSUPPORTED_STEPS, False)):
        raise ValueError(" ".join(problems))
    flags = {name: _flag(settings, name) for name in (*_STEPS, "default_to_square")}
    resize, rescale, normalize, crop = (flags[name] for name in _STEPS)
    mean, std = _channels(settings)
    if crop and settings.get("crop_size") is None:
        raise ValueError("got do_center_crop=True without a crop_size; wanted both.")
    processor = ImageProcessor(
        size=_size(settings, flags["default_to_square"]) if resize else None,
        scale=_positive(settings, "rescale_factor") if rescale else 1.0,
        method=_method(settings["resample"]) if resize else "linear",
        crop=_sides(settings, "crop_size", '{"height", "width"}') if crop else None,
    )
    identity = {"mean": (0.0,) * len(mean), "std": (1.0,) * len(mean)}
    return dataclasses.replace(processor, **({"mean": mean, "std": std} if normalize else identity))


def _flag(settings: Settings, name: str) -> bool:
    """A flag; null is false."""
    if not isinstance(settings[name], bool | type(None)):
        raise ValueError(f"got {name}={settings[name]!r}; wanted true or false.")
    return bool(settings[name])


def _positive(settings: Settings, name: str) -> float:
    if not _fits(settings[name], POSITIVE_FLOAT32):
        raise ValueError(f"got {name}={settings[name]!r}; wanted {POSITIVE_FLOAT32.wanted}.")
    return settings[name]


def _method(number: object) -> Method:
    if type(number) is not int or number not in _RESAMPLING:
        raise ValueError(f"got resample={number!r}; wanted one of {dict(_RESAMPLING)}.")
    return _RESAMPLING[number]


def _channels(settings: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel; a single number holds for all channels (three by default)."""
    found = [settings["image_mean"], settings["image_std"]]
    count = next((len(value) for value in found if isinstance(value, list)), 3)
    mean, std = (tuple(x) if isinstance(x, list) else (x,) * count for x in found)
    for name, value in (("image_mean", mean), ("image_std", std)):
        if not _all_in(value, FLOAT32) or len(value) != count:
            raise ValueError(f"got {name}={settings[name]!r}; wanted a finite number for each channel.")
    if min(std) <= 0 and settings["do_normalize"]:
        raise ValueError(f"got image_std={settings['image_std']!r}; wanted numbers above 0.")
    return mean, std


def _size(settings: Settings, square: bool) -> Sides | int:
    """The size to resize to: both sides, or the shorter one."""
    value = settings["size"]
    is_edge = isinstance(value, dict) and value.keys() == {"shortest_edge"}
    if not is_edge and (square or isinstance(value, dict | list)):
        return _sides(settings, "size", '{"height", "width"} or {"shortest_edge"}')
    edge = value["shortest_edge"] if is_edge else value
    if not _is_size(edge):
        raise ValueError(f"got size={value!r}; wanted integers of at least 1.")
    return edge


def _sides(settings: Settings, name: str, forms: str) -> Sides:
    """Both sides, from an object, a list, or an integer for both; ``forms`` are the objects in words."""
    value = settings[name]
    if isinstance(value, dict):
        if value.keys() != {"height", "width"}:
            raise ValueError(f"got {name}={value}; wanted {forms}.")
        sides = (value["height"], value["width"])
    else:
        sides = tuple(value) if isinstance(value, list) else (value, value)
    if not _are_sides(sides):
        raise ValueError(f"got {name}={value!r}; wanted integers of at least 1.")
    return sides

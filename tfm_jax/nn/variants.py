"""The variants of the Transformer, as frozen values."""

import numbers
import types
import typing
from dataclasses import dataclass
from typing import Literal

from tfm_jax.ops import activation

__all__ = [
    "Alibi",
    "Glu",
    "LayerNorm",
    "Learned",
    "Mlp",
    "Patches",
    "Pooler",
    "RMSNorm",
    "RelativeBias",
    "Rope",
    "Sinusoidal",
    "check_kinds",
    "check_rates",
    "check_sizes",
]

Pairing = Literal["interleaved", "half"]


_KINDS = {
    bool: ("True or False", lambda x: isinstance(x, bool)),
    int: ("a whole number", lambda x: isinstance(x, numbers.Integral) and not isinstance(x, bool)),
    float: ("a number", lambda x: isinstance(x, numbers.Real) and not isinstance(x, bool)),
}


def check_kinds(value: object) -> None:
    """Raises a ValueError for a field of numbers or flags that has something else, such as a file's null."""
    for name, hint in typing.get_type_hints(type(value)).items():
        kind, *others = typing.get_args(hint) or (hint,)
        if kind not in _KINDS or others not in ([], [types.NoneType]):
            continue
        (words, fits), got = _KINDS[kind], getattr(value, name)
        if not fits(got) and not (others and got is None):
            raise ValueError(f"{name} must be {words}{' or None' if others else ''}, got {got!r}")


def check_sizes(value: object, *names: str) -> None:
    """Raises a ValueError for a field that is no size, where it is given."""
    for name in names:
        size = getattr(value, name)
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"{name} must be a whole number, at least 1, got {size}")


def check_rates(value: object, *names: str) -> None:
    """Raises a ValueError for a field that is no share of elements to drop, where it is given."""
    for name in names:
        rate = getattr(value, name)
        if rate is not None and not 0.0 <= rate < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {rate}")


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization with a learned scale and shift (Ba et al. 2016)."""

    eps: float = 1e-5

    def __post_init__(self):
        check_kinds(self)


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square normalization with a learned scale (Zhang and Sennrich 2019)."""

    eps: float = 1e-6

    def __post_init__(self):
        check_kinds(self)


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, section 3.5)."""

    theta: float = 10_000.0
    pairing: Pairing = "interleaved"

    def __post_init__(self):
        check_kinds(self)


@dataclass(frozen=True)
class Learned:
    """A learned vector a position, added to the embeddings; longer inputs are refused."""

    max_length: int = 512

    def __post_init__(self):
        check_sizes(self, "max_length")
        check_kinds(self)


@dataclass(frozen=True)
class Rope:
    """Queries and keys rotated by their position (Su et al. 2021).

    With a ``fraction`` below 1 only the first elements of each head are (GPT-NeoX).
    """

    theta: float = 10_000.0
    pairing: Pairing = "half"
    fraction: float = 1.0

    def __post_init__(self):
        check_kinds(self)
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction is of a head's elements, above 0 and at most 1, got {self.fraction}")

    def width(self, head_dim: int) -> int:
        """How many elements of a head are rotated."""
        return int(head_dim * self.fraction)


@dataclass(frozen=True)
class Alibi:
    """A linear penalty on distance, added to the attention logits (Press et al. 2022)."""


@dataclass(frozen=True)
class RelativeBias:
    """A learned bias a head and bucket of distance, shared by all layers (Raffel et al. 2020)."""

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self):
        check_sizes(self, "buckets", "max_distance")
        check_kinds(self)
        if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"RelativeBias wants an even number of buckets, at least 4, and max_distance above half of "
                f"them, got {self}"
            )


@dataclass(frozen=True)
class Mlp:
    """``activation(x W_in + b_in) W_out + b_out`` (Vaswani et al. 2017, equation 2)."""

    activation: str = "relu"
    bias: bool = True

    def __post_init__(self):
        activation(self.activation)
        check_kinds(self)


@dataclass(frozen=True)
class Glu:
    """``(activation(x W_gate) * (x W_in)) W_out`` (Shazeer 2020)."""

    activation: str = "silu"

    def __post_init__(self):
        activation(self.activation)


@dataclass(frozen=True)
class Patches:
    """Images cut into patches, read row by row (Dosovitskiy et al. 2021).

    Args:
      height, width, channels: the image, in pixels.
      size: the side of a patch in pixels, or its (height, width); they divide those of the image.
      class_token: put a learned vector before the patches, for pooling ``"first"``.
    """

    height: int
    width: int
    channels: int = 1
    size: int | tuple[int, int] = 1
    class_token: bool = False

    def __post_init__(self):
        check_sizes(self, "height", "width", "channels", *([] if isinstance(self.size, tuple) else ["size"]))
        check_kinds(self)
        if len(self.sides) != 2 or not all(isinstance(side, int) and side > 0 for side in self.sides):
            raise ValueError(f"size must be one whole number, or two, at least 1, got {self.size}")
        if self.height % self.sides[0] or self.width % self.sides[1]:
            raise ValueError(
                f"a patch of {self.size} does not divide the image {self.height} x {self.width}; "
                "choose a size that divides both"
            )

    @property
    def sides(self) -> tuple[int, int]:
        """The height and the width of a patch."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def count(self) -> int:
        """How many patches an image has."""
        return self.height // self.sides[0] * (self.width // self.sides[1])


@dataclass(frozen=True)
class Pooler:
    """The vector of the first token through one more dense layer: ``activation(x W + b)`` (BERT).

    Args:
      activation: by the name that ``ops.activation`` takes.
      dropout_rate: on what the layer reads, in [0, 1) (RoBERTa's head has it, BERT's not).
    """

    activation: str = "tanh"
    dropout_rate: float = 0.0

    def __post_init__(self):
        activation(self.activation)
        check_kinds(self)
        check_rates(self, "dropout_rate")

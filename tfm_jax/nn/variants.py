"""The variants of the Transformer, as frozen values."""

from dataclasses import dataclass
from typing import Literal

from tfm_jax.fields import check_fields
from tfm_jax.ops import activation
from tfm_jax.ranges import Count, Positive, Rate, Share, Size

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
]

Pairing = Literal["interleaved", "half"]


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization with a learned scale and shift (Ba et al. 2016)."""

    eps: Positive = 1e-5

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square normalization with a learned scale (Zhang and Sennrich 2019)."""

    eps: Positive = 1e-6

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, section 3.5)."""

    theta: Positive = 10_000.0
    pairing: Pairing = "interleaved"

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Learned:
    """A learned vector a position, added to the embeddings; longer inputs are refused.

    Args:
      max_length: how many positions there are.
      padding_id: the padding token, of models that count the other tokens alone (RoBERTa): it has position -1
        and a vector of its own, before the others. None counts every token.
    """

    max_length: Size = 512
    padding_id: Count | None = None

    def __post_init__(self):
        check_fields(self)

    @property
    def rows(self) -> int:
        """Vectors in the table."""
        return self.max_length + (self.padding_id is not None)


@dataclass(frozen=True)
class Rope:
    """Queries and keys rotated by their position (Su et al. 2021).

    With a ``fraction`` below 1 only the first elements of each head are (GPT-NeoX).
    """

    theta: Positive = 10_000.0
    pairing: Pairing = "half"
    fraction: Share = 1.0

    def __post_init__(self):
        check_fields(self)

    def width(self, head_dim: int) -> int:
        """How many elements of a head are rotated."""
        return int(head_dim * self.fraction)


@dataclass(frozen=True)
class Alibi:
    """A linear penalty on distance, added to the attention logits (Press et al. 2022)."""


@dataclass(frozen=True)
class RelativeBias:
    """A learned bias a head and bucket of distance, shared by all layers (Raffel et al. 2020)."""

    buckets: Size = 32
    max_distance: Size = 128

    def __post_init__(self):
        check_fields(self)
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
        check_fields(self)
        activation(self.activation)


@dataclass(frozen=True)
class Glu:
    """``(activation(x W_gate) * (x W_in)) W_out`` (Shazeer 2020)."""

    activation: str = "silu"

    def __post_init__(self):
        check_fields(self)
        activation(self.activation)


@dataclass(frozen=True)
class Patches:
    """Images cut into patches, read row by row (Dosovitskiy et al. 2021).

    Args:
      height, width, channels: the image, in pixels.
      size: the side of a patch in pixels, or its (height, width); they divide those of the image.
      class_token: put a learned vector before the patches, for pooling ``"first"``.
    """

    height: Size
    width: Size
    channels: Size = 1
    size: Size | tuple[Size, Size] = 1
    class_token: bool = False

    def __post_init__(self):
        check_fields(self)
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
    dropout_rate: Rate = 0.0

    def __post_init__(self):
        check_fields(self)
        activation(self.activation)

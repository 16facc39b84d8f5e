"""The kinds of variants: what a norm, a position scheme, a feed-forward and the like must define.

A variant is a frozen dataclass with hashable fields that subclasses its kind. Its ``build`` makes an NNX
module that holds the parameters; an activation or an initializer has none and is itself a function. The
library's own variants, such as ``nn.LayerNorm``, use nothing else.

Every module that holds parameters itself has a method ``axes() -> dict[str, str]``: the letters of
``tfm_jax/types.py`` of each of its parameters by the attribute's name, such as ``{"kernel": "D F"}``. Where a
token meets a part of a parameter, such as k of E experts, a method ``active() -> dict[str, float]`` has its
share, for ``nn.summary``.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import check_shapes
from tfm_jax.nn.extras import Auxiliary
from tfm_jax.ops.backends.common import Bias
from tfm_jax.registry import Variant, register_variant
from tfm_jax.types import Array, Key

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = [
    "Activation",
    "FeedForward",
    "Initializer",
    "Norm",
    "PatchEmbedding",
    "Pooling",
    "Positions",
    "Variant",
    "as_function",
    "check_output",
    "register_variant",
]


class NormModule(Protocol):
    """What ``Norm.build`` makes."""

    def __call__(self, x: Array, /) -> Array: ...


class FeedForwardModule(Protocol):
    """What ``FeedForward.build`` makes."""

    def __call__(self, x: Array, /, *, key: Key | None = None) -> tuple[Array, Auxiliary]: ...


class PositionEmbeddingModule(Protocol):
    """What ``Positions.build_embedding`` makes."""

    def __call__(self, x: Array, positions: Array, /) -> Array: ...


class PositionBiasModule(Protocol):
    """What ``Positions.build_bias`` makes."""

    def __call__(self, query_positions: Array, key_positions: Array, /) -> Bias: ...


class PoolingModule(Protocol):
    """What ``Pooling.build`` makes."""

    def __call__(self, x: Array, valid: Array | None = None, /, *, key: Key | None = None) -> Array: ...


class PatchEmbeddingModule(Protocol):
    """What ``PatchEmbedding.build`` makes."""

    def __call__(self, images: Array, /) -> Array: ...


class Norm(Variant):
    """Kind of norms: normalization over the last axis, such as ``nn.LayerNorm``."""

    @abc.abstractmethod
    def build(self, size: int, *, axis: str, dtype: str, rngs: nnx.Rngs) -> NormModule:
        """Makes the module.

        Args:
          size: of the last axis.
          axis: the letter of that axis, for the module's ``axes()``: "D", or "H" for queries and keys.
          dtype: of the parameters.
          rngs: initializes them.

        Returns:
          ``module(x [..., size]) -> [..., size]``, in x's dtype.
        """


class Positions(Variant):
    """Kind of position schemes, such as ``nn.Rope``, which define at least one of its three methods.

    The default of each does nothing; ``positions=None`` in a config is no scheme at all.
    """

    any_of: ClassVar[tuple[str, ...]] = ("build_embedding", "build_bias", "rotate")
    max_length: int | None = None
    """The number of positions; None is unlimited. A longer input is an error."""
    padding_id: int | None = None
    """The pad token of a scheme that counts only the other tokens; None counts every token."""

    def build_embedding(self, config: "Config", *, rngs: nnx.Rngs) -> PositionEmbeddingModule | None:
        """Makes ``module(x [..., T, D], positions int [..., T]) -> [..., T, D]``; None leaves x as it is.

        The module is at ``position_embedding`` of each stack. It is applied once, before the first layer.
        With a ``padding_id``, -1 is the position of padding.
        """
        return None

    def build_bias(
        self, config: "Config", *, bidirectional: bool, rngs: nnx.Rngs
    ) -> PositionBiasModule | None:
        """Makes ``module(query_positions [..., T], key_positions [..., S]) -> bias``; None is no bias.

        The module is at ``position_bias`` of each stack. All layers add its bias to the logits of
        self-attention: an array [..., 1|N, T, S], or better a function of query indices [t] and key indices
        [s] that returns [..., 1|N, t, s], which ``ops.attention`` evaluates one tile at a time. Make it a
        ``jax.tree_util.Partial`` of the arrays that it reads.

        Args:
          config: sizes.
          bidirectional: whether keys may be after the query, as in an encoder.
          rngs: initializes the parameters.
        """
        return None

    def rotate(self, x: Array, positions: Array) -> Array:
        """Rotates queries or keys x [..., T, N, H] of self-attention by their int positions [..., T]."""
        return x

    @property
    def has_bias(self) -> bool:
        """Whether a stack must pass a bias to its blocks: the scheme defines ``build_bias``.

        Override it where a field of the scheme decides.
        """
        return type(self).build_bias is not Positions.build_bias

    @property
    def rotates(self) -> bool:
        """Whether self-attention needs positions: the scheme defines ``rotate``."""
        return type(self).rotate is not Positions.rotate


class FeedForward(Variant):
    """Kind of position-wise feed-forward layers, such as ``nn.Mlp``."""

    @abc.abstractmethod
    def build(self, config: "Config", *, rngs: nnx.Rngs) -> FeedForwardModule:
        """Makes the module.

        Args:
          config: D, F, ``feed_forward_dropout_rate``, ``initializers``, ``param_dtype``.
          rngs: initializes the parameters.

        Returns:
          ``module(x [..., D], *, key=None) -> (y [..., D], auxiliary)``. ``key`` is for dropout, None is no
          dropout. ``auxiliary`` is a dict of ``(sum, weight)``, such as a balancing loss, which is added to
          the loss, and of ``nn.Metric(sum, weight)``, which is only reported; ``{}`` is none. Its keys and
          shapes must be the same in every layer.
        """


class Activation(Variant):
    """Kind of activation functions, for the fields that also take a name that ``ops.activation`` knows."""

    @abc.abstractmethod
    def __call__(self, x: Array) -> Array:
        """Maps x [...] to [...], element by element, in x's dtype."""


class Pooling(Variant):
    """Kind of poolers, such as ``nn.Pooler``: one vector per sequence."""

    reads: ClassVar[Literal["mean", "first"]] = "mean"
    """What it reads, as ``nn.Classifier`` names it: the valid positions, or the first one alone."""

    @abc.abstractmethod
    def build(self, config: "Config", *, rngs: nnx.Rngs) -> PoolingModule:
        """Makes the module.

        Args:
          config: D, ``initializers``, ``param_dtype``.
          rngs: initializes the parameters.

        Returns:
          ``module(x [..., T, D], valid=None, *, key=None) -> [..., D]``. ``valid`` bool [..., T] is False at
          padding, None is True everywhere; ``key`` is for dropout, None is no dropout.
        """


class PatchEmbedding(Variant):
    """Kind of patch embeddings, such as ``nn.Patches``: images as sequences of vectors."""

    @abc.abstractmethod
    def build(self, config: "Config", *, rngs: nnx.Rngs) -> PatchEmbeddingModule:
        """Makes the module.

        Args:
          config: D, ``dtype``, ``initializers``, ``param_dtype``.
          rngs: initializes the parameters.

        Returns:
          ``module(images [..., height, width, channels]) -> [..., T, D]``, in ``config.dtype``.
        """


class Initializer(Variant):
    """Kind of initializers of parameters, such as ``nn.GlorotUniform``."""

    @abc.abstractmethod
    def __call__(
        self, key: Key, shape: tuple[int, ...], *, in_axes: tuple[int, ...], out_axes: tuple[int, ...]
    ) -> Array:
        """Draws a parameter.

        Args:
          key: PRNG key.
          shape: of the parameter, without the axis of layers.
          in_axes: the axes that a product contracts, such as (0,) of a kernel [D, N, H].
          out_axes: the axes of its result, such as (1, 2). Any other axis, such as that of experts, numbers
            parameters that are independent of each other.

        Returns:
          float32 of this shape.
        """


def as_function(activation: str | Activation) -> Callable[[Array], Array]:
    """An activation as it is, or the one that ``ops.activation`` knows by a name."""
    if isinstance(activation, str):
        return ops.activation(activation)
    if not isinstance(activation, Activation):
        raise ValueError(
            f"activation: got {activation!r:.80}; wanted a name or an instance of nn.Activation. Subclass "
            "it, with the function as __call__."
        )
    return activation


def check_output(source: str, x: Array, y: Array) -> Array:
    """The output y of a variant, which has the shape and dtype of its input x; a ValueError if not."""
    if y.shape != x.shape or y.dtype != x.dtype:  # else there is nothing to report
        fix = "Return the shape and the dtype of the input."
        check_shapes(source, input=(x, "..."), output=(y, "...", x.dtype), fix=fix)
    return y

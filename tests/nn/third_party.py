"""Variants that the library does not know, of every kind, as a user writes them. None is registered here."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax import nn, ops


@dataclass(frozen=True)
class DynamicTanh(nn.Norm):
    """``tanh(alpha x) * scale + bias`` (Zhu et al. 2025, "Transformers without Normalization")."""

    alpha: float = 0.5

    def build(self, size, *, axis, dtype, rngs):
        return DynamicTanhLayer(self.alpha, size, axis, dtype)


class DynamicTanhLayer(nnx.Module):
    def __init__(self, alpha, size, axis, dtype):
        self.axis = axis
        self.alpha = nnx.Param(jnp.full((), alpha, dtype))
        self.scale, self.bias = nnx.Param(jnp.ones(size, dtype)), nnx.Param(jnp.zeros(size, dtype))

    def axes(self):
        return {"alpha": "", "scale": self.axis, "bias": self.axis}

    def __call__(self, x):
        y = jnp.tanh(self.alpha[...] * x.astype(jnp.float32))
        y = jnp.einsum("...D,D->...D", y, self.scale[...].astype(jnp.float32))
        return (y + jnp.broadcast_to(self.bias[...], y.shape)).astype(x.dtype)


@dataclass(frozen=True)
class BiasFreeLayerNorm(nn.Norm):
    """Layer normalization with a scale and no shift."""

    eps: float = 1e-5

    def build(self, size, *, axis, dtype, rngs):
        return BiasFreeLayer(self.eps, size, axis, dtype)


class BiasFreeLayer(nnx.Module):
    def __init__(self, eps, size, axis, dtype):
        self.eps, self.axis, self.scale = eps, axis, nnx.Param(jnp.ones(size, dtype))

    def axes(self):
        return {"scale": self.axis}

    def __call__(self, x):
        return ops.layer_norm(x, self.scale[...], eps=self.eps)


@dataclass(frozen=True)
class LogBias(nn.Positions):
    """``-strength * log(1 + distance)``, one learned strength per head (Chi et al. 2022, "KERPLE")."""

    strength: float = 0.3
    max_length: int = 16

    def build_bias(self, config, *, bidirectional, rngs):
        return LogBiasLayer(self.strength, config)


class LogBiasLayer(nnx.Module):
    def __init__(self, strength, config):
        self.strength = nnx.Param(jnp.full(config.n_heads, strength, config.param_dtype))

    def axes(self):
        return {"strength": "N"}

    def __call__(self, query_positions, key_positions):
        def bias(strength, q, k, i, j):  # -> [..., N, t, s]
            distance = jnp.abs(q[..., i][..., :, None] - k[..., j][..., None, :])
            return -jnp.einsum("N,...ts->...Nts", strength.astype(jnp.float32), jnp.log1p(distance))

        return jax.tree_util.Partial(bias, self.strength[...], query_positions, key_positions)


@dataclass(frozen=True)
class Swing(nn.Positions):
    """Rotates pairs of a head's elements by ``position / period``, the same angle in every pair."""

    period: float = 7.0

    def check_config(self, config):
        if config.H % 2:
            raise ValueError(f"Config: got a head dimension of {config.H} with {self}; wanted an even one.")

    def rotate(self, x, positions):
        angle = (positions.astype(x.dtype) / self.period)[..., None, None]
        a, b = jnp.split(x, 2, axis=-1)
        cos, sin = (jnp.broadcast_to(f(angle), a.shape) for f in (jnp.cos, jnp.sin))
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


@dataclass(frozen=True)
class Swish(nn.Activation):
    """``x * sigmoid(beta x)`` (Ramachandran et al. 2017)."""

    beta: float = 1.0

    def __call__(self, x):
        return x * jax.nn.sigmoid(self.beta * x)


@dataclass(frozen=True)
class Experts(nn.FeedForward):
    """Dense mixture of experts: a softmax gate over E perceptrons, with a loss that balances their use."""

    n_experts: int = 3
    activation: str | nn.Activation = "relu"

    def build(self, config, *, rngs):
        return ExpertsLayer(self, config, rngs)


class ExpertsLayer(nnx.Module):
    def __init__(self, experts, config, rngs):
        E, D, F = experts.n_experts, config.d_model, config.d_ff
        draw, function = config.initializers.kernel, experts.activation
        self.activation = ops.activation(function) if isinstance(function, str) else function
        self.gate = nn.Linear((D,), (E,), axes="D E", bias=False, initializer=draw, rngs=rngs)
        self.w_in = nnx.Param(draw(rngs.params(), (E, D, F), in_axes=(1,), out_axes=(2,)))
        self.w_out = nnx.Param(draw(rngs.params(), (E, F, D), in_axes=(1,), out_axes=(2,)))

    def axes(self):
        return {"w_in": "E D F", "w_out": "E F D"}

    def __call__(self, x, *, key=None):
        share = jax.nn.softmax(self.gate(x))  # [..., E]
        hidden = self.activation(jnp.einsum("...D,EDF->...EF", x, self.w_in[...]))
        y = jnp.einsum("...EF,EFD,...E->...D", hidden, self.w_out[...], share)
        n_tokens = math.prod(x.shape[:-1])
        use = share.reshape(n_tokens, -1).mean(0)
        return y, {"balance": (n_tokens * use.size * jnp.sum(use**2), jnp.float32(n_tokens))}


@dataclass(frozen=True)
class MeanPooler(nn.Pooling):
    """The mean of the valid vectors, projected."""

    reads: ClassVar[Literal["mean", "first"]] = "mean"

    def build(self, config, *, rngs):
        return MeanPoolerLayer(config, rngs)


class MeanPoolerLayer(nnx.Module):
    def __init__(self, config, rngs):
        D = config.d_model
        self.dense = nn.Linear(
            (D,), (D,), axes="D D", bias=True, initializer=config.initializers.kernel, rngs=rngs
        )

    def __call__(self, x, valid=None, *, key=None):
        weights = jnp.ones(x.shape[:-1]) if valid is None else valid.astype(x.dtype)
        return self.dense(jnp.einsum("...TD,...T->...D", x, weights) / weights.sum(-1)[..., None])


@dataclass(frozen=True)
class OverlappingPatches(nn.PatchEmbedding):
    """Square patches that overlap: a convolution whose stride is below its size."""

    channels: int = 1
    size: int = 3
    stride: int = 2

    def build(self, config, *, rngs):
        return OverlappingLayer(self, config, rngs)


class OverlappingLayer(nnx.Module):
    def __init__(self, patches, config, rngs):
        self.patches, self.dtype = patches, config.dtype
        shape = (patches.size, patches.size, patches.channels, config.d_model)
        kernel = config.initializers.kernel(rngs.params(), shape, in_axes=(0, 1, 2), out_axes=(3,))
        self.kernel = nnx.Param(kernel.astype(config.param_dtype))

    def axes(self):
        return {"kernel": "P P C D"}

    def __call__(self, images):
        x = images.astype(self.dtype).reshape(-1, *images.shape[-3:])
        kernel, stride = self.kernel[...].astype(x.dtype), (self.patches.stride,) * 2
        y = jax.lax.conv_general_dilated(
            x, kernel, stride, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.reshape(*images.shape[:-3], -1, y.shape[-1])


@dataclass(frozen=True)
class SmallUniform(nn.Initializer):
    """Uniform in [-limit, limit)."""

    limit: float = 0.2

    def __call__(self, key, shape, *, in_axes, out_axes):
        return jax.random.uniform(key, shape, jnp.float32, -self.limit, self.limit)


CLASSES = (
    DynamicTanh,
    BiasFreeLayerNorm,
    LogBias,
    Swing,
    Swish,
    Experts,
    MeanPooler,
    OverlappingPatches,
    SmallUniform,
)

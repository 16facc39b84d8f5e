"""Fine-tuning layer by layer: lower layers learn more slowly, or not at all. Layers are stacked, [L, ...]."""

import re

import jax
import jax.numpy as jnp
import optax

from tfm_jax.train.step import LossFn, Metrics
from tfm_jax.types import Array, Batch, Key, Params, SumWeight

__all__ = ["freeze_layers", "layer_factors", "scale_by_layer"]

_LAYERS = re.compile(r"(^|/)layers/")
_ENTRY = re.compile(r"(^|/)(\w*embedding|embedding_norm|position_bias)/")


def layer_factors(params: Params, decay: float = 1.0, frozen: int = 0) -> Params:
    """By how much each layer's updates are scaled.

    Equivalent to::

        layer(l) = 0 if l < frozen else decay ** (L - l)     # l from 0
        embedding = 0 if frozen else decay ** (L + 1)        # tokens, positions, their norm
        head = final_norm = 1

    Args:
        params: nested dict of arrays; those below ``layers`` are stacked, [L, ...].
        decay: from one layer to the one below it, in (0, 1].
        frozen: how many of the first layers, from 0 (none, nor the embedding) to L.

    Returns:
        A tree like ``params`` of float32 factors [L, 1, ...] or []. An encoder and a decoder each count
        their own layers; the deeper one is L for the embedding. A tied output projection is the embedding.

    Raises:
        ValueError: for a decay or a number of layers out of range, or params without stacked layers.

    Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.2, whose
    decay is 1 / 2.6; Clark et al. 2020, "ELECTRA", appendix B.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer decay lies in (0, 1], and 1 is none; got {decay}")
    depths = {_depth(x) for path, x in _leaves(params) if _LAYERS.search(path)}
    if not depths:
        raise ValueError("layers are scaled by their place in arrays [L, ...] under 'layers'; there are none")
    if not 0 <= frozen <= min(depths):
        raise ValueError(f"frozen layers are 0 to {min(depths)}, all that there are; got {frozen}")

    def factor(path: str, x: Array) -> Array:
        if _LAYERS.search(path):
            layers = jnp.arange(_depth(x))
            scale = jnp.where(layers < frozen, 0.0, decay ** (_depth(x) - layers).astype(jnp.float32))
            return scale.reshape(-1, *[1] * (x.ndim - 1))
        if _ENTRY.search(path):
            return jnp.float32(0.0 if frozen else decay ** (max(depths) + 1))
        return jnp.float32(1.0)

    return jax.tree.unflatten(jax.tree.structure(params), [factor(*leaf) for leaf in _leaves(params)])


def scale_by_layer(decay: float = 1.0, frozen: int = 0) -> optax.GradientTransformation:
    """Scales updates by layer; the last of a chain, after the learning rate and the weight decay.

    Equivalent to::

        updates = jax.tree.map(lambda u, factor: u * factor, updates, layer_factors(updates, decay, frozen))

    Args:
        decay: from one layer to the one below it, in (0, 1]; 1 scales none.
        frozen: how many of the first layers stay as they are, bit for bit, and with them the embedding.

    Returns:
        An optax transformation without a state. The gradients of frozen layers still count in a clip of the
        global norm before it, unless the loss is one of `freeze_layers`.

    Raises:
        ValueError: as `layer_factors`; of the numbers of layers in ``init``.
    """

    def init(params: Params) -> optax.EmptyState:
        layer_factors(params, decay, frozen)
        return optax.EmptyState()

    def update(
        updates: Params, state: optax.EmptyState, params: Params | None = None
    ) -> tuple[Params, optax.EmptyState]:
        factors = layer_factors(updates, decay, frozen)
        return jax.tree.map(_scaled, updates, factors), state

    return optax.GradientTransformation(init, update)


def freeze_layers(loss_fn: LossFn, frozen: int) -> LossFn:
    """The same loss, with the gradient 0 at the embedding and the first layers: no norm counts them.

    Equivalent to::

        stopped = {path: jax.lax.stop_gradient(params[path]) for path in frozen_paths}
        loss_fn({**params, **stopped}, batch, key)

    Args:
        loss_fn: as ``make_train_step`` takes it.
        frozen: how many of the first layers; 0 is ``loss_fn`` itself.

    Returns:
        A loss for ``make_train_step``. Weight decay still moves those layers, unless `scale_by_layer` is the
        last of the optimizer's chain.

    Raises:
        ValueError: as `layer_factors`, at trace time.
    """
    if frozen == 0:
        return loss_fn

    def frozen_loss(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, Metrics]:
        factors = layer_factors(params, frozen=frozen)
        stopped = jax.tree.map(
            lambda p, factor: jnp.where(factor > 0, p, jax.lax.stop_gradient(p)), params, factors
        )
        return loss_fn(stopped, batch, key)

    return frozen_loss


def _scaled(update: Array, factor: Array) -> Array:
    """Update times factor; where that is 0 the one number that added to any other leaves its every bit."""
    factor = jnp.broadcast_to(factor, update.shape).astype(update.dtype)
    return jnp.where(factor > 0, update * factor, jnp.array(-0.0, update.dtype))


def _leaves(params: Params) -> list[tuple[str, Array]]:
    named = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in named]


def _depth(x: Array) -> int:
    if jnp.ndim(x) == 0:
        raise ValueError("an array under 'layers' is stacked, [L, ...]; got a scalar")
    return x.shape[0]

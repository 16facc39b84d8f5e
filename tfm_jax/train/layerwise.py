"""Layer-wise learning-rate decay and frozen layers for fine-tuning. Layers are stacked, [L, ...]."""

import re

import jax
import jax.numpy as jnp
import optax

from tfm_jax.train.step import LossFn, Metrics
from tfm_jax.types import Array, BatchT, Key, Params, SumWeight

__all__ = ["freeze_layers", "layer_factors", "scale_by_layer"]

_LAYERS = re.compile(r"(^|/)layers/")
_EMBEDDINGS = re.compile(r"(^|/)(\w*embedding|embedding_norm|position_bias)/")


def layer_factors(params: optax.Params, decay: float = 1.0, frozen: int = 0) -> optax.Params:
    """The factor of each layer's updates.

    Equivalent to::

        layer(l) = 0 if l < frozen else decay ** (L - l)     # l from 0
        embedding = 0 if frozen else decay ** (L + 1)        # of tokens and positions, and their norm
        head = final_norm = 1

    Args:
      params: nested dict of arrays; those below ``layers`` are stacked, [L, ...].
      decay: ratio of a layer's factor to that of the layer above, in (0, 1].
      frozen: number of first layers with factor 0, at most L; the embedding is frozen unless this is 0.

    Returns:
      A tree like ``params`` of float32 factors [L, 1, ...] or []. Encoder and decoder layers are counted
      separately; L of the embedding is the larger count. A tied output projection is the embedding.

    Raises:
      ValueError: for a decay or a number of layers out of range, or params without stacked layers.

    Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.2, whose
    decay is 1 / 2.6; Clark et al. 2020, "ELECTRA", appendix B.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_factors: got decay={decay}; wanted a number in (0, 1].")
    depths = {_depth(x) for path, x in _leaves(params) if _LAYERS.search(path)}
    if not depths:
        raise ValueError("layer_factors: got params without 'layers'; wanted stacked layers [L, ...] there.")
    if not 0 <= frozen <= min(depths):
        raise ValueError(f"layer_factors: got frozen={frozen}; wanted 0 to {min(depths)} layers.")

    def factor(path: str, x: Array) -> Array:
        if _LAYERS.search(path):
            layers = jnp.arange(_depth(x))
            scale = jnp.where(layers < frozen, 0.0, decay ** (_depth(x) - layers).astype(jnp.float32))
            return scale.reshape(-1, *[1] * (x.ndim - 1))
        if _EMBEDDINGS.search(path):
            return jnp.float32(0.0 if frozen else decay ** (max(depths) + 1))
        return jnp.float32(1.0)

    return jax.tree.unflatten(jax.tree.structure(params), [factor(*leaf) for leaf in _leaves(params)])


def scale_by_layer(decay: float = 1.0, frozen: int = 0) -> optax.GradientTransformation:
    """Scales updates by layer. The last of an optax chain, after learning rate and weight decay.

    Equivalent to::

        updates = jax.tree.map(lambda u, factor: u * factor, updates, layer_factors(updates, decay, frozen))

    Args:
      decay: ratio of a layer's factor to that of the layer above, in (0, 1]; 1 scales nothing.
      frozen: number of first layers that do not change, bit for bit, nor does the embedding.

    Returns:
      A stateless optax transformation. Gradients of frozen layers still count in the global norm of a clip
      before it, unless the loss is one of `freeze_layers`.

    Raises:
      ValueError: as `layer_factors`, from ``init``.
    """

    def init(params: optax.Params) -> optax.OptState:
        layer_factors(params, decay, frozen)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factors = layer_factors(updates, decay, frozen)
        return jax.tree.map(_scaled, updates, factors), state

    return optax.GradientTransformation(init, update)


def freeze_layers(loss_fn: LossFn[BatchT], frozen: int) -> LossFn[BatchT]:
    """Stops the gradients of the first layers and the embedding, so that gradient norms do not count them.

    Equivalent to::

        stopped = {path: jax.lax.stop_gradient(params[path]) for path in frozen_paths}
        loss_fn({**params, **stopped}, batch, key)

    Args:
      loss_fn: as for ``make_train_step``.
      frozen: number of first layers; 0 returns ``loss_fn`` itself.

    Returns:
      A loss for ``make_train_step``. Weight decay still changes those layers, unless `scale_by_layer` is
      the last of the optimizer's chain.

    Raises:
      ValueError: as `layer_factors`, at trace time.
    """
    if frozen == 0:
        return loss_fn

    def frozen_loss(params: Params, batch: BatchT, key: Key | None) -> tuple[SumWeight, Metrics]:
        factors = layer_factors(params, frozen=frozen)
        stopped = jax.tree.map(
            lambda p, factor: jnp.where(factor > 0, p, jax.lax.stop_gradient(p)), params, factors
        )
        return loss_fn(stopped, batch, key)

    return frozen_loss


def _scaled(update: Array, factor: Array) -> Array:
    """Update times factor; -0.0 where the factor is 0: adding it changes no number, not even -0.0."""
    factor = jnp.broadcast_to(factor, update.shape).astype(update.dtype)
    return jnp.where(factor > 0, update * factor, jnp.array(-0.0, update.dtype))


def _leaves(params: optax.Params) -> list[tuple[str, Array]]:
    named = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in named]


def _depth(x: Array) -> int:
    if jnp.ndim(x) == 0:
        raise ValueError("layer_factors: got a scalar below 'layers'; wanted stacked arrays, [L, ...].")
    return x.shape[0]

"""Stacks of Transformer blocks, scanned over layers: one block is compiled for any number of layers."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array, check_shapes
from tfm_jax.nn.blocks import Block, DecoderBlock, EncoderBlock, split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.extras import Extras
from tfm_jax.nn.norms import normalize
from tfm_jax.nn.positions import check_length, position_scheme
from tfm_jax.nn.precision import at_model_precision
from tfm_jax.nn.variants import NormModule, check_output
from tfm_jax.ops.backends import BACKENDS
from tfm_jax.ops.backends.common import Bias
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import is_mapped, vary_with
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key, Params

__all__ = ["DecoderStack", "EncoderStack", "Stack"]

_REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


M = TypeVar("M", bound=nnx.Module)
_CAPTURES = "__captures__"
"""The attribute of each module that ``nnx.capture`` writes into."""


def stack_layers(make: Callable[[nnx.Rngs], M], n_layers: int, *, rngs: nnx.Rngs) -> M:
    """A module with the parameters of n layers, stacked on a new first axis L."""
    graphs = []

    def params_of(key: Key) -> Params:
        graph, params = nnx.split(make(nnx.Rngs(key)), graph=False)
        graphs.append(graph)  # traced once for all layers
        return nnx.to_pure_dict(params)

    params = jax.vmap(params_of)(jax.random.split(rngs.params(), n_layers))
    return nnx.merge(graphs[0], params)


class Stack(nnx.Module):
    """Position embedding, L blocks, and the final norm.

    Equivalent to::

        x = dropout(embedding_norm(x + position_embedding(positions)))
        for block in layers:
            x = block(x, mask, memory, memory_mask)
        return final_norm(x)

    Args:
      config: sizes and variants.
      n_layers: L.
      make_block: makes one block from an ``nnx.Rngs``.
      bidirectional: whether keys may be after the query, for the bias of the position scheme.
      rngs: initializes the parameters.
    """

    def __init__(
        self,
        config: Config,
        n_layers: int,
        make_block: Callable[[nnx.Rngs], Block],
        *,
        bidirectional: bool,
        rngs: nnx.Rngs,
    ):
        self.config, self.n_layers = config, n_layers
        scheme = position_scheme(config)

        def norm() -> NormModule:
            return config.norm.build(config.d_model, axis="D", dtype=config.param_dtype, rngs=rngs)

        self.position_embedding = scheme.build_embedding(config, rngs=rngs)
        self.position_bias = scheme.build_bias(config, bidirectional=bidirectional, rngs=rngs)
        if self.position_bias is None and scheme.has_bias:
            raise ValueError(
                f"{type(scheme).__name__}.build_bias: got None; wanted a module. Override the property "
                "has_bias of a scheme that does not always have a bias."
            )
        self.embedding_norm = norm() if config.embedding_norm else None
        self.layers = stack_layers(make_block, n_layers, rngs=rngs)
        self.norm = norm() if config.final_norm else None

    @at_model_precision
    def __call__(
        self,
        x: Array,
        mask: Mask | Array | None = None,
        memory: Array | None = None,
        memory_mask: Mask | Array | None = None,
        *,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> tuple[Array, Extras]:
        """Applies all layers.

        Args:
          x: [..., T, D], embedded tokens or patches.
          mask, memory, memory_mask: as in ``Block``, the same for every layer.
          positions: int [..., T] or [T]; None is 0 .. T - 1.
          key: PRNG key for dropout; None is no dropout.
          return_weights: also return the attention weights of every layer.
          return_auxiliary: also return the auxiliary losses, added over the layers.

        Returns:
          ``(x, extras)``: x [..., T, D]; extras has ``"weights"`` ``{"self": [L, ..., N, T, T], "cross":
          ...}`` and ``"auxiliary"`` ``{name: (sum, weight)}``, each if its flag is set.

        Raises:
          ValueError: positions of another shape or dtype, T above the scheme's ``max_length``, or ring
            attention inside ``shard_map`` over the axis of the sequence.
        """
        x = as_array("nn.Stack", "x", x)
        _check_whole_sequence(self.config)
        T = x.shape[-2]
        positions = self.count(T) if positions is None else jnp.asarray(positions)
        check_shapes(f"nn.{type(self).__name__}", x=(x, "... T D"), positions=(positions, "...|1 T", "int"))
        embed_key, layers_key = split_key(key, 2)
        bias = self.bias(positions, positions)
        # Strict rank promotion: a shared [T] becomes [1, ..., T].
        positions = positions.reshape((1,) * (x.ndim - 1 - positions.ndim) + positions.shape)
        rate = self.config.embedding_dropout_rate
        rate = self.config.dropout_rate if rate is None else rate
        x = ops.dropout(self.embed_positions(x, positions), rate, embed_key)

        keys = None if layers_key is None else jax.random.split(layers_key, self.n_layers)
        run = self._run_captured if hasattr(self.layers, _CAPTURES) else self._run
        x, extras = run(
            x,
            keys,
            mask=mask,
            memory=memory,
            memory_mask=memory_mask,
            positions=positions,
            bias=bias,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        if "auxiliary" in extras:
            extras["auxiliary"] = jax.tree.map(lambda per_layer: per_layer.sum(0), extras["auxiliary"])
        return constrain(normalize(self.norm, constrain(x, "B T D")), "B T D"), extras

    def _run(self, x: Array, keys: Key | None, **inputs: Any) -> tuple[Array, Extras]:
        """The layers as a scan; ``inputs`` are those of each block."""
        graph, params = nnx.split(self.layers, graph=False)

        def layer(x: Array, params_and_key: tuple[Params, Key | None]) -> tuple[Array, Extras]:
            params, key = params_and_key
            x = constrain(x, "B T D")  # of the carry, which the backward pass saves
            return nnx.merge(graph, params)(x, key=key, **inputs)

        if self.config.remat is not None:
            layer = jax.checkpoint(layer, policy=_REMAT[self.config.remat], prevent_cse=self.config.unroll)
        per_layer = (nnx.to_pure_dict(params), keys)
        # A bias is a function, with its arrays if it is a pytree.
        arrays = [leaf for leaf in jax.tree.leaves(inputs) if isinstance(leaf, jax.Array)]
        x = vary_with(x, (per_layer, arrays))
        return jax.lax.scan(layer, x, per_layer, unroll=self.n_layers if self.config.unroll else 1)

    def _run_captured(self, x: Array, keys: Key | None, **inputs: Any) -> tuple[Array, Extras]:
        """The layers one by one, inside ``nnx.capture``: no value could leave a scan."""
        if not self.config.unroll:
            for _, module in nnx.iter_modules(self.layers):  # Flax leaves it there after an error
                delattr(module, _CAPTURES)
            raise ValueError(
                "nn.Stack: got nnx.capture with scanned layers, whose values stay in the scan; wanted "
                "unrolled ones. Set unroll=True in the Config: parameters and results are the same."
            )
        found = []
        for i, block in enumerate(self.unstack()):
            x, extras = block(constrain(x, "B T D"), key=None if keys is None else keys[i], **inputs)
            found.append(extras)
        return x, jax.tree.map(lambda *per_layer: jnp.stack(per_layer), *found)

    def count(self, length: int) -> Array:
        """The positions 0 .. length - 1; raises if the scheme has fewer."""
        check_length(self.config, length)
        return jnp.arange(length, dtype=jnp.int32)

    def bias(self, query_positions: Array, key_positions: Array) -> Bias | None:
        """The bias of self-attention between int positions [..., T] and [..., S]; None if there is none."""
        return None if self.position_bias is None else self.position_bias(query_positions, key_positions)

    def axes(self) -> dict[str, str]:
        return {"layers": "L"}

    def embed_positions(self, x: Array, positions: Array) -> Array:
        """The first layer's input: x [..., T, D] with its int positions [..., T] added, then normalized."""
        if self.position_embedding is not None:
            source = f"{type(self.config.positions).__name__}.build_embedding"
            x = check_output(source, x, self.position_embedding(x, positions))
        return normalize(self.embedding_norm, x)

    def unstack(self) -> list[Block]:
        """The L blocks, each with its own slice of the stacked parameters."""
        graph, captures, params = nnx.split(self.layers, nnx.PathContains(_CAPTURES), ..., graph=False)
        blocks = []
        for i in range(self.n_layers):
            per_layer = jax.tree.map(lambda x, i=i: x[i], params)
            blocks.append(nnx.merge(graph, per_layer, captures))
            _share_captures(self.layers, blocks[-1])
        return blocks


class EncoderStack(Stack):
    """Stack of ``EncoderBlock``, bidirectional: only the mask that the caller passes applies.

    Args:
      config: sizes and variants.
      rngs: initializes the parameters.
    """

    __call__ = Stack.__call__  # its own, as nnx.capture records no inherited method

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(
            config,
            config.n_layers,
            lambda rngs: EncoderBlock(config, rngs=rngs),
            bidirectional=True,
            rngs=rngs,
        )


class DecoderStack(Stack):
    """Stack of ``DecoderBlock``. The caller passes the causal mask and the window.

    Args:
      config: sizes and variants; ``n_decoder_layers`` applies with cross-attention.
      cross_attention: also attend to a memory.
      rngs: initializes the parameters.
    """

    __call__ = Stack.__call__  # its own, as nnx.capture records no inherited method

    def __init__(self, config: Config, *, cross_attention: bool, rngs: nnx.Rngs):
        decoder_layers = config.n_decoder_layers if cross_attention else None
        super().__init__(
            config,
            decoder_layers or config.n_layers,
            lambda rngs: DecoderBlock(config, cross_attention=cross_attention, rngs=rngs),
            bidirectional=False,
            rngs=rngs,
        )


def _share_captures(source: nnx.Module, target: nnx.Module) -> None:
    """Makes ``nnx.capture`` find the values of a module's copy in the module itself."""
    for (_, original), (_, copy) in zip(nnx.iter_modules(source), nnx.iter_modules(target), strict=True):
        if hasattr(original, _CAPTURES):
            setattr(copy, _CAPTURES, nnx.data(getattr(original, _CAPTURES)))


def _check_whole_sequence(config: Config) -> None:
    """Raises where x is a part of a sequence: positions would be counted from the start of each part."""
    got = config.attention_implementation
    backend = BACKENDS.get(got) if isinstance(got, str) else got
    axis = None if backend is None else backend.capabilities.sharded
    if axis is not None and is_mapped(axis):
        raise ValueError(
            f"nn.Stack: got ring attention inside shard_map or pmap over {axis!r}; wanted whole "
            "sequences: positions count from their start. Call the jitted model inside "
            "jax.set_mesh(mesh), without shard_map."
        )

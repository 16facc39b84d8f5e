"""Multi-head attention: four projections around ``ops.attention``."""

from flax import nnx

from tfm_jax import ops
from tfm_jax.nn.config import Config
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.norms import normalize
from tfm_jax.nn.positions import position_scheme
from tfm_jax.nn.precision import at_model_precision
from tfm_jax.nn.variants import NormModule, check_output
from tfm_jax.ops.backends.common import Bias
from tfm_jax.ops.masks import Mask
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(nnx.Module):
    """Multi-head attention, with grouped-query attention where K < N.

    Equivalent to::

        q, k, v = x @ W_q, context @ W_k, context @ W_v                # all heads at once
        out = ops.attention(q, k, v, mask, bias) @ W_o                 # MultiHead(Q, K, V)

    Self-attention if ``context`` is None, else cross-attention. With ``qk_norm`` the queries and keys are
    normalized; those of self-attention are then rotated by ``positions``, under ``Rope`` and its kin.

    Args:
      config: D, N, K, H, the ``attention_*`` fields, ``qk_norm`` and ``positions``.
      rngs: initializes the four kernels.

    Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        D, N, K, H = config.d_model, config.n_heads, config.K, config.H
        bias, output_bias = config.attention_bias, config.attention_output_bias

        def projection(inputs: tuple[int, ...], outputs: tuple[int, ...], axes: str, bias: bool) -> Linear:
            initializer, dtype = config.initializers.kernel, config.param_dtype
            return Linear(
                inputs, outputs, axes=axes, bias=bias, dtype=dtype, initializer=initializer, rngs=rngs
            )

        def norm() -> NormModule | None:
            if not config.qk_norm:
                return None
            return config.norm.build(H, axis="H", dtype=config.param_dtype, rngs=rngs)

        self.query = projection((D,), (N, H), "D N H", bias)
        self.key = projection((D,), (K, H), "D K H", bias)
        self.value = projection((D,), (K, H), "D K H", bias)
        self.output = projection((N, H), (D,), "N H D", bias if output_bias is None else output_bias)
        self.query_norm = norm()
        self.key_norm = norm()

    @at_model_precision
    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        mask: Mask | Array | None = None,
        bias: Bias | None = None,
        *,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
    ) -> tuple[Array, Array | None]:
        """Attends from x to itself or to a context.

        Args:
          x: [..., T, D], the source of the queries.
          context: [..., S, D], the source of the keys and values; None is x.
          mask: True = may attend; any mask that ``ops.attention`` takes.
          bias: [N, T, S] or [..., N, T, S], added to the logits; or a function of (query, key) indices.
          positions: int [..., T], required in self-attention under a scheme that rotates, such as ``Rope``.
          key: PRNG key for dropout on the weights; None is no dropout.
          return_weights: also return the attention weights.

        Returns:
          ``(out, weights)``: out [..., T, D]; weights [..., N, T, S] before dropout, or None.

        Raises:
          ValueError: positions are missing under a scheme that rotates, or are passed with a context.
        """
        scheme = position_scheme(self.config)
        if context is None and positions is None and scheme.rotates:
            raise ValueError(
                f"nn.MultiHeadAttention: got positions=None with {scheme}; wanted int [..., T]. "
                f"{type(scheme).__name__} rotates queries and keys by their positions."
            )
        if context is not None and positions is not None:
            raise ValueError(
                "nn.MultiHeadAttention: got positions with a context; wanted positions=None. "
                "Only self-attention uses them."
            )
        k, v = self.keys_values(x if context is None else context, positions=positions)
        return self.attend(
            x, k, v, mask=mask, bias=bias, positions=positions, key=key, return_weights=return_weights
        )

    @at_model_precision
    def keys_values(self, context: Array, *, positions: Array | None = None) -> tuple[Array, Array]:
        """Projects context [..., S, D] to keys and values [..., S, K, H]; the scheme may rotate the keys."""
        k = constrain(self.key(context), "B S K H")
        v = constrain(self.value(context), "B S K H")
        return self._rotate(normalize(self.key_norm, k), positions), v

    @at_model_precision
    def attend(
        self,
        x: Array,
        k: Array,
        v: Array,
        mask: Mask | Array | None = None,
        bias: Bias | None = None,
        *,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
    ) -> tuple[Array, Array | None]:
        """Attends from x to projected keys and values [..., S, K, H]; the rest is as in ``__call__``."""
        q = constrain(self.query(x), "B T N H")
        q = self._rotate(normalize(self.query_norm, q), positions)
        scale = self.config.attention_scale
        out = ops.attention(
            q,
            k,
            v,
            mask,
            bias,
            scale=scale,
            dropout_rate=self.config.attention_dropout_rate,
            key=key,
            implementation=self.config.attention_implementation,
        )  # [..., T, N, H]
        weights = ops.attention_weights(q, k, mask, bias, scale=scale) if return_weights else None
        return self.output(constrain(out, "B T N H")), weights

    def _rotate(self, x: Array, positions: Array | None) -> Array:
        if positions is None:
            return x
        scheme = position_scheme(self.config)
        return check_output(f"{type(scheme).__name__}.rotate", x, scheme.rotate(x, positions))

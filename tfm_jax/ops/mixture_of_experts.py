"""Mixture of experts: top-k routing, experts with and without capacity, and the losses of the router."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array, as_key, as_optional_array, check_shapes
from tfm_jax.ops._experts import Tokens, apply_experts
from tfm_jax.ops._grouped import Weights, ragged, tiled
from tfm_jax.ops.dropout import check_rate
from tfm_jax.ops.tracing import current_platform, is_symbolic
from tfm_jax.ranges import POSITIVE, SIZE, check_static
from tfm_jax.types import Array, Key, SumWeight

__all__ = ["load_balance_loss", "mixture_of_experts", "router_z_loss", "top_k_routing"]

_NAME = "mixture_of_experts"
_FIX = {
    "dtype": "Cast x or the weights to the dtype of the computation.",
    "experts": "Pass the experts and gates of top_k_routing, k of each for each token.",
    "gates": "Pass the experts and gates of top_k_routing, k of each for each token.",
}


def top_k_routing(logits: Array, k: int, *, normalize: bool = True) -> tuple[Array, Array]:
    """Top-k routing: the k experts of each token with the largest logits, and their gates.

    Equivalent to::

        experts = jnp.argsort(-logits, axis=-1, stable=True)[..., :k]         # ties: the lower index first
        gates = jnp.take_along_axis(jax.nn.softmax(logits), experts, -1)
        experts, gates / gates.sum(-1, keepdims=True) if normalize else gates

    Args:
      logits: [..., E] float, the router's.
      k: experts of a token, from 1 to E.
      normalize: whether the gates of a token add up to 1: the softmax over the chosen experts. If False,
        they are probabilities of the softmax over all experts.

    Returns:
      ``(experts, gates)``: int32 [..., k], the most likely first, of equal ones the lower index; and float32
      [..., k]. The softmax is in float32 or wider. A token with NaN among its logits has NaN as gates.

    Raises:
      ValueError: k is out of range, or logits are not floating.

    Shazeer et al. 2017, "Outrageously Large Neural Networks", equations 3 to 5 (normalized); Fedus et al.
    2022, "Switch Transformers", equations 1 and 2 (not normalized).
    """
    logits = as_array("top_k_routing", "logits", logits)
    check_shapes("top_k_routing", logits=(logits, "... E", "float"))
    check_static("top_k_routing", "k", k, SIZE)
    if k > logits.shape[-1]:
        raise ValueError(
            f"top_k_routing: got k={k} of {logits.shape[-1]} experts; wanted at most as many as there are."
        )
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    chosen, experts = jax.lax.top_k(logits, k)
    if normalize:
        return experts.astype(jnp.int32), jax.nn.softmax(chosen, axis=-1)
    return experts.astype(jnp.int32), jnp.exp(chosen - jax.nn.logsumexp(logits, axis=-1, keepdims=True))


def mixture_of_experts(
    x: Array,
    experts: Array,
    gates: Array,
    w_in: Array,
    w_out: Array,
    w_gate: Array | None = None,
    *,
    activation: Callable[[Array], Array] = jax.nn.silu,
    capacity_factor: float | None = None,
    valid: Array | None = None,
    dropout_rate: float = 0.0,
    key: Key | None = None,
    implementation: Literal["auto", "ragged", "tiled"] = "auto",
) -> tuple[Array, SumWeight]:
    """Mixture of experts: each token goes through its k experts, and their outputs are added by its gates.

    Equivalent to::

        hidden = activation(jnp.einsum("...D,EDF->...EF", x, w_gate)) * jnp.einsum("...D,EDF->...EF", x, w_in)
        y = jnp.einsum("...EF,EFD->...ED", dropout(hidden, dropout_rate, key), w_out)
        jnp.einsum("...kD,...k->...D", jnp.take_along_axis(y, experts[..., None], -2), gates)

    without the products of the experts that were not chosen; without ``w_gate``, hidden is
    ``activation(jnp.einsum("...D,EDF->...EF", x, w_in))``.

    On a mesh (``jax.set_mesh``) it runs in ``shard_map``: the weights stay sharded over the mesh axes that
    the rules give E and F, and are gathered over those of D, as in a dense layer. Each device applies its
    experts to the tokens of its share of the batch, and the outputs are added over the devices of E and F.
    Where the rules shard the tokens over these axes too, the tokens are gathered before, not the weights.

    Args:
      x: [..., T, D] float. [D] is one token.
      experts: int [..., T, k] in [0, E), those of a token all different, from ``top_k_routing``.
      gates: float [..., T, k].
      w_in: [E, D, F], of x's dtype.
      w_out: [E, F, D], of x's dtype.
      w_gate: [E, D, F], of x's dtype; None for experts that are not gated.
      activation: an elementwise function.
      capacity_factor: None is exact: no token is dropped, however unequal the use of the experts. A number
        limits the tokens that an expert takes of each sequence [T] to ``ceil(capacity_factor * k * T / E)``;
        it drops the others, which get nothing from this expert. First choices come before second ones, and
        earlier tokens before later ones. The products then have a static size.
      valid: bool [..., T], or None. A token that is not valid, such as padding, goes to no expert, takes no
        capacity, and has output and gradients 0, even if it is NaN.
      dropout_rate: for the hidden elements, in [0, 1).
      key: a PRNG key, which is consumed, or None for no dropout.
      implementation: of the exact path. "ragged" is ``jax.lax.ragged_dot``; "tiled" multiplies one tile of
        tokens of one expert at a time; "auto" is "ragged" on a TPU and "tiled" elsewhere, where JAX
        multiplies each row with all experts. Under ``vmap`` on a TPU name "tiled": its compiler does not
        support a mapped ragged_dot. Reverse-mode differentiation only.

    Returns:
      ``(y, dropped)``: y [..., T, D] in x's dtype, the sum over experts in float32 or wider; and ``(sum,
      weight)``, the number of dropped choices and the number of choices, float32. A NaN in one token reaches
      no other.

    Raises:
      ValueError: a shape does not fit, the dtypes differ, an argument is out of range; on a mesh, a size that
        is not divisible by its mesh axes.

    Shazeer et al. 2017, "Outrageously Large Neural Networks", equation 1; Lepikhin et al. 2020, "GShard",
    section 2.2 (capacity); Gale et al. 2022, "MegaBlocks" (without dropped tokens).
    """
    x, experts, gates, weights, valid = _checked(x, experts, gates, (w_in, w_out, w_gate), valid)
    check_rate(_NAME, dropout_rate, "dropout_rate")
    if implementation not in ("auto", "ragged", "tiled"):
        raise ValueError(f"{_NAME}: got implementation={implementation!r}; wanted auto, ragged or tiled.")
    if implementation == "auto":
        implementation = "ragged" if current_platform() == "tpu" else "tiled"
    (E, _, F), k, one = weights.w_in.shape, experts.shape[-1], x.ndim == 1
    if one:
        x, experts, gates = x[None], experts[None], gates[None]
        valid = None if valid is None else valid[None]
    capacity = ranks = keep = None
    if capacity_factor is not None:
        check_static(_NAME, "capacity_factor", capacity_factor, POSITIVE)
        if is_symbolic(x.shape[-2]):
            raise ValueError(
                f"{_NAME}: got capacity_factor={capacity_factor} with a symbolic length; wanted a static "
                "one. Pass None for the exact path."
            )
        capacity = _capacity(capacity_factor, x.shape[-2], k, E)
    # The expert E is none.
    chosen = experts if valid is None else jnp.where(valid[..., None], experts, E)
    n_choices = n_taken = jnp.sum(chosen < E, dtype=jnp.float32)
    if capacity is not None:
        ranks = _ranks(chosen, E)
        chosen = jnp.where(ranks < capacity, chosen, E)
        n_taken = jnp.sum(chosen < E, dtype=jnp.float32)
    gates = jnp.where(chosen < E, gates, 0)  # a NaN of a token that is not valid
    if key is not None and dropout_rate > 0:
        keep = jax.random.bernoulli(as_key(_NAME, key), np.float32(1 - dropout_rate), (*experts.shape, F))
    y = apply_experts(
        Tokens(x, chosen, gates, ranks, keep),
        weights,
        activation=activation,
        capacity=capacity,
        dropout_rate=dropout_rate,
        grouped=ragged if implementation == "ragged" else tiled,
    )
    return y[0] if one else y, (n_choices - n_taken, n_choices)


def load_balance_loss(logits: Array, experts: Array, *, weights: Array | None = None) -> SumWeight:
    """Load-balance loss: 1 where a sequence uses all experts equally, up to E / k where it uses only k.

    Equivalent to::

        chosen = jax.nn.one_hot(experts, E).sum(-2) / k                          # [..., T, E]
        use = (weights * chosen).sum(-2) / weights.sum(-1)                       # [..., E], of a sequence
        probability = (weights * jax.nn.softmax(logits)).sum(-2) / weights.sum(-1)
        loss = E * (use * probability).sum(-1)
        (weights.sum(-1) * loss).sum(), weights.sum()

    Args:
      logits: [..., T, E] float, the router's. [E] is one token.
      experts: int [..., T, k], from ``top_k_routing``.
      weights: [..., T] float, bool or integer, such as 0 for padding; None is 1 each. A token of weight 0
        adds nothing, even if its logits are NaN.

    Returns:
      ``(sum, weight)``: two float32 scalars. The balance is that of each sequence [T], so that the sums of
      microbatches, devices and hosts add up to those of the batch. For the balance of a whole batch, reshape
      [B, T, E] to [B * T, E].

    Raises:
      ValueError: a shape does not fit, or a dtype is wrong.

    Fedus et al. 2022, "Switch Transformers", equations 4 to 6; of a sequence: DeepSeek-AI 2024,
    "DeepSeek-V3", equations 17 to 20.
    """
    name = "load_balance_loss"
    logits, experts = as_array(name, "logits", logits), as_array(name, "experts", experts)
    weights = as_optional_array(name, "weights", weights)
    check_shapes(name, logits=(logits, "... E", "float"), experts=(experts, "... Ek", "int"),
                 weights=(weights, "..."), fix=_FIX)  # fmt: skip
    logits, weights = _weighted(logits, weights)
    E, k = logits.shape[-1], experts.shape[-1]
    experts, axis = experts.reshape(*logits.shape[:-1], k), max(0, logits.ndim - 2)
    if logits.ndim == 1:
        logits, experts, weights = logits[None], experts[None], weights[None]
    chosen = jax.nn.one_hot(experts, E, dtype=jnp.float32).sum(-2) / k
    total = weights.sum(axis)
    mean_weights = weights / jnp.where(total == 0, 1.0, total)[..., None]
    use = jnp.einsum("...TE,...T->...E", chosen, mean_weights)
    probability = jnp.einsum("...TE,...T->...E", jax.nn.softmax(logits, axis=-1), mean_weights)
    loss = E * jnp.einsum("...E,...E->...", use, probability)
    return jnp.sum(total * loss), jnp.sum(total)


def router_z_loss(logits: Array, *, weights: Array | None = None) -> SumWeight:
    """Router z-loss: the squared log-partition function of each token's logits, which keeps them small.

    Equivalent to::

        (weights * jax.nn.logsumexp(logits, -1) ** 2).sum(), weights.sum()

    Args:
      logits: [..., E] float, the router's.
      weights: [...] float, bool or integer; None is 1 each. A token of weight 0 adds nothing, even if its
        logits are NaN.

    Returns:
      ``(sum, weight)``: two float32 scalars.

    Raises:
      ValueError: a shape does not fit, or a dtype is wrong.

    Zoph et al. 2022, "ST-MoE: Designing Stable and Transferable Sparse Expert Models", equation 5.
    """
    logits = as_array("router_z_loss", "logits", logits)
    weights = as_optional_array("router_z_loss", "weights", weights)
    check_shapes("router_z_loss", logits=(logits, "... E", "float"), weights=(weights, "..."), fix=_FIX)
    logits, weights = _weighted(logits, weights)
    return jnp.sum(weights * jnp.square(jax.nn.logsumexp(logits, axis=-1))), jnp.sum(weights)


def _weighted(logits: Array, weights: Array | None) -> tuple[Array, Array]:
    """Float32 logits and weights; logits of weight 0 are 0."""
    logits = logits.astype(jnp.float32)
    if weights is None:
        return logits, jnp.ones(logits.shape[:-1], jnp.float32)
    return jnp.where(weights[..., None] != 0, logits, 0), weights.astype(jnp.float32)


def _checked(
    x: Array,
    experts: Array,
    gates: Array,
    weights: tuple[Array, Array, Array | None],
    valid: Array | None,
) -> tuple[Array, Array, Array, Weights, Array | None]:
    """The arguments as arrays that fit together; experts are int32."""
    arrays = {"x": x, "experts": experts, "gates": gates, "w_in": weights[0], "w_out": weights[1]}
    x, experts, gates, w_in, w_out = (as_array(_NAME, *argument) for argument in arrays.items())
    w_gate, valid = as_optional_array(_NAME, "w_gate", weights[2]), as_optional_array(_NAME, "valid", valid)
    check_shapes(
        _NAME,
        x=(x, "... D", "float"),
        experts=(experts, "... Ek", "int"),
        gates=(gates, "... Ek", "float"),
        w_in=(w_in, "E D F", x.dtype),
        w_out=(w_out, "E F D", x.dtype),
        w_gate=(w_gate, "E D F", x.dtype),
        valid=(valid, "...", "bool"),
        fix=_FIX,
    )
    return x, experts.astype(jnp.int32), gates, Weights(w_in, w_out, w_gate), valid


def _capacity(factor: float, T: int, k: int, E: int) -> int:
    """The tokens of a sequence that an expert takes; a token chooses an expert once, so T is enough."""
    return min(T, max(1, math.ceil(factor * k * T / E)))


def _ranks(experts: Array, E: int) -> Array:
    """The number of earlier choices of the same expert in the sequence: int32 [..., T, k].

    First choices come before second ones, then earlier tokens before later ones.
    """
    *lead, T, k = experts.shape
    choices = jnp.swapaxes(experts, -1, -2).reshape(*lead, k * T)
    same = jax.nn.one_hot(choices, E, dtype=jnp.int32)
    ranks = jnp.sum(same * jnp.cumsum(same, axis=-2, dtype=jnp.int32), axis=-1, dtype=jnp.int32) - 1
    return jnp.swapaxes(ranks.reshape(*lead, k, T), -1, -2)

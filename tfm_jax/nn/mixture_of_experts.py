"""Mixture of experts: a router and E feed-forward networks, of which each token goes through k."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array, as_key
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import initialize
from tfm_jax.nn.extras import Auxiliary
from tfm_jax.nn.feed_forward import Glu, Mlp
from tfm_jax.nn.variants import Activation, FeedForward, as_function, register_variant
from tfm_jax.ranges import Count, NotNegative, Positive, Size
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key, Metric

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = ["MixtureOfExperts"]


@register_variant
@dataclass(frozen=True)
class MixtureOfExperts(FeedForward):
    """Mixture of experts: each token goes through ``top_k`` of ``n_experts`` feed-forward networks.

    ``d_ff`` of the ``Config`` is the hidden width of one expert. The auxiliary sums of its module are
    ``"load_balance_loss"`` and ``"router_z_loss"``, multiplied by their factors, which
    ``train.add_auxiliary`` adds to the loss; and, reported alone, ``"load_balance"`` (1 where all experts are
    used equally), ``"router_z"``, and with a capacity ``"dropped"``, the share of dropped choices.

    Args:
      n_experts: E.
      top_k: k, the experts of a token; at most E.
      shared_experts: experts of all tokens, beside the k: one network of ``shared_experts * d_ff`` hidden
        units.
      capacity_factor: None is exact: no token is dropped. Otherwise an expert takes
        ``ceil(capacity_factor * k * T / E)`` tokens of each sequence of T and drops the others. Then the
        output of a token depends on the others of its sequence: cached decoding, which drops none, may
        differ from the full forward pass, and padding takes capacity.
      activation: a name that ``ops.activation`` knows, or an ``nn.Activation``.
      gated: whether an expert is a ``Glu``; otherwise it is an ``Mlp`` without biases.
      normalize: whether the gates of a token's experts add up to 1 (Mixtral); otherwise they are
        probabilities of all experts (Switch).
      load_balance: the factor of ``ops.load_balance_loss``; 0 is none.
      router_z: the factor of ``ops.router_z_loss``; 0 is none.
      implementation: of the exact path, as in ``ops.mixture_of_experts``. Name "tiled" under ``vmap`` on a
        TPU.

    Shazeer et al. 2017, "Outrageously Large Neural Networks"; Jiang et al. 2024, "Mixtral of Experts"; Dai et
    al. 2024, "DeepSeekMoE" (shared experts).
    """

    n_experts: Size = 8
    top_k: Size = 2
    shared_experts: Count = 0
    capacity_factor: Positive | None = None
    activation: str | Activation = "silu"
    gated: bool = True
    normalize: bool = True
    load_balance: NotNegative = 0.01
    router_z: NotNegative = 0.001
    implementation: Literal["auto", "ragged", "tiled"] = "auto"

    def __post_init__(self):
        check_fields(self)
        as_function(self.activation)  # raises for an unknown name
        if self.top_k > self.n_experts:
            raise ValueError(
                f"MixtureOfExperts: got top_k={self.top_k} with n_experts={self.n_experts}; wanted at most "
                "as many as there are."
            )

    def build(self, config: "Config", *, rngs: nnx.Rngs) -> "MixtureOfExpertsLayer":
        return MixtureOfExpertsLayer(self, config, rngs=rngs)


class MixtureOfExpertsLayer(nnx.Module):
    """``MixtureOfExperts`` with its parameters.

    Equivalent to::

        logits = x.astype(float32) @ router
        experts, gates = ops.top_k_routing(logits, top_k)
        y, _ = ops.mixture_of_experts(x, experts, gates, w_in, w_out, w_gate)
        y + shared(x)
    """

    def __init__(self, experts: MixtureOfExperts, config: "Config", *, rngs: nnx.Rngs):
        self.experts, self.dropout_rate = experts, config.feed_forward_dropout_rate
        E, D, F = experts.n_experts, config.d_model, config.d_ff

        def parameter(*shape: int, independent: int = 1) -> nnx.Param:
            draw, dtype = config.initializers.kernel, config.param_dtype
            return initialize(draw, rngs.params(), shape, dtype, independent=independent)

        # In the order of Glu, so that one expert has its initial values.
        self.w_in, self.w_out = parameter(E, D, F), parameter(E, F, D)
        self.w_gate = parameter(E, D, F) if experts.gated else None
        self.router = parameter(D, E, independent=0)
        n, dense = experts.shared_experts, Glu(experts.activation)
        dense = dense if experts.gated else Mlp(experts.activation, bias=False)
        self.shared = dense.build(replace(config, d_ff=n * F), rngs=rngs) if n else None

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        gate = {"w_gate": "E D F"} if self.experts.gated else {}
        return {"w_in": "E D F", "w_out": "E F D", "router": "D E"} | gate

    def active(self) -> dict[str, float]:
        """The share of the parameters that a token meets."""
        weights = ("w_in", "w_out", "w_gate") if self.experts.gated else ("w_in", "w_out")
        return dict.fromkeys(weights, self.experts.top_k / self.experts.n_experts)

    def __call__(self, x: Array, *, key: Key | None = None) -> tuple[Array, Auxiliary]:
        """Maps x [..., T, D] to [..., T, D]. ``key`` is for dropout on the hidden units; None is none."""
        x = as_array("nn.MixtureOfExperts", "x", x)
        shared_key = None
        if key is not None and self.shared is not None:
            key, shared_key = jax.random.split(as_key("nn.MixtureOfExperts", key))
        # A router that rounds chooses other experts: in float32 on every platform.
        router = self.router[...].astype(jnp.float32)
        logits = jnp.matmul(x.astype(jnp.float32), router, precision=jax.lax.Precision.HIGHEST)
        logits = constrain(logits, "B T ?")  # each token has the logits of all experts
        experts, gates = ops.top_k_routing(logits, self.experts.top_k, normalize=self.experts.normalize)
        y, dropped = ops.mixture_of_experts(
            x,
            experts,
            gates,
            _cast(self.w_in, x),
            _cast(self.w_out, x),
            None if self.w_gate is None else _cast(self.w_gate, x),
            activation=as_function(self.experts.activation),
            capacity_factor=self.experts.capacity_factor,
            dropout_rate=self.dropout_rate,
            key=key,
            implementation=self.experts.implementation,
        )
        if self.shared is not None:
            y = y + self.shared(x, key=shared_key)[0]
        return y, self._auxiliary(logits, experts, Metric(*dropped))

    def _auxiliary(self, logits: Array, experts: Array, dropped: Metric) -> Auxiliary:
        losses = {
            "load_balance": (self.experts.load_balance, ops.load_balance_loss(logits, experts)),
            "router_z": (self.experts.router_z, ops.router_z_loss(logits)),
        }
        found: Auxiliary = {}
        for name, (factor, (total, weight)) in losses.items():
            if factor:
                found[f"{name}_loss"] = (factor * total, weight)
            found[name] = Metric(jax.lax.stop_gradient(total), weight)
        if self.experts.capacity_factor is not None:
            found["dropped"] = dropped
        return found


def _cast(param: nnx.Param, x: Array) -> Array:
    return param[...].astype(x.dtype)

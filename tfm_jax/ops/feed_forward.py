"""Position-wise feed-forward networks, plain and gated, and activation functions by name."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array, as_key, as_optional_array, check_shapes
from tfm_jax.ops.dropout import dropout
from tfm_jax.ops.projection import parameter_dtype, project
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key

__all__ = ["activation", "feed_forward", "gated_feed_forward"]


@jax.custom_jvp
def _gelu(x: Array) -> Array:
    # By erf: jax.nn.gelu uses erfc, which is more exact near 0 and three times as slow on a CPU.
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    return (wide * _normal_cdf(wide)).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The backward pass keeps one array, of x's dtype.
    (x,), (tangent,) = primals, tangents
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return _gelu(x), (_normal_cdf(wide) + wide * density).astype(x.dtype) * tangent


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _in_float32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function computed in float32 or wider, its result rounded once."""
    return lambda x: function(x.astype(np.promote_types(x.dtype, np.float32))).astype(x.dtype)


_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_10": lambda x: jnp.clip(_gelu(x), -10, 10),
    "gelu_tanh": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_python_tanh": _tanh_gelu,
    "quick_gelu": _in_float32(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "hardswish": _in_float32(jax.nn.hard_swish),
    "mish": _in_float32(jax.nn.mish),
    "laplace": _in_float32(lambda x: 0.5 * (1 + jax.lax.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))),
    "sqrtsoftplus": _in_float32(lambda x: jnp.sqrt(jax.nn.softplus(x))),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}
_WITH_PARAMETERS = ("prelu", "xielu")
_FIX = {"dtype": "Cast x or the parameters to the dtype of the computation."}


def activation(name: str) -> Callable[[Array], Array]:
    """Activation function by name.

    Equivalent to::

        {"relu": jax.nn.relu, "silu": jax.nn.silu, ...}[name]

    Args:
      name: "relu", "relu_squared", "relu6", "leaky_relu" (slope 0.01), "gelu" (exact, by erf), "gelu_tanh"
        (its approximation, GPT-2's), "gelu_10" (exact, clipped to [-10, 10]), "quick_gelu"
        (``x * sigmoid(1.702 * x)``), "silu" or "swish", "hardswish", "mish", "laplace", "sqrtsoftplus",
        "tanh", "sigmoid" or "identity". Aliases from checkpoints: "gelu_python" is "gelu"; "gelu_new",
        "gelu_fast", "gelu_accurate" and "gelu_python_tanh" are "gelu_tanh".

    Returns:
      An elementwise function that keeps shape and dtype.

    Raises:
      ValueError: the name is unknown.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", section 2 (gelu, its approximation, silu); So et
    al. 2021, "Primer: Searching for Efficient Transformers for Language Modeling" (relu squared); Misra 2019,
    "Mish: A Self Regularized Non-Monotonic Activation Function"; Ma et al. 2022, "Mega: Moving Average
    Equipped Gated Attention", equation 14 (laplace).
    """
    if name in _WITH_PARAMETERS:
        raise ValueError(f"activation: got {name!r}, which has parameters; wanted a function of x alone.")
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: got {name!r}; wanted one of {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def feed_forward(
    x: Array,
    w_in: Array,
    w_out: Array,
    b_in: Array | None = None,
    b_out: Array | None = None,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    dropout_rate: float = 0.0,
    key: Key | None = None,
) -> Array:
    """Position-wise feed-forward network: two linear layers with an activation between.

    Equivalent to::

        dropout(activation(x @ w_in + b_in), dropout_rate, key) @ w_out + b_out

    Args:
      x: [..., D] float.
      w_in: [D, F], of x's dtype or float32.
      w_out: [F, D], of x's dtype or float32.
      b_in: [F], of x's dtype or float32, or None for 0.
      b_out: [D], of x's dtype or float32, or None for 0.
      activation: an elementwise function.
      dropout_rate: for the hidden elements, in [0, 1).
      key: a PRNG key, which is consumed, or None for no dropout.

    Returns:
      [..., D] in x's dtype.

    Raises:
      ValueError: a shape does not fit, the dtypes differ, or ``dropout_rate`` is out of range.

    Vaswani et al. 2017, "Attention Is All You Need", equation 2.
    """
    arrays = {"x": x, "w_in": w_in, "w_out": w_out}
    x, w_in, w_out = (as_array("feed_forward", *argument) for argument in arrays.items())
    b_in, b_out = (as_optional_array("feed_forward", *b) for b in (("b_in", b_in), ("b_out", b_out)))
    check_shapes(
        "feed_forward",
        x=(x, "... D", "float"),
        w_in=(w_in, "D F", parameter_dtype(w_in, x)),
        w_out=(w_out, "F D", parameter_dtype(w_out, x)),
        b_in=(b_in, "F", parameter_dtype(b_in, x)),
        b_out=(b_out, "D", parameter_dtype(b_out, x)),
        fix=_FIX,
    )
    key = None if key is None else as_key("feed_forward", key)
    hidden = constrain(activation(_add(project(x, w_in), b_in)), "F")
    return _add(project(dropout(hidden, dropout_rate, key), w_out), b_out)


def gated_feed_forward(
    x: Array,
    w_gate: Array,
    w_in: Array,
    w_out: Array,
    *,
    activation: Callable[[Array], Array] = jax.nn.silu,
    dropout_rate: float = 0.0,
    key: Key | None = None,
) -> Array:
    """Gated feed-forward network: SwiGLU by default, GEGLU with gelu, GLU with sigmoid.

    Equivalent to::

        dropout(activation(x @ w_gate) * (x @ w_in), dropout_rate, key) @ w_out

    Args:
      x: [..., D] float.
      w_gate: [D, F], of x's dtype or float32; its product goes through the activation.
      w_in: [D, F], of x's dtype or float32; its product is multiplied by the gate.
      w_out: [F, D], of x's dtype or float32.
      activation: an elementwise function.
      dropout_rate: for the hidden elements, in [0, 1).
      key: a PRNG key, which is consumed, or None for no dropout.

    Returns:
      [..., D] in x's dtype.

    Raises:
      ValueError: a shape does not fit, the dtypes differ, or ``dropout_rate`` is out of range.

    Shazeer 2020, "GLU Variants Improve Transformer", equation 6 (w_gate is W, w_in is V, w_out is W2).
    """
    arrays = {"x": x, "w_gate": w_gate, "w_in": w_in, "w_out": w_out}
    x, w_gate, w_in, w_out = (as_array("gated_feed_forward", *argument) for argument in arrays.items())
    check_shapes(
        "gated_feed_forward",
        x=(x, "... D", "float"),
        w_in=(w_in, "D F", parameter_dtype(w_in, x)),
        w_gate=(w_gate, "D F", parameter_dtype(w_gate, x)),
        w_out=(w_out, "F D", parameter_dtype(w_out, x)),
        fix=_FIX,
    )
    key = None if key is None else as_key("gated_feed_forward", key)
    hidden = constrain(activation(project(x, w_gate)) * project(x, w_in), "F")
    return project(dropout(hidden, dropout_rate, key), w_out)


def _add(x: Array, bias: Array | None) -> Array:
    # Broadcast before the cast: the gradient is cast before its sum, which devices add in float32.
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)

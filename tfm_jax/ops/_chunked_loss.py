"""The cross-entropy of a projection, in chunks of a device's tokens, with its gradients in the same pass.

The sum of the losses is a scalar, so its gradients are known as soon as its logits are: each chunk computes
its logits once, where a recomputing backward pass would compute them twice. On a mesh all of it runs inside
``shard_map``: each device loops over its own tokens, and the devices' gradients are summed once, after it.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax.ops.projection import sum_dtype
from tfm_jax.ops.tracing import at_precision, current_precision, is_symbolic, vary_with
from tfm_jax.sharding import activation_spec, as_names, current_rules, reshard
from tfm_jax.types import Array, SumWeight

__all__ = ["Inputs", "Loss", "summed_loss", "token_losses", "weighted"]

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The settings of a cross-entropy, as in ``ops.cross_entropy``."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ignore_index: int | None = None


class Inputs(NamedTuple):
    """What the loss is differentiated by, and the labels. Gradients have the same fields."""

    hidden: Any  # [..., D]
    kernel: Any  # [D, V]
    bias: Any  # [V], or None
    weights: Any  # [...] float32
    labels: Any = None  # [...] integer


class Tokens(NamedTuple):
    """The losses of tokens, and the gradient of their weighted sum by the logits."""

    losses: Array  # [...]
    valid: Array  # [...] bool: the label is a class
    gradient: Array  # [..., V] float32; the logits themselves where it is not wanted


def token_losses(
    logits: Array,
    labels: Array,
    weights: Array,
    used: Array | None,
    loss: Loss,
    *,
    vocabulary: Names = (),
    gradient: bool = False,
) -> Tokens:
    """The loss of each token, and with ``gradient`` that of the weighted sum by the logits, in closed form.

    Args:
      logits: [..., V] float32; of the device's classes, if they are sharded.
      labels: [...] integer, at least 32 bits.
      weights: [...] float32.
      used: [...] bool, False for a token without loss or gradient, whatever its logits; None is all True.
      loss: the settings.
      vocabulary: the mapped axes that shard the classes.
      gradient: whether to compute the gradient.
    """
    n_devices = math.prod(jax.lax.axis_size(name) for name in vocabulary)
    size = n_devices * logits.shape[-1]
    valid = (labels >= 0) & (labels < size)
    if used is not None:
        # Before the softmax: NaN and Inf cannot reach the gradient as 0 * Inf.
        logits = jnp.where(used[..., None], logits, 0)
    # Relative to the largest logit: log_z - logit would lose digits.
    peak = jax.lax.stop_gradient(logits.max(-1))
    if vocabulary:
        peak = jax.lax.pmax(peak, vocabulary)
    logits = logits - peak[..., None]
    powers = jnp.exp(logits)
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    if vocabulary:
        first = jax.lax.axis_index(vocabulary) * logits.shape[-1]
        classes = classes + jnp.broadcast_to(first.astype(labels.dtype), logits.shape)
    # A comparison instead of a gather: it fuses into the sum, and works where V is sharded.
    is_label = classes == labels[..., None]
    sums = [powers.sum(-1), jnp.sum(jnp.where(is_label, logits, 0), axis=-1)]
    if loss.label_smoothing:
        sums.append(logits.sum(-1))
    if vocabulary:
        sums = list(jax.lax.psum(jnp.stack(sums), vocabulary))
    log_sum = jnp.log(sums[0])
    losses = log_sum - sums[1]
    if loss.label_smoothing:
        smoothing = loss.label_smoothing
        losses = (1 - smoothing) * losses + smoothing * (log_sum - sums[2] / size)
    log_z = log_sum + peak
    if loss.z_loss:
        losses = losses + loss.z_loss * jnp.square(log_z)
    if not gradient:
        return Tokens(losses, valid, logits)
    factor = jnp.where(valid, weights, jnp.nan)
    factor = factor if used is None else jnp.where(used, factor, 0)
    # Of the loss: softmax * (1 + 2 z log_z) - target.
    scale = factor / sums[0] * (1 + 2 * loss.z_loss * log_z if loss.z_loss else 1)
    target = jnp.where(is_label, (1 - loss.label_smoothing) * factor[..., None], 0)
    if loss.label_smoothing:
        target = target + (loss.label_smoothing / size * factor)[..., None]
    return Tokens(losses, valid, scale[..., None] * powers - target)


def summed_loss(inputs: Inputs, loss: Loss, chunk_size: int) -> SumWeight:
    """``(sum, weight)`` of the cross-entropy of ``hidden @ kernel + bias``, in chunks of each device."""
    layout = _layout(inputs)
    run = at_precision(functools.partial(_run, loss=loss, chunk_size=chunk_size, layout=layout))
    run = functools.partial(run, current_precision())

    @jax.custom_jvp
    def call(inputs: Inputs) -> SumWeight:
        return run(inputs, Inputs(False, False, False, False))[0]

    def rule(primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[SumWeight, SumWeight]:
        (inputs,), (directions,) = primals, tangents
        # A tangent is known to be zero where nothing is differentiated by the input.
        wanted = Inputs(*(not _is_zero(direction) for direction in directions[:4]))
        pair, gradients = run(inputs, wanted)
        products = [
            _product(gradient, direction)
            for gradient, direction, needed in zip(gradients, directions, wanted[:4], strict=False)
            if needed
        ]
        total = sum(products, start=jnp.zeros_like(pair[0]))
        weight = jnp.zeros_like(pair[1])
        if wanted.weights:
            used = 1.0 if loss.ignore_index is None else inputs.labels != loss.ignore_index
            weight = weight + jnp.sum(jnp.where(used, directions.weights, 0))
        return pair, (total, weight)

    call.defjvp(rule, symbolic_zeros=True)
    return call(inputs)


def _is_zero(direction: object) -> bool:
    return direction is None or isinstance(direction, jax.custom_derivatives.SymbolicZero)


def _product(gradient: Array, direction: Array) -> Array:
    """The inner product, in float32."""
    kind = jax.typeof(direction).sharding
    if kind.mesh.are_all_axes_explicit and not kind.mesh.empty:
        gradient = jax.sharding.reshard(gradient, kind.spec)
    return jnp.sum(gradient.astype(jnp.float32) * direction.astype(jnp.float32))


class Layout(NamedTuple):
    """How the arrays are sharded: the mesh axes of the tokens' axes, of D and of V."""

    tokens: tuple[Any, ...]  # an entry of a PartitionSpec for each axis of the labels
    features: Names
    vocabulary: Names
    free: Names  # the mesh axes that no outer map has mapped
    sum_dtype: Any  # in which devices add the gradients of the kernel

    @property
    def token_axes(self) -> Names:
        """The mesh axes of the tokens."""
        return tuple(name for entry in self.tokens for name in as_names(entry))

    @property
    def specs(self) -> Inputs:
        """The specs of the arguments and of their gradients."""
        tokens, features, vocabulary = self.tokens, self.features or None, self.vocabulary or None
        return Inputs(P(*tokens, None), P(features, vocabulary), P(vocabulary), P(*tokens), P(*tokens))


def _layout(inputs: Inputs) -> Layout | None:
    """The layout on the current mesh; None without one, where all of its axes are mapped, or of size 1."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    free = tuple(name for name, kind in kinds.items() if kind != AxisType.Manual)
    explicit = {kinds[name] == AxisType.Explicit for name in free}
    if len(explicit) != 1 or inputs.labels.ndim == 0:
        return None
    if explicit == {True}:
        return _explicit_layout(inputs, mesh.shape, free)
    letters = ["B"] if inputs.labels.ndim == 1 else ["B", "T"]
    shape = (*inputs.labels.shape[inputs.labels.ndim - len(letters) :], inputs.kernel.shape[1])
    spec = activation_spec("linear_cross_entropy", " ".join([*letters, "V"]), shape)
    tokens = (*[None] * (inputs.labels.ndim - len(letters)), *spec[:-1])
    token_axes = {name for entry in tokens for name in as_names(entry)}
    rule = as_names(current_rules().parameters.get("D"))
    features = tuple(name for name in (name.rstrip("?") for name in rule) if name in token_axes)
    return _checked(
        Layout(tokens, features, as_names(spec[-1]), free, sum_dtype(inputs.hidden)), inputs, mesh.shape
    )


def _explicit_layout(inputs: Inputs, sizes: Any, free: Names) -> Layout | None:
    """The layout that the types state."""
    hidden, kernel = (jax.typeof(x).sharding.spec for x in (inputs.hidden, inputs.kernel))
    tokens = tuple(hidden)[: inputs.labels.ndim]
    tokens = (*tokens, *[None] * (inputs.labels.ndim - len(tokens)))
    token_axes = {name for entry in tokens for name in as_names(entry)}
    rows, columns = (as_names(entry) for entry in (*kernel, None, None)[:2])
    features = tuple(name for name in rows if name in token_axes)
    vocabulary = tuple(name for name in columns if name not in token_axes)
    return _checked(Layout(tokens, features, vocabulary, free, sum_dtype(inputs.hidden)), inputs, sizes)


def _checked(layout: Layout, inputs: Inputs, sizes: Any) -> Layout | None:
    if math.prod(sizes[name] for name in (*layout.token_axes, *layout.vocabulary)) == 1:
        return None
    if inputs.kernel.shape[0] % math.prod(sizes[name] for name in layout.features):
        return layout._replace(features=())
    return layout


def _run(
    inputs: Inputs, wanted: Inputs, *, loss: Loss, chunk_size: int, layout: Layout | None
) -> tuple[SumWeight, Inputs]:
    """``(sum, weight)`` and the wanted gradients, None for the others, in the dtypes of the inputs."""
    run = functools.partial(_run_on_device, loss=loss, chunk_size=chunk_size, layout=layout, wanted=wanted)
    if layout is None:
        return run(inputs)
    specs = layout.specs
    if inputs.bias is None:
        specs = specs._replace(bias=None)
    gradients = Inputs(*(spec if needed else None for spec, needed in zip(specs, wanted, strict=True)))
    inputs = jax.tree.map(reshard, inputs, specs)
    mapped = jax.shard_map(
        run, in_specs=(specs,), out_specs=((P(), P()), gradients), axis_names=set(layout.free)
    )
    return mapped(inputs)


def _run_on_device(
    inputs: Inputs, *, loss: Loss, chunk_size: int, layout: Layout | None, wanted: Inputs
) -> tuple[SumWeight, Inputs]:
    """`_run` with the arrays of one device, or all of them without a layout."""
    token_axes, features, vocabulary = (
        ((), (), ()) if layout is None else (layout.token_axes, layout.features, layout.vocabulary)
    )
    dtypes = Inputs(*(None if x is None else x.dtype for x in inputs))
    inputs = inputs._replace(kernel=inputs.kernel.astype(inputs.hidden.dtype))
    if features:
        inputs = inputs._replace(kernel=jax.lax.all_gather(inputs.kernel, features, axis=0, tiled=True))
    (total, weight), gradients = _loop(inputs, loss, chunk_size, vocabulary, wanted)
    if token_axes:
        total, weight = jax.lax.psum((total, weight), token_axes)
    hidden, kernel, bias, weights, _ = gradients
    if wanted.hidden and vocabulary:
        hidden = jax.lax.psum(hidden, vocabulary)
    if wanted.kernel and layout is not None and token_axes:
        kernel = kernel.astype(layout.sum_dtype)
    if wanted.kernel and features:
        kernel = jax.lax.psum_scatter(kernel, features, scatter_dimension=0, tiled=True)
    if wanted.kernel and (rest := tuple(name for name in token_axes if name not in features)):
        kernel = jax.lax.psum(kernel, rest)
    if wanted.bias and token_axes:
        bias = jax.lax.psum(bias, token_axes)
    summed = Inputs(hidden, kernel, bias, weights)
    return (total, weight), Inputs(
        *(x if x is None else x.astype(dtype) for x, dtype in zip(summed, dtypes, strict=True))
    )


def _loop(
    inputs: Inputs, loss: Loss, chunk_size: int, vocabulary: Names, wanted: Inputs
) -> tuple[SumWeight, Inputs]:
    """A scan over chunks of tokens: the loss and its gradients, the kernel's and the bias's in float32."""
    shape, D = inputs.labels.shape, inputs.hidden.shape[-1]
    n = math.prod(shape)
    n_chunks, size = _chunks(n, chunk_size)
    kernel, bias = inputs.kernel, inputs.bias
    used = None if loss.ignore_index is None else inputs.labels != loss.ignore_index
    if used is None and (is_symbolic(n) or n_chunks * size != n):
        used = jnp.ones_like(inputs.labels, bool)  # False in the padding

    def split(x: Array, rank: int) -> Array:  # [..., (D)] -> [n_chunks, size, (D)]
        flat = x.reshape(n, *x.shape[x.ndim - rank :])
        flat = jnp.pad(flat, [(0, n_chunks * size - n), *[(0, 0)] * rank])
        # A chunk takes every n_chunks-th token, so that sharded tokens stay sharded in every chunk.
        return flat.reshape(size, n_chunks, *flat.shape[1:]).swapaxes(0, 1)

    def join(x: Array, shape: tuple[int, ...]) -> Array:
        return x.swapaxes(0, 1).reshape(n_chunks * size, *x.shape[2:])[:n].reshape(shape)

    def chunk(sums: tuple[Any, Any], xs: tuple[Array, Array, Array, Array | None]) -> tuple[Any, Any]:
        hidden, labels, weights, used = xs
        unused = weights == 0 if used is None else (weights == 0) | ~used
        # The gradient of the kernel is a product with the hidden states, and 0 * NaN is NaN.
        hidden = jnp.where((unused & ~jnp.isfinite(hidden).all(-1))[..., None], 0, hidden)
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        if bias is not None:
            logits = logits + jnp.broadcast_to(bias.astype(jnp.float32), logits.shape)
        tokens = token_losses(
            logits, labels, weights, used, loss, vocabulary=vocabulary, gradient=any(wanted[:3])
        )
        total, weight, by_weight = weighted(tokens, weights, used)
        by_hidden = None
        if wanted.hidden:
            # In the dtype of the computation, like the logits: float32 operands would take many passes.
            by_logits = tokens.gradient.astype(hidden.dtype)
            by_hidden = jnp.matmul(by_logits, kernel.T, preferred_element_type=jnp.float32)
            by_hidden = by_hidden if vocabulary else by_hidden.astype(hidden.dtype)
        by_kernel, by_bias = sums
        if wanted.kernel:
            by_logits = tokens.gradient.astype(hidden.dtype)
            # bfloat16 would lose the later chunks.
            by_kernel += jnp.matmul(hidden.T, by_logits, preferred_element_type=jnp.float32)
        if wanted.bias:
            by_bias += tokens.gradient.sum(0)
        return (by_kernel, by_bias), (total, weight, by_hidden, by_weight if wanted.weights else None)

    labels = inputs.labels.astype(jnp.int32) if inputs.labels.dtype.itemsize < 4 else inputs.labels
    xs = split(inputs.hidden, 1), split(labels, 0), split(inputs.weights, 0), used
    xs = (*xs[:3], None if used is None else split(used, 0))
    zeros = [
        vary_with(jnp.zeros_like(x, jnp.float32), inputs) if needed else None
        for x, needed in ((kernel, wanted.kernel), (bias, wanted.bias))
    ]
    (by_kernel, by_bias), (totals, chunk_weights, by_hidden, by_weight) = jax.lax.scan(
        chunk, tuple(zeros), xs
    )
    by_hidden = join(by_hidden, (*shape, D)) if wanted.hidden else None
    by_weight = join(by_weight, shape) if wanted.weights else None
    return (totals.sum(), chunk_weights.sum()), Inputs(by_hidden, by_kernel, by_bias, by_weight)


def weighted(tokens: Tokens, weights: Array, used: Array | None) -> tuple[Array, Array, Array]:
    """The sum of the losses, that of the weights, and the gradient of the first by the weights."""
    factor, by_weight = jnp.where(tokens.valid, weights, jnp.nan), jnp.where(tokens.valid, tokens.losses, 0)
    if used is not None:
        factor, by_weight = jnp.where(used, factor, 0), jnp.where(used, by_weight, 0)
        weights = jnp.where(used, weights, 0)
    return jnp.sum(factor * tokens.losses), jnp.sum(weights), by_weight


def _chunks(n_tokens: int, chunk_size: int) -> tuple[int, int]:
    """The number of chunks and their size: even, or of ``chunk_size`` if the number of tokens is symbolic."""
    n_chunks = -(-n_tokens // chunk_size)
    if is_symbolic(n_tokens):
        return n_chunks, chunk_size
    n_chunks = max(1, n_chunks)
    return n_chunks, -(-n_tokens // n_chunks)

"""Model FLOPs of a training step: by formula, and counted in a traced program."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
from flax import nnx

from tfm_jax import nn
from tfm_jax.nn.functional import Parameter, parameters_of

__all__ = ["Product", "step_flops", "traced_flops", "traced_products"]

_INPUTS = ({"V", "D"}, {"T", "D"}, {"Y", "D"})
"""The letters of tables that are looked up: tokens, positions, token types."""
_WITH_LOGITS = (nn.Decoder, nn.EncoderDecoder, nn.MaskedLanguageModel)


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """The positions of a batch that a parameter is applied to."""

    examples: int
    target: int
    source: int


def step_flops(
    model: nn.Pure[nnx.Module], *, examples: int, length: int, source_length: int | None = None
) -> float:
    """Model FLOPs of a training step, by formula: what MFU counts.

    Equivalent to (a decoder)::

        N = sum(size of each kernel)  # with that of the logits, without the embedding
        3 * examples * length * (2 * N + 4 * L * length * N_heads * H)

    A product of a token with a kernel of N numbers is 2 N FLOPs, and the backward pass is twice the forward
    pass. Attention counts all T x S pairs, also those that a mask excludes: a causal mask halves the work,
    not this number. What is recomputed (``remat``) does not count. Of experts, the ``top_k`` that a token is
    routed to and the shared ones count. Lookups, norms and activations do not.

    Args:
      model: from ``nn.functionalize``; its parameters are counted by their letters, ``model.axes()``.
        Parameters without letters do not count.
      examples: sequences or images in a step, over all devices.
      length: positions of a sequence: T of a decoder, padding included. For images it is the number of
        patches.
      source_length: S, of an encoder-decoder; None is ``length``.

    Returns:
      The FLOPs of all devices.

    Chowdhery et al. 2022 ("PaLM"), appendix B.
    """
    sizes = _Sizes(examples, examples * length, examples * (source_length or length))
    parameters = parameters_of(model)
    is_pair = issubclass(_class_of(model), nn.EncoderDecoder)
    forward = sum(2.0 * _kernel_size(x) * _positions(x, sizes, is_pair) for x in parameters)
    if issubclass(_class_of(model), _WITH_LOGITS) and not any(_letters(x) == ["D", "V"] for x in parameters):
        config = model.config
        forward += 2.0 * config.d_model * config.vocab_size * sizes.target
    return 3 * (forward + _attention_flops(model, parameters, examples, length, source_length or length))


def _class_of(model: nn.Pure[nnx.Module]) -> type:
    return model.module if isinstance(model.module, type) else object


def _letters(parameter: Parameter) -> list[str]:
    return [letter for letter in (parameter.axes or "").split() if letter != "L"]


def _kernel_size(parameter: Parameter) -> float:
    """The numbers of a kernel that one position is multiplied with; 0 for other parameters."""
    letters = _letters(parameter)
    size, names = math.prod(parameter.shape) * parameter.active, list(letters)
    if "E" in letters and len(letters) > 2:  # not the router, which all experts share
        names.remove("E")
    is_kernel = "D" in names and len(names) > 1 and "?" not in names
    return size if is_kernel and (letters == ["D", "V"] or set(names) not in _INPUTS) else 0.0


def _positions(parameter: Parameter, sizes: _Sizes, is_pair: bool) -> int:
    """How many positions of a batch are multiplied with a parameter."""
    path = [str(key) for key in parameter.path]
    if "pooler" in path or "C" in _letters(parameter):  # of a class: one position of an example
        return sizes.examples
    if not is_pair:
        return sizes.target
    from_source = path[0] == "encoder" or ("cross_attention" in path and {"key", "value"} & set(path))
    return sizes.source if from_source else sizes.target


def _attention_flops(
    model: nn.Pure[nnx.Module], parameters: Sequence[Parameter], examples: int, target: int, source: int
) -> float:
    """The two products of each attention layer with its weights, T x S, in the forward pass."""
    is_pair = issubclass(_class_of(model), nn.EncoderDecoder)
    total = 0.0
    for x in parameters:
        path = [str(key) for key in x.path]
        if path[-2:] != ["query", "kernel"] or "N" not in _letters(x):
            continue
        shape = dict(zip((x.axes or "").split(), x.shape, strict=True))
        queries = source if is_pair and path[0] == "encoder" else target
        keys = source if "cross_attention" in path else queries
        total += 4.0 * shape.get("L", 1) * examples * queries * keys * shape["N"] * shape["H"]
    return total


@dataclasses.dataclass(frozen=True)
class Product:
    """A ``dot_general`` of a traced program.

    Args:
      dtypes: of the two operands and the result.
      flops: of one execution, over all devices.
      count: executions.
    """

    dtypes: tuple[str, str, str]
    flops: float
    count: int


def traced_flops(jaxpr: jax.extend.core.ClosedJaxpr) -> float:
    """The FLOPs of the matrix products of a traced function: scans times their length.

    Args:
      jaxpr: from ``jax.make_jaxpr(function)(*arguments)``.
    """
    return sum(x.flops * x.count for x in traced_products(jaxpr))


def traced_products(jaxpr: jax.extend.core.ClosedJaxpr) -> list[Product]:
    """The matrix products of a traced function; a ``while`` counts once, and all branches of a ``cond``."""
    return list(_products(jaxpr.jaxpr, 1, 1))


def _products(jaxpr: Any, count: int, devices: int) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            left, right = (x.aval for x in equation.invars[:2])
            (contracted, _), _ = params["dimension_numbers"]
            terms = math.prod(left.shape[i] for i in contracted)
            result = equation.outvars[0].aval
            dtypes = (str(left.dtype), str(right.dtype), str(result.dtype))
            yield Product(dtypes, 2.0 * math.prod(result.shape) * terms * devices, count)
            continue
        times = count * params["length"] if name == "scan" else count
        parts = devices
        if name == "shard_map":  # its shapes are those of one device
            sizes = dict(params["mesh"].shape)
            parts *= math.prod(sizes[axis] for axis in params.get("manual_axes", sizes))
        for inner in jax.extend.core.jaxprs_in_params(params):
            yield from _products(inner, times, parts)

"""Conversion of a ``torch.nn.Transformer``, or of its encoder, with an embedding."""

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.pretrained.weights.files import Weights, safetensors_errors
from tfm_jax.pretrained.weights.read import (
    find_mismatches,
    flatten_with_paths,
    read_params,
    resolve_shardings,
)
from tfm_jax.pretrained.weights.tensor_map import (
    FLATTEN,
    WeightMapping,
    build_tensor_map,
    dense,
    mlp,
    transpose,
)
from tfm_jax.types import Array, Params

__all__ = ["from_torch_transformer"]

_log = logging.getLogger(__name__)
# Fields of nn.Config that a state dict does not determine, with torch's defaults; and those that it does.
_DEFAULTS = {"norm_placement": "post", "feed_forward": nn.Mlp("relu"), "norm": nn.LayerNorm(1e-5)}
_FROM_TENSORS = {
    *("vocab_size", "d_model", "n_layers", "n_decoder_layers", "d_ff", "final_norm", "attention_bias"),
    *("tie_embeddings", "share_embeddings", "logits_bias"),
}
State = Mapping[str, Any]
"""A state dict: tensors of torch, or arrays, by name."""
_Module = type[nn.EncoderDecoder] | type[nn.Encoder]


def from_torch_transformer(
    weights: State | str | Path,
    n_heads: int,
    *,
    embedding: Array,
    source_embedding: Array | None = None,
    output: Array | None = None,
    output_bias: Array | None = None,
    **fields: Any,
) -> tuple[Pure, Params, nn.Config]:
    """Converts a ``torch.nn.Transformer`` to an ``EncoderDecoder``, or its encoder to an ``Encoder``.

    Equivalent to::

        hidden = transformer(embedding[source], embedding[target], tgt_mask=causal)      # positions added
        logits = hidden @ output.T + output_bias
        hidden = encoder(embedding[tokens])                # of a torch.nn.TransformerEncoder, positions added

    Args:
      weights: the state dict of the module, or a safetensors file of it, in any floating dtype; tensors or
        parameters of torch, or arrays. A common prefix of the names, such as "module.", is removed and
        logged. ``batch_first`` makes no difference: our models read [..., T].
      n_heads: N, the module's ``nhead``; the weights do not determine it.
      embedding: [V, D], of both sides, or of the target alone where there is a ``source_embedding``.
      source_embedding: [V, D]; None is ``embedding``. An encoder has neither this nor an output.
      output: [V, D], the weight of the ``Linear`` for the logits; None is ``embedding``.
      output_bias: [V], its bias; None is no bias.
      **fields: of ``nn.Config``, those that the tensors do not determine. The defaults are torch's:
        ``norm_placement`` "post" ("pre" is ``norm_first=True``), ``feed_forward`` ``Mlp("relu")``, ``norm``
        ``LayerNorm(1e-5)``. ``positions`` and ``scale_embeddings``, which torch's module lacks, are the
        paper's.

    Returns:
      ``(model, params, config)``; the parameters are float32. ``apply(params, source, target,
      source_mask=masks.padding(valid))`` returns the logits; the causal mask is built in. For an encoder,
      ``apply(params, tokens, masks.padding(valid))`` returns the vectors.

    Raises:
      ValueError: for tensors that are missing, unknown or of another shape, by name; for a decoder without
        its encoder; for a field that the tensors determine; for another norm than ``LayerNorm`` and another
        feed-forward than ``Mlp``; for variants with parameters that the state dict lacks, such as ``Learned``
        positions.

    Vaswani et al. 2017, "Attention Is All You Need".
    """
    extra = {"embedding": embedding, "source_embedding": source_embedding}
    extra |= {"output.weight": output, "output.bias": output_bias}
    extra = {name: x for name, x in extra.items() if x is not None}
    state = _read(weights) if isinstance(weights, str | Path) else weights
    state, module = _without_prefix(state)
    if unexpected := sorted(extra.keys() & state.keys()):
        raise ValueError(f"{_NAME}: got {unexpected} in the state dict; wanted the module's tensors.")
    if module is nn.Encoder and (unexpected := sorted(extra.keys() - {"embedding"})):
        raise ValueError(f"{_NAME}: got {', '.join(unexpected)} with an encoder; wanted its embedding alone.")
    config = _config(state, extra, n_heads, fields, module)
    tensors = {**state, **extra}
    found = Weights({name: tuple(x.shape) for name, x in tensors.items()}, lambda name: _array(tensors[name]))
    model = nn.functionalize(module, config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    mappings = list(_mappings(config) if module is nn.EncoderDecoder else _encoder_mappings(config))
    paths = {path: leaf.shape for path, leaf in flatten_with_paths(shapes)}
    if absent := sorted(paths.keys() - {mapping.param for mapping in mappings}):
        got = ", ".join(f"{name}={value!r:.200}" for name, value in fields.items())
        raise ValueError(
            f"{_NAME}: got {got}, with the parameters {', '.join(absent)}; wanted fields that add none: a "
            "torch.nn.Transformer has no such tensors."
        )
    tensor_map = build_tensor_map(mappings, paths)
    if wrong := find_mismatches(found, tensor_map, ()):
        raise ValueError(wrong.message("the state dict"))
    params = read_params(found, tensor_map, shapes, jnp.dtype("float32"), resolve_shardings(None, shapes))
    return model, params, config


_NAME = "from_torch_transformer"


def _read(path: str | Path) -> State:
    if Path(path).suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(
            f"{_NAME}: got {path}, a PyTorch pickle; wanted a safetensors file or a state dict. Pass "
            "torch.load(path, weights_only=True)."
        )
    with safetensors_errors(path):
        return load_file(path)


def _array(tensor: Any) -> np.ndarray:
    """An array of NumPy, from a tensor or parameter of torch, without importing torch."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if "bfloat16" in str(tensor.dtype) else tensor  # NumPy has no bfloat16
    return np.asarray(tensor)


def _without_prefix(state: State) -> tuple[State, _Module]:
    """The tensors without a prefix of the module's own names, and our module."""
    first = "layers.0.linear1.weight"
    stacks = sorted(name.removesuffix(first) for name in state if name.endswith(first))
    prefix = stacks[0].removesuffix("decoder.") if stacks else ""
    if stacks == [f"{prefix}decoder.", f"{prefix}encoder."]:
        module = nn.EncoderDecoder
    elif len(stacks) == 1:
        prefix, module = stacks[0], nn.Encoder
    else:
        raise ValueError(
            f"{_NAME}: got the tensors {sorted(state)[:9]}; wanted the state dict of a torch.nn.Transformer, "
            f"with encoder.{first} and decoder.{first}."
        )
    if module is nn.Encoder and f"{prefix}layers.0.multihead_attn.in_proj_weight" in state:
        raise ValueError(
            f"{_NAME}: got the state dict of a torch.nn.TransformerDecoder alone; wanted that of the "
            "torch.nn.Transformer, with its encoder."
        )
    if prefix:
        _log.warning("the names of the tensors start with %r: removed", prefix)
    return {name.removeprefix(prefix): x for name, x in state.items()}, module


def _config(state: State, extra: State, n_heads: int, fields: dict[str, Any], module: _Module) -> nn.Config:
    """The ``nn.Config`` of the shapes of the tensors and of the fields."""
    if unexpected := sorted(fields.keys() & _FROM_TENSORS):
        raise ValueError(f"{_NAME}: got {', '.join(unexpected)}; wanted no field that the tensors determine.")
    fields = {**_DEFAULTS, **fields}
    for name, kind in (("norm", nn.LayerNorm), ("feed_forward", nn.Mlp)):
        if type(fields[name]) is not kind:
            raise ValueError(
                f"{_NAME}: got {name}={fields[name]!r:.200}; wanted {kind.__name__}: a "
                "torch.nn.Transformer has no other."
            )
    stack = "" if module is nn.Encoder else "encoder."
    first = state[f"{stack}layers.0.linear1.weight"]
    bias = f"{stack}layers.0.linear1.bias" in state
    if module is nn.EncoderDecoder:
        fields |= {
            "n_decoder_layers": _count_layers(state, "decoder."),
            "tie_embeddings": "output.weight" not in extra,
            "share_embeddings": "source_embedding" not in extra,
            "logits_bias": "output.bias" in extra,
        }
    return nn.Config(
        vocab_size=extra["embedding"].shape[0],
        d_model=first.shape[1],
        n_layers=_count_layers(state, stack),
        n_heads=n_heads,
        d_ff=first.shape[0],
        final_norm=f"{stack}norm.weight" in state,
        attention_bias=bias,
        **{**fields, "feed_forward": dataclasses.replace(fields["feed_forward"], bias=bias)},
    )


def _count_layers(state: State, stack: str) -> int:
    numbers = (re.match(rf"{re.escape(stack)}layers\.(\d+)\.", name) for name in state)
    return max((int(found[1]) for found in numbers if found), default=0) + 1


def _mappings(config: nn.Config) -> Iterator[WeightMapping]:
    """The tensors of both stacks, the embeddings and the output."""
    yield from _stack(config, "encoder", "encoder.", ("attention_norm", "feed_forward_norm"))
    decoder_norms = ("attention_norm", "cross_attention_norm", "feed_forward_norm")
    yield from _stack(config, "decoder", "decoder.", decoder_norms)
    yield WeightMapping("embedding/table", "embedding")
    yield WeightMapping("source_embedding/table", "source_embedding")
    yield WeightMapping("head/projection/kernel", "output.weight", transpose(1))
    yield WeightMapping("logits_bias", "output.bias")


def _encoder_mappings(config: nn.Config) -> Iterator[WeightMapping]:
    """The tensors of an encoder and its embedding."""
    yield from _stack(config, "stack", "", ("attention_norm", "feed_forward_norm"))
    yield WeightMapping("embedding/table", "embedding")


def _stack(config: nn.Config, param: str, prefix: str, norms: tuple[str, ...]) -> Iterator[WeightMapping]:
    """The tensors of one stack, whose sublayers have these norms."""
    layers, tensor = f"{param}/layers", f"{prefix}layers.{{layer}}"
    yield from _fused(f"{layers}/attention", f"{tensor}.self_attn")
    if "cross_attention_norm" in norms:
        yield from _fused(f"{layers}/cross_attention", f"{tensor}.multihead_attn")
    yield from mlp(f"{layers}/feed_forward", w_in=f"{tensor}.linear1", w_out=f"{tensor}.linear2")
    for i, name in enumerate(norms, 1):
        yield from _norm(config, f"{layers}/{name}", f"{tensor}.norm{i}")
    yield from _norm(config, f"{param}/norm", f"{prefix}norm")


def _fused(param: str, tensor: str) -> Iterator[WeightMapping]:
    """Attention with the projections of queries, keys and values concatenated in one tensor."""
    for name in ("query", "key", "value"):
        yield WeightMapping(f"{param}/{name}/kernel", f"{tensor}.in_proj_weight", transpose(2), concat_axis=0)
        yield WeightMapping(f"{param}/{name}/bias", f"{tensor}.in_proj_bias", FLATTEN, concat_axis=0)
    yield from dense(f"{param}/output", f"{tensor}.out_proj")


def _norm(config: nn.Config, param: str, tensor: str) -> Iterator[WeightMapping]:
    """A norm; with ``bias=False`` torch's has no bias, and ours is 0."""
    yield WeightMapping(f"{param}/scale", f"{tensor}.weight")
    yield WeightMapping(f"{param}/bias", f"{tensor}.bias", optional=not config.attention_bias)

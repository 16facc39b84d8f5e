"""The weights of a plain ``torch.nn.Transformer``, or its encoder, with an embedding."""

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
# What a state dict does not say, as torch has it; and what it does say.
_DEFAULTS = {"norm_placement": "post", "feed_forward": nn.Mlp("relu"), "norm": nn.LayerNorm(1e-5)}
_SIZES = ("vocab_size", "d_model", "n_layers", "n_decoder_layers", "d_ff", "final_norm", "attention_bias")


def from_torch_transformer(
    weights: Mapping[str, Any] | str | Path,
    n_heads: int,
    *,
    embedding: Array,
    source_embedding: Array | None = None,
    output: Array | None = None,
    output_bias: Array | None = None,
    **fields: Any,
) -> tuple[Pure, Params, nn.Config]:
    """An ``EncoderDecoder`` with the weights of a ``torch.nn.Transformer``; an ``Encoder`` of its encoder's.

    Equivalent to::

        hidden = transformer(embedding[source], embedding[target], tgt_mask=causal)      # positions added
        logits = hidden @ output.T + output_bias
        hidden = encoder(embedding[tokens])                # of a torch.nn.TransformerEncoder, positions added

    Args:
      weights: the state dict of the module, or a safetensors file of it, in any floating dtype; tensors or
        parameters of torch, or arrays. What all names begin with, such as "module.", is left out, and a line
        says so. Whether it was ``batch_first`` makes no difference: ours reads [..., T].
      n_heads: N, the module's ``nhead``, which its weights do not say.
      embedding: [V, D], a vector a token; of the target alone where there is a ``source_embedding``.
      source_embedding: [V, D]; None is ``embedding``. An encoder alone has neither this nor an output.
      output: [V, D], the weight of the ``Linear`` that gives the logits; None is ``embedding``.
      output_bias: [V], its bias; None for none.
      **fields: of ``nn.Config``, those that the tensors do not say. As in torch, ``norm_placement`` is "post"
        (``norm_first=True`` is "pre"), ``feed_forward`` is ``Mlp("relu")``, ``norm`` is ``LayerNorm(1e-5)``;
        ``positions`` and ``scale_embeddings`` are the paper's, and torch's module has neither.

    Returns:
      ``(model, params, config)``; the parameters are float32. ``apply(params, source, target,
      source_mask=masks.padding(valid))`` gives the logits; the causal mask is the model's own. Of an encoder
      alone ``apply(params, tokens, masks.padding(valid))`` gives the vectors.

    Raises:
      ValueError: for tensors that are missing, unknown or of another shape, by name; for a decoder alone,
        which reads what an encoder gives; for a field that the tensors say; for ``Learned`` positions and a
        bias of positions, which need tables that are not there.

    Vaswani et al. 2017, "Attention Is All You Need".
    """
    own = {"embedding": embedding, "source_embedding": source_embedding, "output.weight": output}
    own = {name: x for name, x in (own | {"output.bias": output_bias}).items() if x is not None}
    theirs = _read(weights) if isinstance(weights, str | Path) else weights
    theirs, module = _bare(theirs)
    if taken := sorted(own.keys() & theirs.keys()):
        raise ValueError(f"the state dict of a torch.nn.Transformer has no {taken}: pass its tensors alone")
    if module is nn.Encoder and (more := sorted(own.keys() - {"embedding"})):
        raise ValueError(f"an encoder alone gives vectors, and reads no {', '.join(more)}: leave it out")
    config = _config(theirs, own, n_heads, fields, module)
    every = {**theirs, **own}
    found = Weights({name: tuple(x.shape) for name, x in every.items()}, lambda name: _array(every[name]))
    model = nn.functionalize(module, config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    entries = _entries(config) if module is nn.EncoderDecoder else _encoder_entries(config)
    tensors = build_tensor_map(entries, {path: leaf.shape for path, leaf in flatten_with_paths(shapes)})
    if wrong := find_mismatches(found, tensors, ()):
        raise ValueError(wrong.message("the state dict"))
    params = read_params(found, tensors, shapes, jnp.dtype("float32"), resolve_shardings(None, shapes))
    return model, params, config


def _read(path: str | Path) -> Mapping[str, Any]:
    if Path(path).suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(
            f"{path} is a pickle of torch; wanted a safetensors file or a state dict: pass "
            "torch.load(path, weights_only=True)"
        )
    with safetensors_errors(path):
        return load_file(path)


def _array(tensor: Any) -> np.ndarray:
    """The numbers of an array, or of a tensor or a parameter of torch, which is not imported for it."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if "bfloat16" in str(tensor.dtype) else tensor  # which NumPy knows not
    return np.asarray(tensor)


def _bare(theirs: Mapping[str, Any]) -> tuple[Mapping[str, Any], type[nn.EncoderDecoder] | type[nn.Encoder]]:
    """The tensors without what their names begin with before the module's own, and our module."""
    first = "layers.0.linear1.weight"
    stacks = sorted(name.removesuffix(first) for name in theirs if name.endswith(first))
    prefix = stacks[0].removesuffix("decoder.") if stacks else ""
    if stacks == [f"{prefix}decoder.", f"{prefix}encoder."]:
        module = nn.EncoderDecoder
    elif len(stacks) == 1:
        prefix, module = stacks[0], nn.Encoder
    else:
        raise ValueError(
            f"no state dict of a torch.nn.Transformer: it has no encoder.{first} and decoder.{first}, only "
            f"{sorted(theirs)[:9]}"
        )
    if module is nn.Encoder and f"{prefix}layers.0.multihead_attn.in_proj_weight" in theirs:
        raise ValueError(
            "the state dict of a torch.nn.TransformerDecoder alone, which reads what an encoder gives: pass "
            "that of the torch.nn.Transformer"
        )
    if prefix:
        _log.warning("the names of the tensors begin with %r: it is left out", prefix)
    return {name.removeprefix(prefix): x for name, x in theirs.items()}, module


def _config(
    theirs: Mapping[str, Any],
    own: Mapping[str, Any],
    n_heads: int,
    fields: dict[str, Any],
    module: type[nn.EncoderDecoder] | type[nn.Encoder],
) -> nn.Config:
    """The config that the shapes of the tensors and the fields make together."""
    if said := sorted(fields.keys() & {*_SIZES, "tie_embeddings", "share_embeddings", "logits_bias"}):
        raise ValueError(f"{', '.join(said)}: the tensors say it; leave it out")
    if isinstance(fields.get("positions"), nn.Learned | nn.RelativeBias):
        raise ValueError(f"{fields['positions']} needs a table, and a torch.nn.Transformer has none")
    alone = module is nn.Encoder
    stack = "" if alone else "encoder."
    first = theirs[f"{stack}layers.0.linear1.weight"]
    biased = f"{stack}layers.0.linear1.bias" in theirs
    fields = {**_DEFAULTS, **fields}
    of_both = {
        "n_decoder_layers": _layers(theirs, "decoder."),
        "tie_embeddings": "output.weight" not in own,
        "share_embeddings": "source_embedding" not in own,
        "logits_bias": "output.bias" in own,
    }
    return nn.Config(
        vocab_size=own["embedding"].shape[0],
        d_model=first.shape[1],
        n_layers=_layers(theirs, stack),
        n_heads=n_heads,
        d_ff=first.shape[0],
        final_norm=f"{stack}norm.weight" in theirs,
        attention_bias=biased,
        **({} if alone else of_both),
        **{**fields, "feed_forward": dataclasses.replace(fields["feed_forward"], bias=biased)},
    )


def _layers(theirs: Mapping[str, Any], stack: str) -> int:
    numbers = (re.match(rf"{re.escape(stack)}layers\.(\d+)\.", name) for name in theirs)
    return max((int(found[1]) for found in numbers if found), default=0) + 1


def _entries(config: nn.Config) -> Iterator[WeightMapping]:
    """The tensors of both stacks, and what is beside them."""
    yield from _stack(config, "encoder", "encoder.", ("attention_norm", "feed_forward_norm"))
    decoder_norms = ("attention_norm", "cross_attention_norm", "feed_forward_norm")
    yield from _stack(config, "decoder", "decoder.", decoder_norms)
    yield WeightMapping("embedding/table", "embedding")
    yield WeightMapping("source_embedding/table", "source_embedding")
    yield WeightMapping("head/projection/kernel", "output.weight", transpose(1))
    yield WeightMapping("logits_bias", "output.bias")


def _encoder_entries(config: nn.Config) -> Iterator[WeightMapping]:
    """The tensors of an encoder alone, and its embedding."""
    yield from _stack(config, "stack", "", ("attention_norm", "feed_forward_norm"))
    yield WeightMapping("embedding/table", "embedding")


def _stack(config: nn.Config, ours: str, prefix: str, norms: tuple[str, ...]) -> Iterator[WeightMapping]:
    """The tensors of one stack, whose sublayers begin or end with these norms."""
    layers, theirs = f"{ours}/layers", f"{prefix}layers.{{layer}}"
    yield from _fused(f"{layers}/attention", f"{theirs}.self_attn")
    if "cross_attention_norm" in norms:
        yield from _fused(f"{layers}/cross_attention", f"{theirs}.multihead_attn")
    yield from mlp(f"{layers}/feed_forward", w_in=f"{theirs}.linear1", w_out=f"{theirs}.linear2")
    for i, name in enumerate(norms, 1):
        yield from _norm(config, f"{layers}/{name}", f"{theirs}.norm{i}")
    yield from _norm(config, f"{ours}/norm", f"{prefix}norm")


def _fused(ours: str, theirs: str) -> Iterator[WeightMapping]:
    """Attention whose queries, keys and values stand in one tensor, one below the other."""
    for name in ("query", "key", "value"):
        yield WeightMapping(f"{ours}/{name}/kernel", f"{theirs}.in_proj_weight", transpose(2), concat_axis=0)
        yield WeightMapping(f"{ours}/{name}/bias", f"{theirs}.in_proj_bias", FLATTEN, concat_axis=0)
    yield from dense(f"{ours}/output", f"{theirs}.out_proj")


def _norm(config: nn.Config, ours: str, theirs: str) -> Iterator[WeightMapping]:
    """With ``bias=False`` theirs have no shift, which is a shift by 0."""
    yield WeightMapping(f"{ours}/scale", f"{theirs}.weight")
    yield WeightMapping(f"{ours}/bias", f"{theirs}.bias", optional=not config.attention_bias)

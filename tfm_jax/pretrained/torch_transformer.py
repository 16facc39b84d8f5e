"""The weights of a plain ``torch.nn.Transformer``, with an embedding and an output of one's own."""

import dataclasses
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
from tfm_jax.pretrained.files import Weights, whole
from tfm_jax.pretrained.fill import differences, flat, read_params, shardings_of
from tfm_jax.pretrained.names import FLAT, Entry, dense, layout, mlp, transposed
from tfm_jax.types import Array, Params

__all__ = ["from_torch_transformer"]

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
    """An ``EncoderDecoder`` with the weights of a ``torch.nn.Transformer``.

    Equivalent to::

        hidden = transformer(embedding[source], embedding[target], tgt_mask=causal)      # positions added
        logits = hidden @ output.T + output_bias

    Args:
      weights: the state dict of the module, or a safetensors file of it. Whether it was ``batch_first`` makes
        no difference: ours reads [..., T].
      n_heads: N, the module's ``nhead``, which its weights do not say.
      embedding: [V, D], a vector a token; of the target alone where there is a ``source_embedding``.
      source_embedding: [V, D]; None is ``embedding``.
      output: [V, D], the weight of the ``Linear`` that gives the logits; None is ``embedding``.
      output_bias: [V], its bias; None for none.
      **fields: of ``nn.Config``, those that the tensors do not say. As in torch, ``norm_placement`` is "post"
        (``norm_first=True`` is "pre"), ``feed_forward`` is ``Mlp("relu")``, ``norm`` is ``LayerNorm(1e-5)``;
        ``positions`` and ``scale_embeddings`` are the paper's, and torch's module has neither.

    Returns:
      ``(model, params, config)``; the parameters are float32. ``apply(params, source, target,
      source_mask=masks.padding(valid))`` gives the logits; the causal mask is the model's own.

    Raises:
      ValueError: for tensors that are missing, unknown or of another shape, by name; for a field that the
        tensors say; for ``Learned`` positions and a bias of positions, which need tables that are not there.

    Vaswani et al. 2017, "Attention Is All You Need".
    """
    theirs = weights
    if isinstance(weights, str | Path):
        with whole(weights):
            theirs = load_file(weights)
    own = {"embedding": embedding, "source_embedding": source_embedding, "output.weight": output}
    own = {name: x for name, x in (own | {"output.bias": output_bias}).items() if x is not None}
    if taken := sorted(own.keys() & theirs.keys()):
        raise ValueError(f"the state dict of a torch.nn.Transformer has no {taken}: pass its tensors alone")
    config = _config(theirs, own, n_heads, fields)
    every = {**theirs, **own}
    found = Weights({name: tuple(x.shape) for name, x in every.items()}, lambda name: np.asarray(every[name]))
    model = nn.functionalize(nn.EncoderDecoder, config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tensors = layout(_entries(config), {path: leaf.shape for path, leaf in flat(shapes)})
    if wrong := differences(found, tensors, ()):
        raise ValueError(wrong.text("the state dict"))
    params = read_params(found, tensors, shapes, jnp.dtype("float32"), shardings_of(None, shapes))
    return model, params, config


def _config(
    theirs: Mapping[str, Any], own: Mapping[str, Any], n_heads: int, fields: dict[str, Any]
) -> nn.Config:
    """The config that the shapes of the tensors and the fields make together."""
    if said := sorted(fields.keys() & {*_SIZES, "tie_embeddings", "share_embeddings", "logits_bias"}):
        raise ValueError(f"{', '.join(said)}: the tensors say it; leave it out")
    if isinstance(fields.get("positions"), nn.Learned | nn.RelativeBias):
        raise ValueError(f"{fields['positions']} needs a table, and a torch.nn.Transformer has none")
    first = "encoder.layers.0.linear1.weight"
    if first not in theirs:
        raise ValueError(
            f"no state dict of a torch.nn.Transformer: it has no {first}, only {sorted(theirs)[:9]}"
        )
    biased = "encoder.layers.0.linear1.bias" in theirs
    fields = {**_DEFAULTS, **fields}
    return nn.Config(
        vocab_size=own["embedding"].shape[0],
        d_model=theirs[first].shape[1],
        n_layers=_layers(theirs, "encoder"),
        n_decoder_layers=_layers(theirs, "decoder"),
        n_heads=n_heads,
        d_ff=theirs[first].shape[0],
        final_norm="encoder.norm.weight" in theirs,
        attention_bias=biased,
        tie_embeddings="output.weight" not in own,
        share_embeddings="source_embedding" not in own,
        logits_bias="output.bias" in own,
        **{**fields, "feed_forward": dataclasses.replace(fields["feed_forward"], bias=biased)},
    )


def _layers(theirs: Mapping[str, Any], stack: str) -> int:
    numbers = (re.match(rf"{stack}\.layers\.(\d+)\.", name) for name in theirs)
    return max((int(found[1]) for found in numbers if found), default=0) + 1


def _entries(config: nn.Config) -> Iterator[Entry]:
    """The tensors of both stacks, and what is beside them."""
    for stack, norms in (
        ("encoder", ("attention_norm", "feed_forward_norm")),
        ("decoder", ("attention_norm", "cross_attention_norm", "feed_forward_norm")),
    ):
        layers, theirs = f"{stack}/layers", f"{stack}.layers.{{layer}}"
        yield from _fused(f"{layers}/attention", f"{theirs}.self_attn")
        if stack == "decoder":
            yield from _fused(f"{layers}/cross_attention", f"{theirs}.multihead_attn")
        yield from mlp(f"{layers}/feed_forward", w_in=f"{theirs}.linear1", w_out=f"{theirs}.linear2")
        for i, name in enumerate(norms, 1):
            yield from _norm(config, f"{layers}/{name}", f"{theirs}.norm{i}")
        yield from _norm(config, f"{stack}/norm", f"{stack}.norm")
    yield Entry("embedding/table", "embedding")
    yield Entry("source_embedding/table", "source_embedding")
    yield Entry("head/projection/kernel", "output.weight", transposed(1))
    yield Entry("logits_bias", "output.bias")


def _fused(ours: str, theirs: str) -> Iterator[Entry]:
    """Attention whose queries, keys and values stand in one tensor, one below the other."""
    for name in ("query", "key", "value"):
        yield Entry(f"{ours}/{name}/kernel", f"{theirs}.in_proj_weight", transposed(2), join=0)
        yield Entry(f"{ours}/{name}/bias", f"{theirs}.in_proj_bias", FLAT, join=0)
    yield from dense(f"{ours}/output", f"{theirs}.out_proj")


def _norm(config: nn.Config, ours: str, theirs: str) -> Iterator[Entry]:
    """With ``bias=False`` theirs have no shift, which is a shift by 0."""
    yield Entry(f"{ours}/scale", f"{theirs}.weight")
    yield Entry(f"{ours}/bias", f"{theirs}.bias", optional=not config.attention_bias)

"""Mutants of attention."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant


def repeat(x, N):
    return jnp.repeat(x, N // x.shape[2], axis=2)


def scaled_logits(q, k):
    return jnp.einsum("btnh,bsnh->bnts", q, k) / jnp.sqrt(jnp.float32(q.shape[-1]))


def masked_logits(logits, mask):
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


def softmax(logits):
    top = logits.max(-1, keepdims=True)
    e = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    return e / jnp.where(total == 0, 1, total)


def masked_sum(weights, v, mask):
    if mask is None:
        return jnp.einsum("bnts,bsnh->btnh", weights, v)
    # 0 * NaN is NaN, so masked values are left out of the sum.
    v = jnp.swapaxes(v, 1, 2)[:, :, None]
    mask = jnp.broadcast_to(mask, weights.shape)[..., None]
    return jnp.swapaxes(jnp.where(mask, weights[..., None] * v, 0).sum(-2), 1, 2)


def plain_sum(weights, v, mask):
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def zero_masked_nonfinite(k, v, mask):
    """NaN and Inf at keys masked for every query replaced by 0, because 0 * NaN is NaN in gradients too."""
    if mask is None:
        return k, v
    read = mask.any((1, 2))[..., None, None]
    return (jnp.where(read | jnp.isfinite(x), x, 0) for x in (k, v))


def zero_nan(k, v, mask):
    return (jnp.where(jnp.isnan(x), 0, x) for x in (k, v))


def attend(
    q,
    k,
    v,
    mask,
    *,
    finite=zero_masked_nonfinite,
    repeat=repeat,
    scaled_logits=scaled_logits,
    masked_logits=masked_logits,
    softmax=softmax,
    weighted_sum=masked_sum,
):
    dtype, N = q.dtype, q.shape[2]
    k, v = finite(k, v, mask)
    q, k, v = (x.astype(jnp.float32) for x in (q, repeat(k, N), repeat(v, N)))
    return weighted_sum(softmax(masked_logits(scaled_logits(q, k), mask)), v, mask).astype(dtype)


def variant(**parts):
    return functools.partial(attend, **parts)


def soft_mask(value):
    """Attention whose masked logits are ``value(logits)``, without -inf and without a masked sum."""
    return variant(
        masked_logits=lambda x, mask: x if mask is None else jnp.where(mask, x, value(x)),
        weighted_sum=plain_sum,
    )


def float32_output(q, k, v, mask):
    return attend(*(x.astype(jnp.float32) for x in (q, k, v)), mask)


def mask_of_first_example(q, k, v, mask):
    return attend(q, k, v, None if mask is None else mask[:1])


def mask_only_without_batch(q, k, v, mask):
    return attend(q, k, v, mask if len(q) == 1 else None)


def masks_of_examples_for_heads(q, k, v, mask):
    if mask is None:
        return attend(q, k, v, mask)
    B, N = len(q), q.shape[2]
    # Examples and heads are flattened as (head, example), masks as (example, head).
    return attend(q, k, v, jnp.swapaxes(jnp.repeat(mask[:, 0], N, 0).reshape(N, B, *mask.shape[2:]), 0, 1))


def softmax_with_dropout(logits):
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, logits.shape)
    return jnp.where(kept, 2 * softmax(logits), 0)


def one_query_reads_key_0(q, k, v, mask):
    if q.shape[1] > 1:
        return attend(q, k, v, mask)
    return attend(q, k[:, :1], v[:, :1], None if mask is None else mask[..., :1])


def heads_merged_without_transpose(q, k, v, mask):
    return jnp.swapaxes(attend(q, k, v, mask), 1, 2).reshape(q.shape)


@jax.custom_vjp
def forward_only_masked(q, k, v, mask):
    return attend(q, k, v, mask)


forward_only_masked.defvjp(
    lambda q, k, v, mask: (attend(q, k, v, mask), (q, k, v)),
    lambda saved, cotangent: (*jax.vjp(lambda *x: attend(*x, None), *saved)[1](cotangent), None),
)


def mask_after_softmax(q, k, v, mask):
    def zero_weights(weights, v, mask):
        return masked_sum(weights if mask is None else weights * mask.astype(weights.dtype), v, mask)

    return attend(q, k, v, mask, masked_logits=lambda logits, mask: logits, weighted_sum=zero_weights)


RIGHT = attend
MUTANTS = {
    "the mask is ignored": Mutant(
        lambda q, k, v, mask: attend(q, k, v, None), ["definition", "causality"], "pytorch/pytorch#122753"
    ),
    "the mask is ignored in a batch": Mutant(
        mask_only_without_batch, ["definition", "examples_are_independent"], "kohya-ss/musubi-tuner#413"
    ),
    "the mask of the first example serves all": Mutant(
        mask_of_first_example, ["definition", "examples_are_independent", "compiled_matches_eager"]
    ),
    "the masks of the examples are used for the heads": Mutant(
        masks_of_examples_for_heads,
        ["definition", "examples_are_independent"],
        "lsdefine/attention-is-all-you-need-keras#36",
    ),
    "a boolean mask is added": Mutant(
        variant(
            masked_logits=lambda x, mask: x if mask is None else x + mask.astype(x.dtype),
            weighted_sum=plain_sum,
        ),
        ["definition", "causality"],
        "huggingface/transformers#41443",
    ),
    "a masked logit is -10,000": Mutant(
        soft_mask(lambda x: -1e4), ["large_logits"], "ohdearquant/lattice#374"
    ),
    "True means masked": Mutant(
        lambda q, k, v, mask: attend(q, k, v, None if mask is None else ~mask),
        ["definition", "fully_masked_rows", "causality"],
        "lucidrains/x-transformers#160",
    ),
    "the mask is transposed": Mutant(
        lambda q, k, v, mask: attend(q, k, v, None if mask is None else jnp.swapaxes(mask, 2, 3)),
        ["causality"],
        "hyunwoongko/transformer#40",
    ),
    "logits are multiplied by the mask": Mutant(
        variant(masked_logits=lambda x, mask: x if mask is None else x * mask.astype(x.dtype)),
        ["weights_sum_to_one", "definition"],
        "georg-wolflein/good-features#1",
    ),
    "the mask is applied after the softmax": Mutant(
        mask_after_softmax, ["weights_sum_to_one", "definition"], "lucidrains/memory-compressed-attention#2"
    ),
    "a fully masked row is uniform": Mutant(
        soft_mask(lambda x: -1e9), ["fully_masked_rows"], "NVIDIA/apex#1390"
    ),
    "a fully masked row is NaN": Mutant(
        variant(softmax=jax.nn.softmax, weighted_sum=plain_sum), ["fully_masked_rows"], "tracel-ai/burn#4694"
    ),
    "a masked logit is only lowered": Mutant(
        soft_mask(lambda x: x - 10.0),
        ["masked_keys_are_ignored", "causality"],
        "lucidrains/nGPT-pytorch#11",
    ),
    "0 times NaN": Mutant(
        variant(weighted_sum=plain_sum), ["masked_values_do_not_leak"], "Dao-AILab/flash-attention#2374"
    ),
    "NaN is set to 0, Inf is not": Mutant(
        variant(finite=zero_nan, weighted_sum=plain_sum),
        ["masked_values_do_not_leak", "masked_values_do_not_reach_gradients"],
    ),
    "0 times NaN in the backward pass": Mutant(
        variant(finite=lambda k, v, mask: (k, v)), ["masked_values_do_not_reach_gradients"]
    ),
    "the backward pass ignores the mask": Mutant(forward_only_masked, ["masked_values_have_no_gradient"]),
    "a single query reads only key 0": Mutant(
        one_query_reads_key_0,
        ["every_unmasked_key_contributes", "definition"],
        "Dao-AILab/flash-attention#282",
    ),
    "the last key is not read": Mutant(
        variant(softmax=lambda x: softmax(x.at[..., -1].set(-jnp.inf) if x.shape[-1] > 1 else x)),
        ["every_unmasked_key_contributes", "permutation_invariant_in_keys"],
    ),
    "the softmax is over the queries": Mutant(
        variant(softmax=lambda x: jnp.nan_to_num(jax.nn.softmax(x, axis=-2))),
        ["weights_sum_to_one"],
        "labmlai/annotated_deep_learning_paper_implementations#146",
    ),
    "no scale": Mutant(
        variant(scaled_logits=lambda q, k: jnp.einsum("btnh,bsnh->bnts", q, k)),
        ["divided_by_sqrt_h", "weights_mix_values"],
        "mlc-ai/mlc-llm#3426",
    ),
    "divided by H": Mutant(
        variant(scaled_logits=lambda q, k: scaled_logits(q, k) / jnp.sqrt(1.0 * q.shape[-1])),
        ["divided_by_sqrt_h"],
        "delzac/cntkx#10",
    ),
    "divided by sqrt(D) of all heads": Mutant(
        variant(scaled_logits=lambda q, k: scaled_logits(q, k) / jnp.sqrt(1.0 * q.shape[2])),
        ["divided_by_sqrt_h"],
        "FrancescoSaverioZuppichini/ViT#1",
    ),
    "logits have the wrong sign": Mutant(
        variant(scaled_logits=lambda q, k: -scaled_logits(q, k)), ["larger_product_larger_weight"]
    ),
    "the softmax does not subtract the maximum": Mutant(
        variant(softmax=lambda x: jnp.exp(x) / jnp.maximum(jnp.exp(x).sum(-1, keepdims=True), 1e-30)),
        ["large_logits"],
        "uTensor/uTensor#175",
    ),
    "key heads are tiled, not repeated": Mutant(
        variant(repeat=lambda x, N: jnp.tile(x, (1, 1, N // x.shape[2], 1))),
        ["grouped_query_heads", "heads_are_independent"],
        "onnx/onnx#7274",
    ),
    "heads are merged without a transpose": Mutant(
        heads_merged_without_transpose,
        ["heads_are_independent", "causality"],
        "jsbaan/transformer-from-scratch#6",
    ),
    "the softmax is in bfloat16": Mutant(
        variant(softmax=lambda x: softmax(x.astype(jnp.bfloat16)).astype(jnp.float32)),
        ["weights_sum_to_one", "definition"],
        "tinygrad/tinygrad#12280",
    ),
    "dropout is always on": Mutant(
        variant(softmax=softmax_with_dropout),
        ["convex_hull", "zero_query_gives_the_mean", "no_mask"],
        "pytorch/pytorch#124464",
    ),
    "positions are added to queries": Mutant(
        lambda q, k, v, mask: attend(q + jnp.arange(1.0 * q.shape[1])[None, :, None, None], k, v, mask),
        ["permutation_equivariant_in_queries"],
    ),
    "logits grow with the number of keys": Mutant(
        lambda q, k, v, mask: attend(q * jnp.log(1.0 + k.shape[1]), k, v, mask),
        ["padding", "packed_sequences_are_independent"],
    ),
    "the softmax adds 1 to its denominator": Mutant(
        variant(softmax=lambda x: jnp.exp(x) / (1 + jnp.exp(x).sum(-1, keepdims=True))),
        ["shift_invariance", "weights_sum_to_one"],
        "flashinfer-ai/flashinfer#5090",
    ),
    "values are normalized": Mutant(
        lambda q, k, v, mask: attend(q, k, v / (1 + jnp.abs(v)), mask), ["linear_in_values"]
    ),
    "no gradient": Mutant(lambda *inputs: jax.lax.stop_gradient(attend(*inputs)), ["gradients"]),
    "logits are clipped at 50": Mutant(
        variant(masked_logits=lambda x, mask: masked_logits(jnp.clip(x, -50, 50), mask)), ["large_logits"]
    ),
    "the output is float32": Mutant(
        float32_output, ["dtype_is_preserved"], "lucidrains/flash-attention-jax#13"
    ),
}

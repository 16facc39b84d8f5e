"""Wrong attentions, each with a bug that was seen somewhere, in our own words; and the right one.

A mutant is the right attention with one part exchanged. Beside it stand the laws that must break.
"""

import functools

import jax
import jax.numpy as jnp

from tests.mutants.mutant import Mutant


def repeat(x, N):
    return jnp.repeat(x, N // x.shape[2], axis=2)


def scaled(q, k):
    return jnp.einsum("btnh,bsnh->bnts", q, k) / jnp.sqrt(jnp.float32(q.shape[-1]))


def closed(logits, mask):
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


def softmax(logits):
    top = logits.max(-1, keepdims=True)
    e = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    return e / jnp.where(total == 0, 1, total)


def mixed(weights, v, mask):
    if mask is None:
        return jnp.einsum("bnts,bsnh->btnh", weights, v)
    # A product with 0 would let nan through.
    v = jnp.swapaxes(v, 1, 2)[:, :, None]
    opened = jnp.broadcast_to(mask, weights.shape)[..., None]
    return jnp.swapaxes(jnp.where(opened, weights[..., None] * v, 0).sum(-2), 1, 2)


def plainly_mixed(weights, v, mask):
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def attend(q, k, v, mask, *, repeat=repeat, scaled=scaled, closed=closed, softmax=softmax, mixed=mixed):
    dtype, N = q.dtype, q.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q, repeat(k, N), repeat(v, N)))
    return mixed(softmax(closed(scaled(q, k), mask)), v, mask).astype(dtype)


def other_dtype(q, k, v, mask):
    return attend(*(x.astype(jnp.float32) for x in (q, k, v)), mask)


def mask_of_the_first_row(q, k, v, mask):
    return attend(q, k, v, None if mask is None else mask[:1])


def mask_only_without_batch(q, k, v, mask):
    return attend(q, k, v, mask if len(q) == 1 else None)


def masks_for_heads(q, k, v, mask):
    if mask is None:
        return attend(q, k, v, mask)
    B, N = len(q), q.shape[2]
    # rows as (head, row), masks as (row, head)
    return attend(q, k, v, jnp.swapaxes(jnp.repeat(mask[:, 0], N, 0).reshape(N, B, *mask.shape[2:]), 0, 1))


def never_in_evaluation(logits):
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, logits.shape)
    return jnp.where(kept, 2 * softmax(logits), 0)


def key_0_only(q, k, v, mask):
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
    lambda saved, slope: (*jax.vjp(lambda *x: attend(*x, None), *saved)[1](slope), None),
)


def after_the_softmax(q, k, v, mask):
    no_softmax_of_masked = lambda logits, mask: logits
    zero_weights = lambda w, v, mask: mixed(w if mask is None else w * mask.astype(w.dtype), v, mask)
    return attend(q, k, v, mask, closed=no_softmax_of_masked, mixed=zero_weights)


def part(**parts):
    return functools.partial(attend, **parts)


RIGHT = attend
# by name: a wrong attention, the laws that it must break, and where it was seen
MUTANTS = {
    "the mask is dropped": Mutant(
        lambda q, k, v, mask: attend(q, k, v, None), ["definition", "causality"], "pytorch/pytorch#122753"
    ),
    "the mask is dropped in a batch": Mutant(
        mask_only_without_batch, ["definition", "rows_of_a_batch"], "kohya-ss/musubi-tuner#413"
    ),
    "the mask of the first row serves all": Mutant(
        mask_of_the_first_row, ["definition", "rows_of_a_batch", "compiled_is_eager"]
    ),
    "the masks of the rows go to the heads": Mutant(
        masks_for_heads, ["definition", "rows_of_a_batch"], "lsdefine/attention-is-all-you-need-keras#36"
    ),
    "a boolean mask is added": Mutant(
        part(closed=lambda x, mask: x if mask is None else x + mask.astype(x.dtype), mixed=plainly_mixed),
        ["definition", "causality"],
        "huggingface/transformers#41443",
    ),
    "a closed logit is -10,000": Mutant(
        part(closed=lambda x, mask: x if mask is None else jnp.where(mask, x, -1e4), mixed=plainly_mixed),
        ["large_logits"],
        "ohdearquant/lattice#374",
    ),
    "True means closed": Mutant(
        lambda q, k, v, mask: attend(q, k, v, None if mask is None else ~mask),
        ["definition", "empty_rows", "causality"],
        "lucidrains/x-transformers#160",
    ),
    "the mask is transposed": Mutant(
        lambda q, k, v, mask: attend(q, k, v, None if mask is None else jnp.swapaxes(mask, 2, 3)),
        ["causality"],
        "hyunwoongko/transformer#40",
    ),
    "logits are multiplied by the mask": Mutant(
        part(closed=lambda x, mask: x if mask is None else x * mask.astype(x.dtype)),
        ["weights_sum_to_one", "definition"],
        "georg-wolflein/good-features#1",
    ),
    "the mask comes after the softmax": Mutant(
        after_the_softmax, ["weights_sum_to_one", "definition"], "lucidrains/memory-compressed-attention#2"
    ),
    "an empty row is uniform": Mutant(
        part(closed=lambda x, mask: x if mask is None else jnp.where(mask, x, -1e9), mixed=plainly_mixed),
        ["empty_rows"],
        "NVIDIA/apex#1390",
    ),
    "an empty row is nan": Mutant(
        part(softmax=jax.nn.softmax, mixed=plainly_mixed), ["empty_rows"], "tracel-ai/burn#4694"
    ),
    "a closed logit is small, but not nothing": Mutant(
        part(closed=lambda x, mask: x if mask is None else jnp.where(mask, x, x - 10.0), mixed=plainly_mixed),
        ["closed_keys_are_not_read", "causality"],
        "lucidrains/nGPT-pytorch#11",
    ),
    "0 times nan": Mutant(
        part(mixed=plainly_mixed), ["closed_values_cannot_poison"], "Dao-AILab/flash-attention#2374"
    ),
    "the backward pass forgets the mask": Mutant(forward_only_masked, ["closed_values_have_no_gradient"]),
    "one query reads key 0 alone": Mutant(
        key_0_only, ["every_open_key_is_read", "definition"], "Dao-AILab/flash-attention#282"
    ),
    "the last key is not read": Mutant(
        part(softmax=lambda x: softmax(x.at[..., -1].set(-jnp.inf) if x.shape[-1] > 1 else x)),
        ["every_open_key_is_read", "order_of_keys"],
    ),
    "the softmax is over the queries": Mutant(
        part(softmax=lambda x: jnp.nan_to_num(jax.nn.softmax(x, axis=-2))),
        ["weights_sum_to_one"],
        "labmlai/annotated_deep_learning_paper_implementations#146",
    ),
    "no scale": Mutant(
        part(scaled=lambda q, k: jnp.einsum("btnh,bsnh->bnts", q, k)),
        ["divided_by_sqrt_h", "shares"],
        "mlc-ai/mlc-llm#3426",
    ),
    "divided by H": Mutant(
        part(scaled=lambda q, k: scaled(q, k) / jnp.sqrt(1.0 * q.shape[-1])),
        ["divided_by_sqrt_h"],
        "delzac/cntkx#10",
    ),
    "divided by sqrt(D), of all heads": Mutant(
        part(scaled=lambda q, k: scaled(q, k) / jnp.sqrt(1.0 * q.shape[2])),
        ["divided_by_sqrt_h"],
        "FrancescoSaverioZuppichini/ViT#1",
    ),
    "the sign of the logits": Mutant(
        part(scaled=lambda q, k: -scaled(q, k)), ["larger_product_larger_weight"]
    ),
    "no largest logit is taken off": Mutant(
        part(softmax=lambda x: jnp.exp(x) / jnp.maximum(jnp.exp(x).sum(-1, keepdims=True), 1e-30)),
        ["large_logits"],
        "uTensor/uTensor#175",
    ),
    "groups are tiled, not repeated": Mutant(
        part(repeat=lambda x, N: jnp.tile(x, (1, 1, N // x.shape[2], 1))),
        ["grouped_heads_repeat", "heads_are_teams"],
        "onnx/onnx#7274",
    ),
    "heads are merged by a reshape alone": Mutant(
        heads_merged_without_transpose, ["heads_are_teams", "causality"], "jsbaan/transformer-from-scratch#6"
    ),
    "the softmax in bfloat16": Mutant(
        part(softmax=lambda x: softmax(x.astype(jnp.bfloat16)).astype(jnp.float32)),
        ["weights_sum_to_one", "definition"],
        "tinygrad/tinygrad#12280",
    ),
    "dropout stays on": Mutant(
        part(softmax=never_in_evaluation),
        ["convex_hull", "no_preference", "no_mask"],
        "pytorch/pytorch#124464",
    ),
    "an added position": Mutant(
        lambda q, k, v, mask: attend(q + jnp.arange(1.0 * q.shape[1])[None, :, None, None], k, v, mask),
        ["order_of_queries"],
    ),
    "logits grow with the number of keys": Mutant(
        lambda q, k, v, mask: attend(q * jnp.log(1.0 + k.shape[1]), k, v, mask),
        ["padding", "packed_is_separate"],
    ),
    "1 in the sum of the softmax": Mutant(
        part(softmax=lambda x: jnp.exp(x) / (1 + jnp.exp(x).sum(-1, keepdims=True))),
        ["only_differences_of_logits", "weights_sum_to_one"],
        "flashinfer-ai/flashinfer#5090",
    ),
    "values are normalised": Mutant(
        lambda q, k, v, mask: attend(q, k, v / (1 + jnp.abs(v)), mask), ["linear_in_values"]
    ),
    "no gradient": Mutant(lambda *inputs: jax.lax.stop_gradient(attend(*inputs)), ["gradients"]),
    "logits are cut at 50": Mutant(
        part(closed=lambda x, mask: closed(jnp.clip(x, -50, 50), mask)), ["large_logits"]
    ),
    "another dtype comes out": Mutant(other_dtype, ["dtype_is_kept"], "lucidrains/flash-attention-jax#13"),
}

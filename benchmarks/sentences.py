"""Statements of an introduction to Transformers, each with the laws that check it and its functions."""

from collections.abc import Iterator

from tfm_jax import laws

__all__ = ["sentences"]

SENTENCES = (
    (
        "A word's new features come from its context: in another sentence it has another vector.",
        (
            "attention.every_unmasked_key_contributes",
            "encoder.context_matters",
            "block.context_matters",
            "language_model.previous_token_matters",
        ),
        ("ops.attention", "nn.Encoder"),
    ),
    (
        "A word is updated by a weighted mean of all words, with weights such as 50, 10, 30 and 10 %.",
        ("attention.weights_mix_values", "attention.weights_sum_to_one", "attention.convex_hull"),
        ("ops.attention", "ops.attention_weights"),
    ),
    (
        "The updated word is the query: it is compared with every key, its own included.",
        (
            "attention.permutation_equivariant_in_queries",
            "attention.definition",
            "language_model.own_token_matters",
        ),
        ("ops.attention",),
    ),
    (
        "The larger the inner product of query and key, the larger the weight.",
        ("attention.larger_product_larger_weight", "attention.zero_query_gives_the_mean"),
        ("ops.attention_weights",),
    ),
    (
        "The output is the weighted sum of the values; the softmax turns scores into weights.",
        (
            "attention.linear_in_values",
            "attention.shift_invariance",
            "attention.large_logits",
            "attention.gradients",
        ),
        ("ops.attention",),
    ),
    (
        "With 200 dimensions scores would be larger than with 100: they are divided by sqrt(d_k).",
        ("attention.divided_by_sqrt_h",),
        ("ops.attention",),
    ),
    (
        "Several heads give several views, like filters: each has separate queries, keys and values.",
        ("attention.heads_are_independent", "attention.grouped_query_heads"),
        ("ops.attention", "nn.MultiHeadAttention"),
    ),
    (
        "The outputs of the heads are concatenated, so the width stays the same.",
        ("attention.heads_are_independent",),
        ("ops.attention",),
    ),
    (
        "Attention weighs the whole sequence, so the order of the words does not matter.",
        (
            "attention.permutation_invariant_in_keys",
            "attention.permutation_equivariant_in_queries",
            "encoder_without_positions.permutation_equivariance",
            "block.permutation_equivariance",
        ),
        ("ops.attention", "nn.Encoder"),
    ),
    (
        "It should matter: position encodings add the order.",
        (
            "encoder.positions_matter",
            "language_model.order_matters",
            "sinusoidal.adjacent_positions_differ",
            "rotary.adjacent_positions_differ",
        ),
        ("ops.sinusoidal", "ops.rotary", "ops.alibi"),
    ),
    (
        "Layers are stacked: the output has the shape of the input.",
        ("block.layers_compose", "attention.dtype_is_preserved"),
        ("nn.EncoderBlock", "nn.DecoderBlock"),
    ),
    (
        "Add and normalize: the input of a layer is added to its output, and the sum is normalized.",
        (
            "block.residual_and_norm",
            "layer_norm.mean_is_zero",
            "layer_norm.variance_is_one",
            "layer_norm.shift_invariance",
        ),
        ("ops.layer_norm", "nn.EncoderBlock"),
    ),
    (
        "Cross-attention: the queries come from the decoder, keys and values from another sequence.",
        ("attention.definition", "attention.padding", "masked_attention.lengths_mask_padding"),
        ("ops.attention", "nn.EncoderDecoder"),
    ),
    (
        "The decoder has a causal mask: a position does not depend on later ones.",
        (
            "attention.causality",
            "attention.masked_values_have_no_gradient",
            "masked_attention.causal_mask",
            "masked_attention.decode_matches_forward",
            "attention_dropout.mask_applies_under_dropout",
            "language_model.causality",
        ),
        ("ops.masks.causal", "ops.attention", "nn.Decoder"),
    ),
    (
        "A dense layer classifies handwritten digits into ten classes.",
        ("classifier.every_token_counts",),
        ("nn.Classifier",),
    ),
    (
        "The loss is cross-entropy.",
        ("cross_entropy.definition", "cross_entropy.gradients", "cross_entropy.chunks_add"),
        ("ops.cross_entropy",),
    ),
)


def sentences() -> Iterator[tuple[str, str, str]]:
    """Statement, laws and functions, as cells of a table; laws of unknown suites are left out."""
    for statement, names, functions in SENTENCES:
        known = [name for name in names if name.split(".")[0] in laws.SUITES]
        yield (
            statement,
            ", ".join(f"`{name}`" for name in known) or "–",
            ", ".join(f"`{f}`" for f in functions),
        )

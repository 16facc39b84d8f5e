"""What the explanation says that the project grew from, and the laws that say it of a function."""

from collections.abc import Iterator

from tfm_jax import laws

__all__ = ["sentences"]

SENTENCES = (
    (
        "A word's new features come from its context: in another sentence it becomes another vector.",
        ("attention.every_unmasked_key_contributes", "encoder.context_matters", "block.context_matters", "language_model.previous_token_matters"),
        ("ops.attention", "nn.Encoder"),
    ),
    (
        "A word is updated by shares of all words, such as 50, 10, 30 and 10 %, which are all there is.",
        ("attention.weights_mix_values", "attention.weights_sum_to_one", "attention.convex_hull"),
        ("ops.attention", "ops.attention_weights"),
    ),
    (
        "Whoever is updated gives the query: it asks the keys, each of which answers, itself among them.",
        ("attention.permutation_equivariant_in_queries", "attention.definition", "language_model.own_token_matters"),
        ("ops.attention",),
    ),
    (
        "The larger the inner product of two vectors, the better they are related.",
        ("attention.larger_product_larger_weight", "attention.zero_query_gives_the_mean"),
        ("ops.attention_weights",),
    ),
    (
        "Every value is mixed in by its share; the softmax makes shares of the scores.",
        (
            "attention.linear_in_values",
            "attention.shift_invariance",
            "attention.large_logits",
            "attention.gradients",
        ),
        ("ops.attention",),
    ),
    (
        "With 200 dimensions a score would be larger than with 100: it is divided by the root of d_k.",
        ("attention.divided_by_sqrt_h",),
        ("ops.attention",),
    ),
    (
        "Several heads give several views, like filters: each has queries, keys and values of its own.",
        ("attention.heads_are_independent", "attention.grouped_query_heads"),
        ("ops.attention", "nn.MultiHeadAttention"),
    ),
    (
        "Two teams build half of a bridge each: what the heads give is put side by side, as wide as before.",
        ("attention.heads_are_independent",),
        ("ops.attention",),
    ),
    (
        "Each word weighs the whole sequence, so where a word stands does not matter.",
        (
            "attention.permutation_invariant_in_keys",
            "attention.permutation_equivariant_in_queries",
            "encoder_without_positions.permutation_equivariance",
            "block.permutation_equivariance",
        ),
        ("ops.attention", "nn.Encoder"),
    ),
    (
        "It should matter: the model is told positions besides.",
        (
            "encoder.positions_matter",
            "language_model.order_matters",
            "sinusoidal.adjacent_positions_differ",
            "rotary.adjacent_positions_differ",
        ),
        ("ops.sinusoidal", "ops.rotary", "ops.alibi"),
    ),
    (
        "Layers are stacked: as many dimensions come out as went in, and only the values are others.",
        ("block.layers_compose", "attention.dtype_is_preserved"),
        ("nn.EncoderBlock", "nn.DecoderBlock"),
    ),
    (
        "Add and normalise: what a layer was given is added to what it found, and the sum is normalised.",
        ("block.residual_and_norm", "layer_norm.mean_is_zero", "layer_norm.variance_is_one", "layer_norm.shift_invariance"),
        ("ops.layer_norm", "nn.EncoderBlock"),
    ),
    (
        "The decoder attends otherwise: its queries ask the keys of another sequence.",
        ("attention.definition", "attention.padding", "masked_attention.lengths_mask_padding"),
        ("ops.attention", "nn.EncoderDecoder"),
    ),
    (
        "The decoder has a mask: what comes later is not seen.",
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
        "Handwritten digits are ten classes, which a fully connected layer gives.",
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
    """Sentence, laws and functions, as cells of a table; a suite that there is not yet is left out."""
    for said, names, functions in SENTENCES:
        known = [name for name in names if name.split(".")[0] in laws.SUITES]
        yield said, ", ".join(f"`{name}`" for name in known) or "–", ", ".join(f"`{f}`" for f in functions)

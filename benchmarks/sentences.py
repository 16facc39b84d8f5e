"""What the explanation says that the project grew from, and the laws that say it of a function."""

from collections.abc import Iterator

from tfm_jax import laws

__all__ = ["sentences"]

SENTENCES = (
    (
        "A word's new features come from its context: in another sentence it becomes another vector.",
        ("attention.every_open_key_is_read", "encoder.context", "block.context", "language_model.context"),
        ("ops.attention", "nn.Encoder"),
    ),
    (
        "A word is updated by shares of all words, such as 50, 10, 30 and 10 %, which are all there is.",
        ("attention.shares", "attention.weights_sum_to_one", "attention.convex_hull"),
        ("ops.attention", "ops.attention_weights"),
    ),
    (
        "Whoever is updated gives the query: it asks the keys, each of which answers, itself among them.",
        ("attention.order_of_queries", "attention.definition", "language_model.itself"),
        ("ops.attention",),
    ),
    (
        "The larger the inner product of two vectors, the better they are related.",
        ("attention.larger_product_larger_weight", "attention.no_preference"),
        ("ops.attention_weights",),
    ),
    (
        "Every value is mixed in by its share; the softmax makes shares of the scores.",
        (
            "attention.linear_in_values",
            "attention.only_differences_of_logits",
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
        ("attention.heads_are_teams", "attention.grouped_heads_repeat"),
        ("ops.attention", "nn.MultiHeadAttention"),
    ),
    (
        "Two teams build half of a bridge each: what the heads give is put side by side, as wide as before.",
        ("attention.heads_are_teams",),
        ("ops.attention",),
    ),
    (
        "Each word weighs the whole sequence, so where a word stands does not matter.",
        (
            "attention.order_of_keys",
            "attention.order_of_queries",
            "encoder_without_positions.order_of_tokens",
            "block.order_of_tokens",
        ),
        ("ops.attention", "nn.Encoder"),
    ),
    (
        "It should matter: the model is told positions besides.",
        (
            "encoder.positions_matter",
            "language_model.order_matters",
            "sinusoidal.told_apart",
            "rotary.told_apart",
        ),
        ("ops.sinusoidal", "ops.rotary", "ops.alibi"),
    ),
    (
        "Layers are stacked: as many dimensions come out as went in, and only the values are others.",
        ("block.layers_stack", "attention.dtype_is_kept"),
        ("nn.EncoderBlock", "nn.DecoderBlock"),
    ),
    (
        "Add and normalise: what a layer was given is added to what it found, and the sum is normalised.",
        ("block.add_and_norm", "layer_norm.mean_is_zero", "layer_norm.variance_is_one", "layer_norm.shift"),
        ("ops.layer_norm", "nn.EncoderBlock"),
    ),
    (
        "The decoder attends otherwise: its queries ask the keys of another sequence.",
        ("attention.definition", "attention.padding", "masked_attention.lengths_cut"),
        ("ops.attention", "nn.EncoderDecoder"),
    ),
    (
        "The decoder has a mask: what comes later is not seen.",
        (
            "attention.causality",
            "attention.closed_values_have_no_gradient",
            "masked_attention.causal_triangle",
            "masked_attention.decoding",
            "attention_dropout.mask_holds_under_dropout",
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
        ("cross_entropy.definition", "cross_entropy.gradients", "cross_entropy.halves_add"),
        ("ops.cross_entropy",),
    ),
)


def sentences() -> Iterator[tuple[str, str, str]]:
    """Sentence, laws and functions, as cells of a table; a suite that there is not yet is left out."""
    for said, names, functions in SENTENCES:
        known = [name for name in names if name.split(".")[0] in laws.SUITES]
        yield said, ", ".join(f"`{name}`" for name in known) or "–", ", ".join(f"`{f}`" for f in functions)

"""The presets have the paper's sizes, and a config that cannot be built says so."""

import jax
import pytest

from tfm_jax import nn


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def paper_formula(V, D, F, L):
    attention = 4 * D * D  # W^Q, W^K, W^V, W^O of all heads together, without biases
    feed_forward = D * F + F + F * D + D
    norm = 2 * D
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    return V * D + L * (encoder + decoder)


@pytest.mark.parametrize(
    ("preset", "D", "F", "millions"), [(nn.paper_base, 512, 2048, 63.0), (nn.paper_big, 1024, 4096, 214.2)]
)
def test_the_presets_have_the_papers_parameters(preset, D, F, millions):
    got = count(nn.functionalize(nn.EncoderDecoder, preset(37_000)))
    assert got == paper_formula(37_000, D, F, 6)
    assert round(got / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, "n_heads=4 does not divide d_model=10"),
        ({"n_heads": 6, "d_model": 12, "n_kv_heads": 4}, "n_kv_heads=4 does not divide n_heads=6"),
        (
            {"d_model": 9, "n_heads": 3, "positions": nn.Rope()},
            "would rotate 3 of the 3 elements of a head, wanted an even",
        ),
        (
            {"d_model": 12, "n_heads": 3, "positions": nn.Rope(fraction=0.2)},
            "would rotate 0 of the 4 elements",
        ),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\), got 1.0"),
        ({"norm_placement": "middle"}, "'pre', 'post', 'parallel'.*got 'middle'"),
        ({"n_layers": 0}, "n_layers must be a whole number, at least 1, got 0"),
        ({"d_model": 8.0}, "d_model must be a whole number, at least 1, got 8.0"),
        ({"vocab_size": None}, "vocab_size must be a whole number, got None"),
        ({"vocab_size": True}, "vocab_size must be a whole number, got True"),
        ({"tie_embeddings": "no"}, "tie_embeddings must be True or False, got 'no'"),
        ({"dropout_rate": None}, "dropout_rate must be a number, got None"),
        ({"embedding_dropout_rate": "0"}, "embedding_dropout_rate must be a number or None, got '0'"),
        ({"attention_output_bias": 1}, "attention_output_bias must be True or False or None, got 1"),
        ({"vocab_size": -1}, "vocab_size must not be negative, got -1"),
        ({"logits_scale": float("nan")}, "logits_scale must be finite, got nan"),
        ({"attention_scale": float("inf")}, "attention_scale must be finite, got inf"),
        ({"token_types": -2}, "token_types must not be negative, got -2"),
        ({"d_model": 9, "n_heads": 3}, "even d_model, got 9"),
        ({"dtype": "float31"}, "dtype must be one of .* got 'float31'"),
        ({"remat": "all"}, "remat must be one of .* got 'all'"),
        ({"attention_implementation": "flash"}, "attention_implementation must be one of .* got 'flash'"),
        ({"attention_implementation": "ring"}, "attention_implementation must be one of .* got 'ring'"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(fields, message):
    with pytest.raises(ValueError, match=message):
        nn.Config(**{"vocab_size": 11, **fields})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Mlp("rellu"), "rellu"),
        (lambda: nn.Glu("sillu"), "sillu"),
        (lambda: nn.RelativeBias(7), "even number of buckets"),
        (lambda: nn.RelativeBias(8, 4), "max_distance above half"),
        (lambda: nn.Learned(0), "max_length must be a whole number, at least 1, got 0"),
        (lambda: nn.LayerNorm("e"), "eps must be a number, got 'e'"),
        (lambda: nn.RMSNorm(None), "eps must be a number, got None"),
        (lambda: nn.Sinusoidal("10"), "theta must be a number, got '10'"),
        (lambda: nn.Learned(True), "max_length must be a whole number, got True"),
        (lambda: nn.RelativeBias(True, 8), "buckets must be a whole number, got True"),
        (lambda: nn.Mlp(bias=1), "bias must be True or False, got 1"),
        (lambda: nn.Patches(8, 8, class_token="no"), "class_token must be True or False, got 'no'"),
        (lambda: nn.Rope("10"), "theta must be a number, got '10'"),
        (lambda: nn.Rope(fraction=0.0), "above 0 and at most 1, got 0.0"),
        (lambda: nn.Rope(fraction=1.5), "above 0 and at most 1, got 1.5"),
        (lambda: nn.Rope(fraction=float("nan")), "above 0 and at most 1, got nan"),
        (lambda: nn.Pooler(dropout_rate="0"), "dropout_rate must be a number, got '0'"),
        (lambda: nn.Patches(8, 8, size=0), "size must be a whole number, at least 1, got 0"),
    ],
)
def test_a_value_that_cannot_be_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="patch of 3 does not divide the image 8 x 6"):
        nn.Patches(8, 6, size=3)

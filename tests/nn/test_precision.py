"""``Config.matmul_precision``: every product of a model's program has it, and the caller's default stays."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import generate, nn, ops

CONFIG = nn.Config(
    vocab_size=11,
    d_model=8,
    n_layers=2,
    n_heads=2,
    d_ff=6,
    attention_implementation="reference",
    matmul_precision="highest",
)
TOKENS = jnp.zeros((2, 5), jnp.int32)
LABELS = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
MODELS = {
    "decoder": (nn.Decoder, (TOKENS,), {}),
    "untied": (nn.Decoder, (TOKENS,), {"tie_embeddings": False, "remat": "full"}),
    "encoder-decoder": (nn.EncoderDecoder, (TOKENS, TOKENS), {}),
    "masked": (nn.MaskedLanguageModel, (TOKENS,), {}),
    "chunked": (nn.Decoder, (TOKENS,), {"attention_implementation": "chunked"}),
    "experts": (nn.Decoder, (TOKENS,), {"feed_forward": nn.MixtureOfExperts(4, 2, shared_experts=1)}),
    "classifier": (nn.Classifier, (TOKENS,), {"pooler": nn.Pooler()}),
    "images": (
        nn.Classifier,
        (jnp.zeros((2, 4, 4, 1)),),
        {"patches": nn.Patches(4, 4, 1, 2), "vocab_size": 0},
    ),
}


def precisions(function, *arguments):
    """The precisions of the products in a program, each once."""
    text = jax.jit(function).lower(*arguments).as_text()
    found = re.findall(r"dot_general .*?precision = \[(\w+), (\w+)\]", text)
    assert found and len(found) == text.count("dot_general ")
    return {name for pair in found for name in pair}


def build(module, fields, **more):
    model = nn.functionalize(
        module,
        dataclasses.replace(CONFIG, **fields, **more),
        **({"pooling": "first"} if "pooler" in fields else {}),
    )
    return model, jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize("name", MODELS)
def test_products_forward_and_backward(name):
    module, inputs, fields = MODELS[name]

    def gradient(model):
        return jax.grad(lambda params, *inputs: model.apply(params, *inputs).sum())

    model, params = build(module, fields)
    assert precisions(gradient(model), params, *inputs) == {"HIGHEST"}
    model, params = build(module, fields, matmul_precision=None)
    found = precisions(gradient(model), params, *inputs)
    assert found == ({"DEFAULT", "HIGHEST"} if name == "experts" else {"DEFAULT"})  # a router is float32
    with jax.default_matmul_precision("high"):
        found = precisions(gradient(model), params, *inputs)
    assert found == ({"HIGH", "HIGHEST"} if name == "experts" else {"HIGH"})


@pytest.mark.parametrize("name", ["decoder", "chunked", "experts"])
def test_products_of_a_function_that_is_differentiated_after_it_is_traced(name):
    module, inputs, fields = MODELS[name]
    model, params = build(module, fields)
    loss = jax.jit(lambda params: model.apply(params, *inputs).sum())
    assert precisions(jax.grad(loss), params) == {"HIGHEST"}


@pytest.mark.parametrize("name", ["decoder", "untied", "encoder-decoder"])
def test_products_of_generation(name):
    module, _, fields = MODELS[name]
    config = generate.GenerationConfig((2,), max_length=4, start_id=1 if "encoder" in name else None)
    for precision, wanted in (("highest", "HIGHEST"), ("high", "HIGH")):
        model, params = build(module, fields, matmul_precision=precision)

        def greedy(params, model=model):
            return generate.greedy(model, params, TOKENS, config)

        def beams(params, model=model):
            return generate.beam_search(model, params, TOKENS, config.updated(beams=2))

        assert precisions(greedy, params) == precisions(beams, params) == {wanted}


def test_context_for_products_outside_the_model():
    model, params = build(nn.Decoder, {})

    @jax.jit
    def loss(params):
        decoder = model.bind(params)
        with nn.matmul_precision(model.config):
            kernel, _ = decoder.output_projection()
            return ops.linear_cross_entropy(decoder.hidden(TOKENS), kernel, TOKENS, chunk_size=5)[0]

    assert precisions(jax.grad(loss), params) == {"HIGHEST"}


@pytest.mark.parametrize("fields", [{}, {"tie_embeddings": False, "logits_bias": True, "logits_scale": 0.5}])
def test_loss_of_a_decoder(fields):
    model, shapes = build(nn.Decoder, fields)
    options = {"weights": jnp.arange(10.0).reshape(2, 5), "label_smoothing": 0.1, "z_loss": 0.2}
    options["ignore_index"] = 3

    def loss(params):
        decoder = model.bind(params)
        return decoder.cross_entropy(decoder.hidden(LABELS), LABELS, **options, chunk_size=4)

    assert precisions(jax.grad(lambda params: loss(params)[0]), shapes) == {"HIGHEST"}
    params = model.init(jax.random.key(0))
    if "logits_bias" in params:
        params["logits_bias"] = jnp.linspace(-1, 1, 11)
    wanted = ops.cross_entropy(model.apply(params, LABELS), LABELS, **options)
    np.testing.assert_allclose(loss(params), wanted, rtol=1e-5)


def test_unknown_precision():
    with pytest.raises(ValueError, match=r"Config: got matmul_precision='fast'; wanted"):
        dataclasses.replace(CONFIG, matmul_precision="fast")

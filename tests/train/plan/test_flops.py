import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tfm_jax import nn, ops
from tfm_jax.train.plan.flops import step_flops, traced_flops, traced_products

B, T, S = 3, 12, 10
CONFIG = nn.Config(vocab_size=50, d_model=16, n_layers=2, n_heads=4, d_ff=40, positions=nn.Rope())
VARIANTS = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "grouped queries": {"n_kv_heads": 2, "head_dim": 6, "qk_norm": True},
    "gated": {"feed_forward": nn.Glu()},
    "learned positions": {"positions": nn.Learned(max_length=20), "attention_bias": True},
    "parallel": {"norm_placement": "parallel"},
}


def forward_flops(model, *inputs):
    params = jax.eval_shape(model.init, jax.random.key(0))
    return traced_flops(jax.make_jaxpr(model.apply)(params, *inputs))


def tokens(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_decoders_formula_is_the_count_of_its_products(options):
    config = dataclasses.replace(CONFIG, attention_implementation="reference", **options)
    model = nn.functionalize(nn.Decoder, config)
    assert step_flops(model, examples=B, length=T) == 3 * forward_flops(model, tokens(B, T))


def test_an_encoder_decoders_formula_is_the_count_of_its_products():
    config = dataclasses.replace(CONFIG, attention_implementation="reference", n_decoder_layers=3)
    model = nn.functionalize(nn.EncoderDecoder, config)
    got = step_flops(model, examples=B, length=T, source_length=S)
    assert got == 3 * forward_flops(model, tokens(B, S), tokens(B, T))


def test_encoders_with_heads():
    config = dataclasses.replace(CONFIG, attention_implementation="reference")
    model = nn.functionalize(nn.MaskedLanguageModel, config)
    assert step_flops(model, examples=B, length=T) == 3 * forward_flops(model, tokens(B, T))
    config = dataclasses.replace(config, pooler=nn.Pooler())
    model = nn.functionalize(nn.Classifier, config, 7, "first")
    assert step_flops(model, examples=B, length=T) == 3 * forward_flops(model, tokens(B, T))


def test_images_count_their_patches():
    patches = nn.Patches(8, 12, 1, 2)
    config = dataclasses.replace(CONFIG, vocab_size=0, patches=patches, attention_implementation="reference")
    model = nn.functionalize(nn.Classifier, config, 7, "mean")
    images = jax.ShapeDtypeStruct((B, 8, 12, 1), jnp.float32)
    assert step_flops(model, examples=B, length=patches.count) == 3 * forward_flops(model, images)


def test_a_step_with_its_backward_pass_is_three_forward_passes():
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, attention_implementation="reference"))
    params = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params, x):
        return ops.cross_entropy(model.apply(params, x), x)[0]

    counted = traced_flops(jax.make_jaxpr(jax.value_and_grad(loss))(params, tokens(B, T)))
    assert counted == pytest.approx(step_flops(model, examples=B, length=T), rel=1e-6)


def test_products_are_counted_with_the_length_of_scans_and_the_devices_of_shard_map():
    def twice(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

    x, w = jnp.zeros((2, 4)), jnp.zeros((4, 4))
    [found] = traced_products(jax.make_jaxpr(twice)(x, w))
    assert (found.dtypes, found.flops, found.count) == (("float32",) * 3, 2 * 2 * 4 * 4, 5)
    mesh = jax.make_mesh((2,), ("a",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec
    sharded = jax.shard_map(twice, mesh=mesh, in_specs=(spec("a"), spec()), out_specs=spec("a"))
    assert traced_flops(jax.make_jaxpr(sharded)(x, w)) == traced_flops(jax.make_jaxpr(twice)(x, w))


def test_of_experts_those_that_a_token_is_routed_to_count():
    experts = nn.MixtureOfExperts(n_experts=4, top_k=2, shared_experts=1)
    models = [
        nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, feed_forward=feed_forward))
        for feed_forward in (experts, nn.Glu())
    ]
    with_experts, without = (step_flops(model, examples=B, length=T) for model in models)
    layers, D, F, router = 2, 16, 40, 16 * 4
    assert with_experts - without == 6 * B * T * layers * (
        2 * 3 * D * F + router
    )  # two more than the dense one

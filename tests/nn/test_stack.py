"""Stacks of blocks: scan, remat, unroll, dropout per layer, positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.marks import slow_but
from tests.nn.models import TINY, VARIANTS, B, D, L, N, T, assert_close, build, run, tokens
from tfm_jax import nn, ops
from tfm_jax.ops import masks


@pytest.mark.parametrize("name", slow_but(["learned", "relative", "post", "rms-glu-gqa"], VARIANTS))
def test_decoder_is_causal(name):
    fields = VARIANTS[name]
    config = dataclasses.replace(TINY, **fields)
    stack = nn.functionalize(nn.DecoderStack, config, cross_attention=False)
    params = build(nn.Decoder, **fields)[1]["stack"]
    jacobian = jax.jit(jax.jacobian(lambda x: stack.apply(params, x, masks.causal())[0]))(
        jax.random.normal(jax.random.key(0), (T, D))
    )  # [T, D, T, D]
    influence = jnp.abs(jacobian).sum((1, 3))
    np.testing.assert_array_equal(np.triu(influence, 1), 0.0)
    assert (np.asarray(influence)[np.tril_indices(T)] > 0).all()


@pytest.mark.parametrize("fields", [{"unroll": True}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_unroll_and_remat_equal_scan(fields):
    x = tokens(B, T)
    model, params = build(nn.Decoder, dropout_rate=0.3)
    other, _ = build(nn.Decoder, dropout_rate=0.3, **fields)

    def loss(model):
        return lambda p: jnp.sum(run(model, p, x, key=jax.random.key(1)) ** 2)

    assert_close(
        jax.jit(jax.value_and_grad(loss(other)))(params),
        jax.jit(jax.value_and_grad(loss(model)))(params),
        2e-5,
    )


def test_layers_start_different():
    model, _ = build(nn.Decoder)
    params = jax.jit(model.init)(jax.random.key(3))
    kernel = params["stack"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.shape == (L, D, N, D // N)
    assert not np.allclose(kernel[0], kernel[1], atol=1e-2)


@pytest.mark.parametrize(
    "rates, wanted", [((0.0, 0.5), {0.0, 2.0}), ((0.5, 0.0), {1.0}), ((0.5, None), {0.0, 2.0})]
)
def test_embedding_dropout_rate(rates, wanted):
    rates = dict(zip(("dropout_rate", "embedding_dropout_rate"), rates, strict=True))
    config = dataclasses.replace(TINY, n_layers=1, final_norm=False, positions=None, **rates)
    stack = nn.functionalize(nn.EncoderStack, config)
    params = jax.tree.map(jnp.zeros_like, jax.jit(stack.init)(jax.random.key(0)))  # every layer adds zero
    out, _ = stack.apply(params, jnp.ones((9, D)), key=jax.random.key(5))
    assert set(np.unique(out)) == wanted


def test_layers_draw_different_dropout():
    stack = nn.functionalize(nn.EncoderStack, dataclasses.replace(TINY, n_layers=2, dropout_rate=0.5))
    params = jax.jit(stack.init)(jax.random.key(0))
    # Two layers with the same parameters: only their dropout differs.
    params["layers"] = jax.tree.map(lambda p: jnp.stack([p[0], p[0]]), params["layers"])
    biased = params["layers"]["feed_forward"]["b_out"] + 1.0
    params["layers"]["feed_forward"]["b_out"] = biased
    params["layers"]["feed_forward"]["w_out"] = jnp.zeros_like(params["layers"]["feed_forward"]["w_out"])
    params["layers"]["attention"]["output"]["kernel"] = jnp.zeros((2, N, D // N, D))
    params["norm"]["scale"] = jnp.ones(D)
    no_norm = nn.functionalize(
        nn.EncoderStack,
        dataclasses.replace(TINY, n_layers=2, dropout_rate=0.5, final_norm=False, positions=None),
    )
    params = {"layers": params["layers"]}
    out, _ = no_norm.apply(params, jnp.zeros((40, D)), key=jax.random.key(5))
    # Each layer adds 0 or 2; equal dropout masks would give only 0 and 4.
    assert set(np.unique(np.round(out, 4))) == {0.0, 2.0, 4.0}


def test_n_decoder_layers():
    _, params = build(nn.EncoderDecoder, n_decoder_layers=2)

    def depth(side):
        return params[side]["layers"]["feed_forward"]["w_in"].shape[0]

    assert (depth("encoder"), depth("decoder")) == (L, 2)


def test_remat_and_unroll_change_the_program():
    def primitives(**fields):
        model, params = build(nn.Decoder, **fields)

        def loss(p):
            return model.apply(p, tokens(T)).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params))

    plain = primitives()
    assert "nothing_saveable" not in plain and "no_batch_dims" not in plain and " scan[" in plain
    assert "unroll=1\n" in primitives() and f"unroll={L}\n" in primitives(unroll=True)
    assert "nothing_saveable" in primitives(remat="full")
    assert "no_batch_dims" in primitives(remat="dots")


def test_program_size_is_independent_of_depth():
    def lines(n_layers):
        model = nn.functionalize(nn.Decoder, dataclasses.replace(TINY, n_layers=n_layers))
        params = jax.eval_shape(model.init, jax.random.key(0))

        def loss(p, x):
            return run(model, p, x).sum()

        lowered = jax.jit(jax.grad(loss)).lower(params, jax.ShapeDtypeStruct((B, T), jnp.int32))
        return len(lowered.as_text().splitlines())

    assert lines(24) == lines(6)


def test_positions_of_another_length():
    model, params = build(nn.Encoder)
    with pytest.raises(
        ValueError, match=r"Stack: got x .*, positions int.*; wanted .*positions int\[T\] or \[...\|1, T\]"
    ):
        model.apply(params, tokens(B, T), positions=jnp.arange(T + 1))


def test_embedding_norm():
    config = nn.Config(
        vocab_size=7, d_model=4, n_heads=1, d_ff=4, n_layers=1, positions=nn.Learned(5), embedding_norm=True
    )
    model = nn.functionalize(nn.EncoderStack, config)
    params = model.init(jax.random.key(0))
    params["embedding_norm"]["scale"] = jnp.array([1.0, 2.0, 3.0, 4.0])
    x = jax.random.normal(jax.random.key(1), (3, 4))
    got = model.bind(params).embed_positions(x, jnp.arange(3))
    wanted = ops.layer_norm(x + params["position_embedding"]["table"][:3], jnp.arange(1.0, 5.0))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)

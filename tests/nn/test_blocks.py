"""Transformer blocks against numpy in float64, and the PRNG keys of their dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import references
from tfm_jax import nn
from tfm_jax.ops import masks
from tfm_jax.ops.backends import reference

D, N, K, H, F, B, T, S = 8, 4, 2, 6, 10, 2, 5, 7


def rotate(x, theta):
    """RoPE with half pairing at positions 0 .. T - 1; x [B, T, N, H]."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    sin, cos = np.sin(angles)[None, :, None], np.cos(angles)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(p, x, context, allowed, theta=None):
    q, k, v = (
        np.einsum("BTD,DNH->BTNH", y, p[name]["kernel"]) + p[name]["bias"]
        for name, y in (("query", x), ("key", context), ("value", context))
    )
    if theta is not None:
        q, k = rotate(q, theta), rotate(k, theta)
    k, v = (np.repeat(y, N // K, axis=2) for y in (k, v))
    logits = np.einsum("BTNH,BSNH->BNTS", q, k) / np.sqrt(H)
    weights = references.softmax(np.where(allowed, logits, -np.inf))
    heads = np.einsum("BNTS,BSNH->BTNH", weights, v)
    return np.einsum("BTNH,NHD->BTD", heads, p["output"]["kernel"]) + p["output"]["bias"]


def layer_norm(p, x, eps):
    centered = x - x.mean(-1, keepdims=True)
    return p["scale"] * centered / np.sqrt(x.var(-1, keepdims=True) + eps) + p["bias"]


def rms_norm(p, x, eps):
    return p["scale"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def mlp(p, x):
    return np.tanh(x @ p["w_in"] + p["b_in"]) @ p["w_out"] + p["b_out"]


def glu(p, x):
    gate = x @ p["w_gate"]
    return (gate / (1 + np.exp(-gate)) * (x @ p["w_in"])) @ p["w_out"]


@pytest.mark.parametrize("placement", ["pre", "post", "parallel"])
@pytest.mark.parametrize("norm", [nn.LayerNorm(eps=0.1), nn.RMSNorm(eps=0.2)], ids=str)
@pytest.mark.parametrize("feed_forward", [nn.Mlp("tanh"), nn.Glu("silu")], ids=str)
def test_decoder_block_equals_its_equations(placement, norm, feed_forward):
    config = nn.Config(
        vocab_size=1,
        d_model=D,
        n_heads=N,
        n_kv_heads=K,
        head_dim=H,
        d_ff=F,
        norm=norm,
        norm_placement=placement,
        feed_forward=feed_forward,
        positions=nn.Rope(theta=50.0),
        attention_bias=True,
    )
    block = nn.functionalize(nn.DecoderBlock, config)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(block.init, jax.random.key(0))
    params = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), shapes)
    x, memory = rng.normal(size=(B, T, D)), rng.normal(size=(B, S, D))
    valid = np.arange(S) < np.array([[7], [4]])
    got, _ = jax.jit(block.apply)(
        params,
        jnp.float32(x),
        masks.causal(),
        jnp.float32(memory),
        masks.padding(jnp.asarray(valid)),
        positions=jnp.arange(T)[None],
    )

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    normalize = layer_norm if isinstance(norm, nn.LayerNorm) else rms_norm
    sublayers = [
        ("attention", lambda y: attention(p["attention"], y, y, np.tri(T, dtype=bool), theta=50.0)),
        ("cross_attention", lambda y: attention(p["cross_attention"], y, memory, valid[:, None, None])),
        ("feed_forward", lambda y: (mlp if isinstance(feed_forward, nn.Mlp) else glu)(p["feed_forward"], y)),
    ]
    block_input = x
    for name, sublayer in sublayers:

        def add_and_norm(y, name=name):
            return normalize(p[f"{name}_norm"], y, norm.eps)

        if placement == "post":
            x = add_and_norm(x + sublayer(x))
        else:
            x = x + sublayer(add_and_norm(block_input if placement == "parallel" else x))
    np.testing.assert_allclose(got, x, rtol=2e-4, atol=2e-4)


def test_every_dropout_has_its_own_key(monkeypatch):
    """In an encoder-decoder with two layers each, all dropout draws use different keys."""
    keys = []
    bernoulli, drop_at = jax.random.bernoulli, reference.drop_at

    def record(key):
        jax.debug.callback(lambda k: keys.append(bytes(np.asarray(k))), jax.random.key_data(key))
        return key

    monkeypatch.setattr(jax.random, "bernoulli", lambda key, *x: bernoulli(record(key), *x))
    monkeypatch.setattr(reference, "drop_at", lambda *x: drop_at(*x[:-1], record(x[-1])))
    config = nn.Config(
        vocab_size=9,
        d_model=D,
        n_heads=2,
        d_ff=F,
        n_layers=2,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        feed_forward_dropout_rate=0.1,
    )
    model = nn.functionalize(nn.EncoderDecoder, config)
    params = model.init(jax.random.key(0))
    model.apply(params, jnp.arange(4), jnp.arange(3), key=jax.random.key(1))
    jax.effects_barrier()
    # Per layer: one draw per residual, one per softmax, one in the feed-forward; per stack: one on its input.
    assert len(keys) == (2 * (2 + 1 + 1) + 1) + (2 * (3 + 2 + 1) + 1)
    assert len(set(keys)) == len(keys)

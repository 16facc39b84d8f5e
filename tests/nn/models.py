"""Small random models of every variant, for the tests of the modules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import parameters
from tfm_jax import nn

V, D, N, F, L, B, T, S = 13, 12, 2, 10, 3, 2, 5, 7
TINY = nn.Config(vocab_size=V, d_model=D, n_heads=N, d_ff=F, n_layers=L)
POSITIONS = {
    "none": None,
    "sinusoidal": nn.Sinusoidal(),
    "half": nn.Sinusoidal(pairing="half"),
    "learned": nn.Learned(max_length=9),
    "rope": nn.Rope(),
    "alibi": nn.Alibi(),
    "relative": nn.RelativeBias(buckets=6, max_distance=8),
}
VARIANTS = {
    **{name: {"positions": value} for name, value in POSITIONS.items()},
    "post": {"norm_placement": "post", "final_norm": False},
    "parallel": {"norm_placement": "parallel", "positions": nn.Rope(fraction=0.7)},
    "rms-glu-gqa": {"norm": nn.RMSNorm(), "feed_forward": nn.Glu(), "n_kv_heads": 1},
    "untied-biased": {"tie_embeddings": False, "attention_bias": True, "head_dim": 5},
    "normed-scaled": {
        "qk_norm": True,
        "embedding_norm": True,
        "attention_scale": 1.0,
        "attention_output_bias": True,
        "logits_scale": 0.5,
        "logits_bias": True,
    },
}


@functools.cache
def build(module, **fields):
    model = nn.functionalize(module, dataclasses.replace(TINY, **fields))
    return model, parameters.draw(model)


@functools.cache
def compiled(model, method="__call__"):
    return jax.jit(
        lambda params, *args, **kwargs: getattr(model.bind(params), method)(*args, **kwargs),
        static_argnames="return_weights",
    )


def run(model, params, *args, method="__call__", **kwargs):
    return compiled(model, method)(params, *args, **kwargs)


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


def assert_close(got, wanted, tolerance=1e-5):
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance), got, wanted)

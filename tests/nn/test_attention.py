"""Multi-head attention against its equations."""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import nn, ops

D, F, T = 8, 10, 5


def test_multi_head_attention_equals_its_equations():
    config = nn.Config(
        vocab_size=1,
        d_model=D,
        n_heads=2,
        d_ff=F,
        norm=nn.RMSNorm(eps=0.1),
        positions=nn.Rope(30.0),
        attention_bias=True,
        attention_output_bias=False,
        attention_scale=0.7,
        qk_norm=True,
    )
    attend = nn.functionalize(nn.MultiHeadAttention, config)
    shapes = jax.eval_shape(attend.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), shapes)
    assert "bias" not in params["output"] and params["query_norm"]["scale"].shape == (D // 2,)
    x = jax.random.normal(jax.random.key(1), (T, D))
    q, k, v = (
        jnp.einsum("TD,DNH->TNH", x, params[name]["kernel"]) + params[name]["bias"][None]
        for name in ("query", "key", "value")
    )
    q, k = (
        ops.rotary(ops.rms_norm(y, params[name]["scale"], eps=0.1), jnp.arange(T), theta=30.0)
        for y, name in ((q, "query_norm"), (k, "key_norm"))
    )
    wanted = jnp.einsum("TNH,NHD->TD", ops.attention(q, k, v, scale=0.7), params["output"]["kernel"])
    got, weights = attend.apply(params, x, positions=jnp.arange(T), return_weights=True)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights, ops.attention_weights(q, k, scale=0.7), rtol=1e-4, atol=1e-6)

"""KV cache and prefill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generate.models import build, next_log_probs, tokens
from tfm_jax import generate, nn

B = 3
PADDED = jnp.array([[False, False, True, True], [True, True, True, False], [True, True, True, True]])


def test_prefill_and_step():
    model, params = build(nn.Decoder)
    prompt = tokens(B, 4)
    cache = nn.init_cache(model, params, B, 6)
    logits, cache = generate.prefill(model, params, prompt, cache, valid=PADDED)
    unpadded = [np.asarray(x)[np.asarray(valid)] for x, valid in zip(prompt, PADDED, strict=True)]
    wanted = [next_log_probs(model, params, x) for x in unpadded]
    np.testing.assert_allclose(jax.nn.log_softmax(logits), wanted, rtol=1e-4, atol=1e-4)
    token = jnp.array([5, 3, 8])
    logits, cache = nn.decode_step(model, params, token[:, None], cache)
    wanted = [next_log_probs(model, params, [*x, t]) for x, t in zip(unpadded, token, strict=True)]
    np.testing.assert_allclose(jax.nn.log_softmax(logits[:, 0]), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="prefill: got a cache of 5 tokens; wanted an empty one"):
        generate.prefill(model, params, prompt, cache)
    with pytest.raises(ValueError, match="got T = 2 tokens for a cache of S = 6 slots, 5 of them in use"):
        nn.decode_step(model, params, tokens(B, 2), cache)
    with pytest.raises(ValueError, match="got T = 4 tokens for a cache of S = 3 slots, 0 of them in use"):
        generate.prefill(model, params, prompt, nn.init_cache(model, params, B, 3))

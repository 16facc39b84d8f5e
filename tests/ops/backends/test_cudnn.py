"""The arguments that cuDNN gets; test_contract.py tests the values, with XLA's implementation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.backends.test_contract import arrays, in_float64, weigh
from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.ops.backends import cudnn

B, T, N, K, H = 2, 16, 4, 2, 8
VALID = np.random.default_rng(1).random((B, T)) < 0.6


def kernel_options(mask, batch=(B,)):
    """The mask options that the kernel gets."""
    seen = {}

    def kernel(q, k, v, **options):
        seen.update(options, shape=q.shape)
        return q

    q, k, v = arrays(batch, T=T, S=T, V=H)
    cudnn.attention(q, k, v, mask, None, scale=0.3, soft_cap=None, dropout_rate=0.0, key=None, kernel=kernel)
    assert seen.pop("scale") == 0.3 and seen.pop("shape")[1:] == (T, N, H)
    return seen


def test_masks_as_arguments_of_the_kernel():
    assert kernel_options(None) == {}
    assert kernel_options(masks.causal()) == {"is_causal": True}
    assert kernel_options(masks.window()) == {}
    # In cuDNN every window is causal.
    assert kernel_options(masks.window(5, 0)) == {"is_causal": True, "local_window_size": (5, 0)}
    assert kernel_options(masks.window(right=0)) == {"is_causal": True}
    both = masks.causal() & masks.window(5, 2) & masks.window(3)
    assert kernel_options(both) == {"is_causal": True, "local_window_size": (3, 0)}


def test_prefixes_become_lengths_and_padding_a_boolean_array():
    got = kernel_options(masks.prefix(np.array([3, 0])) & masks.prefix(7))
    np.testing.assert_array_equal(got.pop("key_value_seq_lengths"), [3, 1])  # fix_rows gives 0 for length 0
    assert got == {}
    got = kernel_options(masks.padding(VALID) & masks.causal())
    np.testing.assert_array_equal(got.pop("mask"), np.broadcast_to(VALID[:, None, None], (B, 1, T, T)))
    assert got == {"is_causal": True}


def test_leading_dims_become_one_batch():
    lengths = np.array([[3], [5], [9]])
    got = kernel_options(masks.prefix(lengths), batch=(3, 2))
    np.testing.assert_array_equal(got["key_value_seq_lengths"], [3, 3, 5, 5, 9, 9])


@pytest.mark.parametrize(
    "mask, sizes, reason",
    [
        (masks.causal(3), {}, "offset"),
        (masks.causal(0), {"S": 32}, "positions only where T == S, not T = 16, S = 32"),
        (masks.window(3, 2), {}, "window that reaches beyond the query"),
        (masks.segments(np.zeros(T, int)), {}, "does not support segments in a mask"),
        (masks.padding(np.ones(15, bool)), {"T": 15, "S": 15}, "padding for even lengths only"),
        (None, {"H": 12}, "not H = 12"),
        (None, {"H": 256}, "not H = 256"),
    ],
)
def test_what_is_unsupported(mask, sizes, reason, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sizes = {"T": T, "S": T, "H": H} | sizes
    q, k, v = arrays(**sizes, V=sizes["H"], dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=reason):
        ops.attention(q, k, v, mask, implementation="cudnn")


@pytest.mark.parametrize("case", ["causal", "window", "prefix", "padding"])
def test_it_lowers_for_cuda_to_the_fused_kernel(case, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    lengths, valid = jnp.array([3, 9]), jnp.asarray(VALID)
    mask = {
        "causal": masks.causal(),
        "window": masks.causal() & masks.window(5),
        "prefix": masks.causal() & masks.prefix(lengths),
        "padding": masks.padding(valid),
    }[case]
    q, k, v = arrays(T=T, S=T, V=H, dtype=jnp.bfloat16)

    def attend(*x):
        return ops.attention(*x, mask, implementation="cudnn")

    with jax.numpy_dtype_promotion("standard"):
        traced = jax.jit(jax.grad(lambda *x: weigh(attend(*x)), argnums=(0, 1, 2))).trace(q, k, v)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    kind = "ScaleBias" if case == "padding" else ""
    called = set(re.findall(r"__cudnn\$fmha(\w+)", text))
    assert called == {f"{kind}Softmax", f"{kind}SoftmaxBackward"}


@pytest.mark.parametrize("mask", [masks.causal(), masks.causal() & masks.window(5), masks.prefix(9)])
def test_on_a_gpu(mask):
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")
    q, k, v = arrays(T=64, S=64, H=64, V=64, dtype=jnp.bfloat16)
    assert ops.explain_attention(q, k, v, mask).implementation == "cudnn"
    out, slopes = in_float64(q, k, v, mask)
    np.testing.assert_allclose(np.asarray(ops.attention(q, k, v, mask), np.float64), out, atol=1e-2)

    def loss(*x):
        return weigh(ops.attention(*x, mask))

    for got, expected in zip(jax.grad(loss, argnums=(0, 1, 2))(q, k, v), slopes, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=2e-2, rtol=2e-2)

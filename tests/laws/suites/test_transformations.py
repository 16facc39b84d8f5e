"""Ops and models give the same under jit, remat, vmap, scan, pmap and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from tests.marks import slow_but
from tfm_jax import laws, nn, ops
from tfm_jax.ops import masks

EXAMPLES = settings().max_examples
T, V = 3, 7


def arguments(*shapes, tokens=0, keys=0):
    """A strategy of float32 arrays of these shapes, token sequences and key data, each for two calls."""

    def draw(seed):
        rng = np.random.default_rng(seed)
        floats = [rng.standard_normal((2, *shape)).round(1).astype(np.float32) for shape in shapes]
        sequences = [rng.integers(0, V, (2, T)).astype(np.int32) for _ in range(tokens)]
        key_data = [rng.integers(0, 2**32, (2, 2), dtype=np.uint32) for _ in range(keys)]
        return (*floats, *sequences, *key_data)

    return st.integers(0, 10**4).map(draw)


def decoder(**fields):
    config = nn.Config(vocab_size=V, d_model=8, n_heads=2, d_ff=6, n_layers=2, **fields)
    model = nn.functionalize(nn.Decoder, config)
    params = jax.jit(model.init)(jax.random.key(4))
    # Under jit, because an eager call would compile its scan over the layers in each case.
    return jax.jit(lambda table, tokens: model.apply({**params, "embedding": {"table": table}}, tokens))


def attend(implementation):
    mask = masks.causal() & masks.window(1)
    return jax.jit(lambda q, k, v: ops.attention(q, k, v, mask, implementation=implementation))


HEADS = ((T, 4, 4), (T, 2, 4), (T, 2, 4))
FUNCTIONS = {
    "attention": (attend("reference"), arguments(*HEADS)),
    "attention, chunked": (attend("chunked"), arguments(*HEADS)),
    "layer norm": (ops.layer_norm, arguments((T, 8), (8,), (8,))),
    "cross entropy": (
        functools.partial(ops.cross_entropy, label_smoothing=0.1, ignore_index=0),
        arguments((T, V), tokens=1),
    ),
    "linear cross entropy": (
        jax.jit(ops.linear_cross_entropy),
        arguments((T, 4), (4, V), tokens=1),
    ),
    "dropout": (
        lambda x, key: ops.dropout(x, 0.3, jax.random.wrap_key_data(key)),
        arguments((T, 8), keys=1),
    ),
    "decoder": (decoder(), arguments((V, 8), tokens=1)),
    "decoder, unrolled, with remat": (
        decoder(unroll=True, remat="full"),
        arguments((V, 8), tokens=1),
    ),
}


@pytest.mark.parametrize("name", slow_but(["attention", "dropout"], FUNCTIONS))
def test_functions(name):
    function, strategy = FUNCTIONS[name]
    report = laws.check(function, laws.transformations(strategy), examples=EXAMPLES)
    assert report.ok, str(report)


def test_untraceable_functions_and_other_trees():
    suite = laws.transformations()
    report = laws.check(
        lambda x: x * float(x.sum()), suite.only("deterministic", "scan_matches_loop"), examples=1
    )
    assert not report.violated and report.unsupported == ("scan_matches_loop",)

    def other_tree_if_traced(x):
        return (x, x) if isinstance(x, jax.core.Tracer) else (x,)

    report = laws.check(other_tree_if_traced, suite.only("jit_matches_eager"), examples=2)
    assert "got ('float32[3, 4]', 'float32[3, 4]'); wanted ('float32[3, 4]',)" in str(report)
    assert "argument 0 [2, ...] = [[[" in str(report)


def test_pmap_on_one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    suite = laws.transformations().only("pmap_matches_loop")
    assert laws.check(jnp.tanh, suite, examples=2).ok
    assert laws.check(lambda x: x - jax.lax.stop_gradient(x) * 0, suite, examples=2).ok

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.test_optimizers import PARAMS, paths
from tfm_jax import nn, train
from tfm_jax.train.layerwise import layer_factors

L = 3  # of PARAMS, whose layers are stacked
decays = st.floats(0.25, 1.0)


def draw(seed, like=PARAMS):
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(like))))
    return jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), like)


def scaled(updates, decay, frozen):
    transform = train.scale_by_layer(decay, frozen)
    return transform.update(updates, transform.init(updates))[0]


def layers_of(tree):
    return jax.tree.leaves(tree["stack"]["layers"])


@given(seed=st.integers(0, 99))
def test_decay_1_without_frozen_layers_is_the_identity(seed):
    updates = draw(seed)
    for found, wanted in zip(jax.tree.leaves(scaled(updates, 1.0, 0)), jax.tree.leaves(updates), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@given(decay=decays, frozen=st.integers(0, L))
def test_each_layer_has_its_factor(decay, frozen):
    found = scaled(PARAMS, decay, frozen)  # PARAMS are ones, so these are the factors
    wanted = [0.0 if layer < frozen else decay ** (L - layer) for layer in range(L)]
    for leaf in layers_of(found):
        np.testing.assert_allclose(
            leaf, np.broadcast_to(np.reshape(wanted, (-1, *[1] * (leaf.ndim - 1))), leaf.shape), rtol=1e-6
        )
    smallest = 0.0 if frozen else decay ** (L + 1)
    for leaf in jax.tree.leaves(
        [found["embedding"], *(found["stack"][f"position_{x}"] for x in ("embedding", "bias"))]
    ):
        np.testing.assert_allclose(leaf, np.full_like(leaf, smallest), rtol=1e-6)
    for leaf in jax.tree.leaves([found["head"], found["stack"]["norm"]]):
        np.testing.assert_array_equal(leaf, np.ones_like(leaf))


@given(decay=decays, frozen=st.integers(0, L))
def test_factors_rise_from_the_embedding_to_the_head(decay, frozen):
    factors = layer_factors(PARAMS, decay, frozen)
    ascending = [
        factors["embedding"]["table"],
        *layers_of(factors)[0].ravel(),
        factors["head"]["projection"]["kernel"],
    ]
    assert (np.diff(np.asarray(ascending)) >= 0).all()
    assert ascending[-1] == 1 and all(f.dtype == np.float32 for f in jax.tree.leaves(factors))


def loss_fn(params, batch, key):
    """A squared error in which every parameter has a gradient."""
    error = jax.tree.map(lambda p, target: jnp.sum((p - target[0]) ** 2), params, batch)
    return (sum(jax.tree.leaves(error)), jnp.float32(1)), {}


@functools.cache
def make_step(frozen):
    optimizer = optax.chain(train.adamw(0.1, 0.3), train.scale_by_layer(0.5, frozen))
    step = train.make_train_step(train.freeze_layers(loss_fn, frozen), optimizer, clip_norm=1.0)
    return train.init_state(draw(7), optimizer, jax.random.key(0)), jax.jit(step)


def steps(frozen, targets, count):
    state, step = make_step(frozen)
    for _ in range(count):
        state, metrics = step(state, jax.tree.map(lambda t: t[None], targets))
    return state.params, metrics


@settings(max_examples=8)
@given(seed=st.integers(0, 99), frozen=st.integers(1, L))
def test_frozen_layers_stay_bit_for_bit_under_adam_and_weight_decay(seed, frozen):
    before = draw(7)
    after, _ = steps(frozen, draw(seed), count=3)
    for a, b in zip(layers_of(after), layers_of(before), strict=True):
        assert a[:frozen].tobytes() == b[:frozen].tobytes()
        assert (a[frozen:] != b[frozen:]).all()
    assert after["embedding"]["table"].tobytes() == before["embedding"]["table"].tobytes()
    assert (after["head"]["projection"]["kernel"] != before["head"]["projection"]["kernel"]).all()


def test_frozen_negative_zeros_keep_their_sign():
    updates = scaled(PARAMS, 1.0, L)
    assert np.signbit(jnp.float32(-0.0) + updates["embedding"]["table"]).all()


@settings(max_examples=8)
@given(seed=st.integers(0, 99), frozen=st.integers(1, L - 1), scale=st.sampled_from([10.0, 1e4]))
def test_clipping_ignores_gradients_of_frozen_layers(seed, frozen, scale):
    near = draw(seed)
    far = jax.tree.map(lambda t, f: jnp.where(f > 0, t, t + scale), near, layer_factors(near, frozen=frozen))
    ours, metrics = steps(frozen, far, count=1)
    wanted, near_metrics = steps(frozen, near, count=1)
    np.testing.assert_array_equal(metrics["grad_norm"][0], near_metrics["grad_norm"][0])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_freezing_no_layer_returns_the_loss_itself():
    assert train.freeze_layers(loss_fn, 0) is loss_fn


CONFIG = nn.Config(vocab_size=11, d_model=8, n_layers=2, n_decoder_layers=3, n_heads=2, d_ff=12)
MODELS = {
    "Encoder": (nn.Encoder, {"embedding_norm": True, "positions": nn.Learned(9), "token_types": 2}),
    "Classifier": (nn.Classifier, {"embedding_norm": True, "positions": nn.RelativeBias(buckets=8)}),
    "of images": (nn.Classifier, {"vocab_size": 0, "patches": nn.Patches(4, 4, 1, 2, class_token=True)}),
    "Decoder": (nn.Decoder, {"tie_embeddings": False}),
    "EncoderDecoder": (nn.EncoderDecoder, {"share_embeddings": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_of_each_model_have_the_smallest_factor(name):
    module, options = MODELS[name]
    model = nn.functionalize(module, dataclasses.replace(CONFIG, **options))
    params = jax.eval_shape(model.init, jax.random.key(0))
    factors = layer_factors(params, 0.5)
    deepest = 3 if module is nn.EncoderDecoder else 2
    embeddings = paths(factors, lambda f: f.ndim == 0 and f == 0.5 ** (deepest + 1))
    head = paths(factors, lambda f: f.ndim == 0 and f == 1)
    assert embeddings and all("embedding" in path or "position_bias" in path for path in embeddings)
    assert all("embedding" not in path and "layers" not in path for path in head)
    assert embeddings | head | paths(factors, lambda f: f.ndim > 0) == paths(params, lambda _: True)


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match=r"layer_factors: got decay=0.0; wanted a number in \(0, 1\]"):
        scaled(PARAMS, 0.0, 0)
    with pytest.raises(ValueError, match="layer_factors: got frozen=4; wanted 0 to 3"):
        train.scale_by_layer(1.0, 4).init(PARAMS)
    with pytest.raises(ValueError, match="got params without 'layers'"):
        scaled({"kernel": jnp.ones(3)}, 0.5, 0)
    with pytest.raises(ValueError, match="got a scalar below 'layers'; wanted stacked arrays"):
        scaled({"layers": {"gain": jnp.float32(1)}}, 0.5, 0)

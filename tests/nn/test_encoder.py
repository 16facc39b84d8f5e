"""Encoder: fields that only decoders use, and the effect of positions and context."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn.models import POSITIONS, TINY, T, assert_close, build, run, tokens
from tfm_jax import nn


@pytest.mark.parametrize("module", [nn.Encoder, functools.partial(nn.Classifier, n_classes=3)])
def test_encoders_reject_a_window(module):
    with pytest.raises(ValueError, match="Encoder: got window=3; wanted None"):
        nn.functionalize(module, dataclasses.replace(TINY, window=3))


@pytest.mark.parametrize("fields", [{"logits_scale": 0.5}, {"logits_bias": True}], ids=str)
@pytest.mark.parametrize("module", [nn.Encoder, nn.MaskedLanguageModel])
def test_encoders_reject_logits_scale_and_bias(module, fields):
    with pytest.raises(ValueError, match=r"Encoder: got logits_scale=.*; wanted 1.0 and False"):
        nn.functionalize(module, dataclasses.replace(TINY, **fields))


def test_images_have_no_token_types():
    model, params = build(nn.Encoder, patches=nn.Patches(2, 3))
    with pytest.raises(ValueError, match=r"Encoder: got token_types with Patches\(.*; wanted None"):
        model.apply(params, jnp.ones((2, 3, 1)), token_types=jnp.zeros(6, jnp.int32))


def test_only_positions_break_permutation_equivariance():
    order = jnp.array([3, 0, 4, 1, 2])
    x = tokens(T)
    model, params = build(nn.Encoder, positions=None)
    assert_close(run(model, params, x[order]), run(model, params, x)[order])
    for name in ("sinusoidal", "learned", "rope", "alibi", "relative"):
        model, params = build(nn.Encoder, positions=POSITIONS[name])
        assert not np.allclose(run(model, params, x[order]), run(model, params, x)[order], atol=1e-3), name


def test_vectors_depend_on_context():
    model, params = build(nn.Encoder)
    one = run(model, params, jnp.array([1, 2, 3, 4]))[0]
    other = run(model, params, jnp.array([1, 5, 6, 7]))[0]
    assert not np.allclose(one, other, atol=1e-2)


def test_sequence_longer_than_the_position_table():
    model, params = build(nn.Encoder, positions=nn.Learned(max_length=9))
    with pytest.raises(ValueError, match="Learned: got a sequence of 10; wanted at most max_length=9"):
        model.apply(params, tokens(10))

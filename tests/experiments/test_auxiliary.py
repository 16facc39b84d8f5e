"""The losses of the experiments have the auxiliary losses of a feed-forward layer from elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification.run import make_loss as classification
from experiments.images.augment import AugmentConfig
from experiments.images.run import make_loss as images
from experiments.language_model.run import make_loss as language_model
from experiments.translation.run import make_loss as translation
from tests.nn.third_party import Experts
from tfm_jax import nn

RNG = np.random.default_rng(0)
NO_CHANGE = AugmentConfig(rotate=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0)


def ids(*shape):
    return RNG.integers(1, 11, shape).astype(np.int32)


def ones(*shape):
    return np.ones(shape, np.float32)


TEXTS = {"tokens": ids(2, 7), "labels": ids(2, 7), "weights": ones(2, 7), "segment_ids": ids(2, 7) // 11 + 1,
         "positions": np.tile(np.arange(7, dtype=np.int32), (2, 1))}  # fmt: skip
PAIRS = {"source": ids(2, 5), "valid": ids(2, 5) > 3, "target": ids(2, 7), "labels": ids(2, 7),
         "weights": ones(2, 7)}  # fmt: skip
LABELLED = {"labels": np.array([0, 2], np.int32), "weights": ones(2)}
NAMES = {**LABELLED, "tokens": ids(2, 5), "valid": np.ones((2, 5), bool)}
IMAGES = {**LABELLED, "images": RNG.uniform(size=(2, 4, 6, 1)).astype(np.float32)}
CASES = {
    "language_model": (nn.Decoder, (), {}, functools.partial(language_model, bits_per_nat=1.0), TEXTS),
    "translation": (nn.EncoderDecoder, (), {}, functools.partial(translation, label_smoothing=0.0), PAIRS),
    "classification": (nn.Classifier, (3,), {},
                       functools.partial(classification, label_smoothing=0.0), NAMES),
    "images": (nn.Classifier, (3,), {"patches": nn.Patches(4, 6, 1, 2)},
               functools.partial(images, augmentation=NO_CHANGE, label_smoothing=0.0), IMAGES),
}  # fmt: skip


def make(case, feed_forward):
    module, args, fields, make_loss, batch = CASES[case]
    sizes = {"vocab_size": 11, "d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 6}
    model = nn.functionalize(module, nn.Config(**sizes, feed_forward=feed_forward, **fields), *args)
    return make_loss(model), jax.jit(model.init)(jax.random.key(0)), batch


@pytest.mark.parametrize("case", list(CASES))
def test_auxiliary_losses_are_metrics_and_part_of_the_training_loss(case):
    loss_fn, params, batch = make(case, Experts())
    (plain, weight), metrics = jax.jit(functools.partial(loss_fn, key=None))(params, batch)
    (trained, trained_weight), train_metrics = jax.jit(loss_fn)(params, batch, jax.random.key(1))
    balance = float(metrics["balance"][0] / metrics["balance"][1])
    assert 1.0 < balance < 3.0  # 1 if the experts are used equally, 3 for one of three
    assert float(train_metrics["balance"][0]) == pytest.approx(float(metrics["balance"][0]), rel=1e-5)
    assert float(trained_weight) == float(weight)
    assert float(trained - plain) == pytest.approx(balance * float(weight), rel=1e-3)


def test_a_step_trains_the_gate_of_the_experts():
    loss_fn, params, batch = make("language_model", Experts())

    def balance_alone(params, batch, key):
        (total, weight), metrics = loss_fn(params, batch, key)
        (plain, _), _ = loss_fn(params, batch, None)
        return (total - plain, weight), metrics

    gradients = jax.jit(jax.grad(lambda p: balance_alone(p, batch, jax.random.key(0))[0][0]))(params)
    assert jnp.abs(gradients["stack"]["layers"]["feed_forward"]["gate"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize("case", list(CASES))
def test_layers_of_the_library_have_none(case):
    loss_fn, params, batch = make(case, nn.Glu())
    (plain, _), metrics = jax.jit(functools.partial(loss_fn, key=None))(params, batch)
    (trained, _), train_metrics = jax.jit(loss_fn)(params, batch, jax.random.key(1))
    assert float(trained) == pytest.approx(float(plain), rel=1e-6)  # the translation's is computed in chunks
    assert {*metrics, *train_metrics} <= {"accuracy", "bits_per_byte"}

"""Initializers have their standard deviations, over the axes of inputs and outputs."""

import jax
import numpy as np
import pytest

from tfm_jax import nn

SHAPE, AXES = (3, 40, 5, 60), {"in_axes": (1,), "out_axes": (2, 3)}  # of 3 experts


@pytest.mark.parametrize(
    ("initializer", "std"),
    [
        (nn.GlorotUniform(), (2 / 340) ** 0.5),
        (nn.LecunNormal(), 40**-0.5),
        (nn.Normal(), 300**-0.5),
        (nn.Normal(0.3), 0.3),
        (nn.TruncatedNormal(0.3), 0.3 * 0.8796),
    ],
    ids=str,
)
def test_standard_deviation(initializer, std):
    x = initializer(jax.random.key(0), SHAPE, **AXES)
    assert x.shape == SHAPE and x.dtype == np.float32
    assert abs(float(x.mean())) < 0.02 * std
    assert float(x.std()) == pytest.approx(std, rel=0.02)


def test_default_initializers_are_those_of_the_paper():
    assert nn.Config().initializers == nn.Initializers(nn.GlorotUniform(), nn.Normal())
    kernel = nn.GlorotUniform()(jax.random.key(0), (40, 60), in_axes=(0,), out_axes=(1,))
    wanted = jax.nn.initializers.glorot_uniform()(jax.random.key(0), (40, 60))
    np.testing.assert_array_equal(kernel, wanted)

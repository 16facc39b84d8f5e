"""Patch embedding against numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn

CONFIG = nn.Config(
    d_model=5, n_heads=1, d_ff=4, n_layers=1, positions=None, patches=nn.Patches(4, 6, channels=3, size=2)
)


@pytest.mark.parametrize("height, width", [(2, 2), (4, 3)])
def test_patches_are_in_row_major_order(height, width):
    size = height if height == width else (height, width)
    patches = dataclasses.replace(CONFIG.patches, size=size)
    model = nn.functionalize(patches.build, CONFIG)
    params = model.init(jax.random.key(0))
    image = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    kernel, bias = params["projection"]["kernel"], params["projection"]["bias"]
    wanted = [
        image[row : row + height, column : column + width].reshape(-1) @ kernel + bias
        for row in range(0, 4, height)
        for column in range(0, 6, width)
    ]
    assert len(wanted) == patches.count
    np.testing.assert_allclose(model.apply(params, jnp.asarray(image)), wanted, rtol=1e-5, atol=1e-6)


def test_class_token_comes_first():
    config = dataclasses.replace(CONFIG, patches=dataclasses.replace(CONFIG.patches, class_token=True))
    model = nn.functionalize(config.patches.build, config)
    params = model.init(jax.random.key(0))
    params["class_token"] = jnp.arange(5.0)[None]
    out = model.apply(params, jnp.ones((2, 4, 6, 3)))
    assert out.shape == (2, 7, 5)
    np.testing.assert_array_equal(out[:, 0], [np.arange(5.0)] * 2)


def test_image_of_another_size():
    model = nn.functionalize(CONFIG.patches.build, CONFIG)
    with pytest.raises(ValueError, match=r"got images of shape \(2, 6, 4, 3\); wanted .* with \(4, 6, 3\)"):
        model.apply(model.init(jax.random.key(0)), jnp.ones((2, 6, 4, 3)))


def test_patch_size_must_divide_the_image():
    with pytest.raises(
        ValueError, match="Patches: got size=3 with images of 8 x 6; wanted a size that divides both"
    ):
        nn.Patches(8, 6, size=3)

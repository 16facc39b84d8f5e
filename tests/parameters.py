"""Random parameters for tests of a model's outputs, drawn by NumPy without a compilation."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(model, seed=3, std=0.3):
    """Normal numbers in the shapes of ``model.init``, with mean 1 for the scales of norms."""
    rng = np.random.default_rng(seed)

    def numbers(path, x):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(mean, std, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(numbers, jax.eval_shape(model.init, jax.random.key(0)))

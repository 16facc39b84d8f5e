import chex
import jax
import jax.numpy as jnp
import optax

from tests.train import problem
from tfm_jax import train


def test_state_is_a_pytree_with_named_paths_under_jit_vmap_and_eval_shape():
    optimizer = optax.adam(1e-3)

    def make(key):
        return train.init_state(problem.init(key), optimizer, key, ema=True)

    state = make(jax.random.key(0))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}
    assert {"step", "key", "params/hidden/bias", "ema/out/kernel", "opt_state/0/count"} <= names
    assert state.step.dtype == jnp.int32 and state.step.shape == ()
    chex.assert_trees_all_equal(jax.jit(lambda s: s)(state), state)
    assert jax.vmap(make)(jax.random.split(jax.random.key(0), 3)).step.shape == (3,)
    assert jax.eval_shape(make, jax.random.key(0)).params["out"]["kernel"].shape == (5, 2)


def test_ema_is_none_by_default_else_a_copy_of_the_params():
    params = problem.init(jax.random.key(0))
    assert train.init_state(params, optax.sgd(0.1), jax.random.key(0)).ema is None
    ema = train.init_state(params, optax.sgd(0.1), jax.random.key(0), ema=True).ema
    chex.assert_trees_all_equal(ema, params)
    for kept, original in zip(jax.tree.leaves(ema), jax.tree.leaves(params), strict=True):
        assert kept.unsafe_buffer_pointer() != original.unsafe_buffer_pointer()

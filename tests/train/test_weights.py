import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from tfm_jax import train


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints")
    everywhere = train.Pmap(data=8)
    with train.Checkpoints(path, keep=9) as checkpoints:
        for step in range(1, 8):
            params = {"a": {"w": jnp.full((3, 2), step**2.0)}, "b": jnp.full(4, step, jnp.bfloat16)}
            state = train.init_state(params, optax.adam(0.1), jax.random.key(0), ema=True)
            checkpoints.save(step, everywhere.place_state(state))
    return path


def test_weights_are_read_alone_whatever_devices_they_were_on(directory):
    params = train.load_params(directory)
    chex.assert_trees_all_equal(
        params, {"a": {"w": jnp.full((3, 2), 49.0)}, "b": jnp.full(4, 7, jnp.bfloat16)}
    )
    assert len(params["b"].devices()) == 1
    chex.assert_trees_all_equal(train.load_params(directory, 2)["b"], jnp.full(4, 2, jnp.bfloat16))
    assert train.load_params(directory, 2, item="ema")["b"].dtype == jnp.float32


def test_the_average_is_that_of_the_last(directory):
    chex.assert_trees_all_close(
        train.average_params(directory, last=5),
        {"a": {"w": jnp.full((3, 2), (9 + 16 + 25 + 36 + 49) / 5)}, "b": jnp.full(4, 5, jnp.bfloat16)},
    )
    chex.assert_trees_all_equal(train.average_params(directory, last=1), train.load_params(directory))


def test_the_average_leaves_out_a_best_one_from_before_and_one_in_between(tmp_path):
    with train.Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (2, 5, 6, 8, 9):
            params = {"w": jnp.full(3, float(step))}
            checkpoints.save(step, train.init_state(params, optax.sgd(0.1), jax.random.key(0)))
    assert train.unbroken_steps(tmp_path, 2) == [6, 8, 9]
    assert train.unbroken_steps(tmp_path) == [2, 5, 6, 8, 9]
    chex.assert_trees_all_close(
        train.average_params(tmp_path, last=3, every=2), {"w": jnp.full(3, 23 / 3)}, rtol=1e-6
    )
    with pytest.raises(
        ValueError, match=r"last 4 checkpoints, one in every 2 steps,.* has 3: steps \[6, 8, 9"
    ):
        train.average_params(tmp_path, last=4, every=2)


def test_what_is_not_there_is_one_clear_error(directory, tmp_path):
    with pytest.raises(ValueError, match=r"the last 8 checkpoints.*has 7: steps \[1, 2"):
        train.average_params(directory, last=8)
    with pytest.raises(ValueError, match=r"has 0: steps \[\]"):
        train.average_params(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="a checkpoint of step 9"):
        train.load_params(directory, 9)
    with pytest.raises(FileNotFoundError, match="latest"):
        train.load_params(tmp_path)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, train.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)))
    with pytest.raises(FileNotFoundError, match=r"step 1 .* has no ema"):
        train.load_params(tmp_path, item="ema")

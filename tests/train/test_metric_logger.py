import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import problem
from tests.train.test_loop import STEP, initial, plain_step
from tfm_jax import train
from tfm_jax.train.metric_logger import MetricLogger
from tfm_jax.train.throughput import Throughput


def test_logger_writes_weighted_means_since_the_last_write():
    written = []
    throughput = Throughput("tokens")
    logger = MetricLogger(lambda step: 0.5 * step, throughput, 2, [lambda *line: written.append(line)])
    logger.start()
    for step, loss in ((1, 2.0), (2, 6.0), (3, 1.0)):
        logger.push(step, {"loss": (jnp.float32(loss * step), jnp.float32(step))})
    logger.write(3, {"accuracy": 0.5})
    assert [(step, evaluation) for step, _, evaluation in written] == [(2, {}), (3, {"accuracy": 0.5})]
    first, second = (means for _, means, _ in written)
    assert (first["loss"], second["loss"]) == (pytest.approx((2.0 + 12.0) / 3), 1.0)
    assert (first["learning_rate"], second["learning_rate"]) == (0.5, 1.0)
    assert first["tokens_per_second"] > 0


def test_metrics_are_read_one_step_late():
    started, written = [], []

    def step(state, batch):
        started.append(len(started) + 1)
        return STEP(state, batch)

    train.fit(
        step, initial(), problem.Batches(), steps=6, log_every=1,
        writers=[lambda number, *_: written.append((number, started[-1]))],
    )  # fmt: skip
    assert written == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 6)]


def poisoned(params, batch, key):
    """A loss that is nan from batch 6."""
    (total, weight), metrics = problem.loss_fn(params, batch, key)
    return (jnp.where(batch["number"][0] >= 6, jnp.nan, total), weight), metrics


class Numbered(problem.Batches):
    def __next__(self):
        batch = super().__next__()
        return {**batch, "number": np.full(self.size, self.next, np.int32)}


@pytest.mark.parametrize("every", [1, 3, 100])
def test_nan_loss_stops_the_run_and_is_never_saved(tmp_path, every):
    with train.Checkpoints(tmp_path, keep=100) as checkpoints:
        with pytest.raises(train.NotFiniteError, match="fit: got a loss of nan at step 6; wanted"):
            train.fit(
                plain_step(poisoned), initial(), Numbered(), steps=20,
                checkpoints=checkpoints, checkpoint_every=every,
            )  # fmt: skip
        assert checkpoints.steps() == [s for s in range(1, 6) if s % every == 0]
    for step in train.Checkpoints(tmp_path).steps():
        chex.assert_tree_all_finite(train.load_params(tmp_path, step))


def test_gradient_or_weight_that_is_not_finite_stops_the_run(tmp_path):
    def root(params, batch, key):  # finite, but its gradient at 0 is not
        pair, metrics = problem.loss_fn(params, batch, key)
        zero = jnp.where(batch["number"][0] >= 4, params["out"]["kernel"][0, 0] * 0.0, 1.0)
        return (pair[0] + jnp.sqrt(zero), pair[1]), metrics

    with train.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(train.NotFiniteError, match="fit: got a gradient norm of nan at step 4; wanted"):
            train.fit(
                plain_step(root), initial(), Numbered(), steps=20, checkpoints=checkpoints, checkpoint_every=2
            )
        assert checkpoints.steps() == [2]

    huge = optax.chain(optax.scale_by_schedule(lambda t: jnp.where(t < 3, 1.0, jnp.inf)), optax.sgd(0.01))
    state = train.init_state(problem.init(jax.random.key(0)), huge, jax.random.key(1))
    with train.Checkpoints(tmp_path / "weights") as checkpoints:
        with pytest.raises(train.NotFiniteError, match="fit: got a weight that is not finite after step 4"):
            train.fit(
                jax.jit(train.make_train_step(problem.loss_fn, huge)), state, problem.Batches(), steps=20,
                checkpoints=checkpoints, checkpoint_every=2,
            )  # fmt: skip
        assert checkpoints.steps() == [2]

"""A run in a directory, new or resumed; also a program for tests that kill it."""

import sys
import time
from pathlib import Path

import jax
import optax

from tests.train import problem
from tfm_jax import train
from tfm_jax.train.run_directory import RunDirectory

OPTIMIZER = optax.adam(train.noam(8, 20))


class SlowBatches(problem.Batches):
    """Slow, so that a test can kill the run in between."""

    seconds = 0.0

    def __next__(self):
        time.sleep(self.seconds)
        return super().__next__()


def main(out, resume=False, steps=60, seconds=0.0, **options):
    parallel = train.Jit(train.make_mesh(data=2))
    run = RunDirectory(out, {"steps": steps}, resume=resume)
    step = train.make_train_step(problem.dropout_loss, OPTIMIZER, accumulate=2, clip_norm=1.0, ema_decay=0.9)
    state = train.init_state(problem.init(jax.random.key(0)), OPTIMIZER, jax.random.key(1), ema=True)
    state, batches, extra = parallel.place_state(state), SlowBatches(), None
    batches.seconds = seconds
    checkpoints = train.Checkpoints(run.checkpoints, keep=3)
    after = checkpoints.latest() or 0
    with checkpoints, train.JsonLines(run.metrics, after=after) as lines:
        if after:
            state, extra = train.resume(checkpoints, parallel.abstract(state), batches)
        settings = {"checkpoint_every": 7, "log_every": 5, "writers": [lines], "extra": extra, **options}
        result = train.fit(
            parallel.compile(step), state, batches, steps=steps, checkpoints=checkpoints, **settings
        )
        return result, after


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  the same JAX settings as the test

    main(Path(sys.argv[1]), seconds=float(sys.argv[2]))

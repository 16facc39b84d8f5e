"""Small programs for several processes, by name: ``main(mode, name)``."""

import dataclasses
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.train import problem
from tfm_jax import data, processes, train

OPTIMIZER = optax.adam(1e-3)


def main(mode, name, *arguments):
    processes.initialize(mode)
    with processes.together("case"):
        globals()[name](*arguments)


def show(value):
    """Writes to the real standard output, which only process 0 has otherwise."""
    sys.__stdout__.write(json.dumps(value) + "\n")
    sys.__stdout__.flush()


def values():
    processes.sync("start")
    made = processes.from_main("made", lambda: {"by": processes.index()})
    processes.agree("the config", {"steps": 3})
    last = processes.index() == processes.count() - 1
    flags = [bool(processes.any_process(flag)) for flag in (False, last)]
    mesh = Mesh(np.array(jax.devices()), "device")
    sharding = NamedSharding(mesh, P("device"))
    x = jax.make_array_from_callback((8,), sharding, lambda i: np.arange(8.0)[i])
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))(x)
    local = train.to_one_device({"x": x, "total": total})
    print("printed")
    show(
        {
            "refused": [_error(lambda: train.make_mesh(data=2)), _error(lambda: train.Pmap(_everywhere()))],
            "index": processes.index(),
            "count": processes.count(),
            "main": processes.is_main(),
            "made": made,
            "flags": flags,
            "local": [local["x"].tolist(), float(local["total"])],
            "devices": len(local["x"].sharding.device_set),
        }
    )


def _everywhere():
    return train.make_mesh(data="auto")


def _error(make):
    """The message of the ValueError that it raises."""
    try:
        make()
    except ValueError as error:
        return str(error)


def disagree():
    processes.agree("the config", {"steps": 3, "seed": processes.index() // 2, "same": "x"})


def main_raises():
    def fail():
        raise FileExistsError("runs/a: got files in it")

    processes.from_main("directory", fail)


def all_exit():
    sys.exit("case: got batch_size=7; wanted 8")


def usage():
    sys.exit(2)


def one_raises(number, directory):
    with processes.on_failure(lambda: Path(directory, str(processes.index())).touch()):
        if processes.index() == int(number):
            raise RuntimeError("disk full")
        processes.sync("never")


def one_is_killed(number="1"):
    if processes.index() == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def one_is_killed_in_a_collective(number="1"):
    multihost_utils.sync_global_devices("start")
    if processes.index() == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    multihost_utils.sync_global_devices("never")


def one_gets_sigterm(number="1"):
    processes.sync("start")
    if processes.index() == int(number):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def _state(parallel):
    """A state of which each device has a part."""

    def make():
        params = {"kernel": jnp.arange(48.0).reshape(8, 6), "bias": jnp.arange(5.0)}
        return train.init_state(params, OPTIMIZER, jax.random.key(3), ema=True)

    return parallel.create(make)


def _parallel():
    axes = {"kernel": "D F", "bias": "?"}
    return train.Jit(train.make_mesh(fsdp="auto"), axes=axes)


def save(directory):
    parallel = _parallel()
    state = _state(parallel)
    double = jax.jit(
        lambda state: dataclasses.replace(
            state, params=jax.tree.map(lambda x: x * 2, state.params), step=state.step + 1
        ),
        out_shardings=parallel.state_shardings(state),
        donate_argnums=0,
    )
    with train.Checkpoints(directory, keep=2, best="loss") as checkpoints:
        for step in range(1, 6):
            state = double(state)
            checkpoints.save(step, state, {"position": step}, {"loss": abs(step - 2.0)})
        steps, best = checkpoints.steps(), checkpoints.best()
    show({"steps": steps, "best": best})


def restore(directory):
    parallel = _parallel()
    abstract = parallel.abstract(_state(parallel))
    with train.Checkpoints(directory, keep=2, best="loss") as checkpoints:
        aside = checkpoints.set_aside(after=4)
        state, extra = checkpoints.restore(abstract)
        best = train.load_params(directory, checkpoints.best())
        steps = checkpoints.steps()
    kernel = state.params["kernel"]
    again = train.to_one_device({"kernel": kernel, "key": jax.random.key_data(state.key)})
    show(
        {
            "extra": extra,
            "steps": steps,
            "aside": aside.name if aside else None,
            "kernel": again["kernel"].tolist(),
            "key": again["key"].tolist(),
            "step": int(state.step),
            "shard": list(kernel.addressable_shards[0].data.shape),
            "best": best["kernel"].tolist(),
        }
    )


class _Failing(problem.Batches):
    """Batches of which process 1 cannot read the sixth."""

    def __next__(self):
        if self.next == 5 and processes.index() == 1:
            raise OSError("got a damaged file")
        batch = super().__next__()
        rank, world = self.share
        return {name: np.split(x, world)[rank] for name, x in batch.items()}


def fit_fails(directory):
    parallel = train.Jit(train.make_mesh(data="auto"))
    state = train.init_state(problem.init(jax.random.key(0)), OPTIMIZER, jax.random.key(1))
    batches = _Failing()
    batches.share = parallel.batch_share
    step = parallel.compile(train.make_train_step(problem.loss_fn, OPTIMIZER))
    with train.Checkpoints(directory) as checkpoints:
        train.fit(
            step, parallel.place_state(state), batches, steps=9, checkpoints=checkpoints, checkpoint_every=2
        )


class _Numbers:
    """Examples that are their own index."""

    fingerprint = 0

    def __len__(self):
        return 22

    def take(self, indices, shape=None):
        return {"x": indices.astype(np.int32), "weights": np.ones(len(indices), np.float32)}


def read(meshes):
    """Which examples a process reads on each of the meshes, and the batches that the devices get."""
    show([_read(train.Jit(train.make_mesh(**mesh))) for mesh in json.loads(meshes)])


def _read(parallel):
    rank, world = parallel.batch_share
    examples = _Numbers()
    shown = {"share": [rank, world]}
    for name, seed in (("training", 3), ("evaluation", None)):
        loader = data.Loader(
            examples, data.UniformBatchSampler(len(examples), 8, seed), rank=rank, world=world, threads=0
        )
        batches = list(itertools.islice(loader, 4 if seed else None))
        arrays = [parallel.place_batch(batch) for batch in batches]
        shown[name] = {
            "read": [i for batch in batches for i in batch["x"][batch["weights"] > 0].tolist()],
            "batches": [train.to_one_device(array["x"]).tolist() for array in arrays],
            "weight": sum(float(train.to_one_device(array["weights"]).sum()) for array in arrays),
        }
    return shown

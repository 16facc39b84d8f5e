"""Restores a checkpoint in a process of its own and prints what it takes of the host's memory.

``python -m tests.train.restored_memory DIRECTORY DEVICES GB`` saves a state there if there is none, with the
arrays sharded over 8 devices; else restores it on this number of devices, at most GB gigabytes at a time.
"""

import json
import resource
import sys

import jax
import jax.numpy as jnp
import optax

from tfm_jax import train

ARRAYS, SHAPE = 16, (8, 512, 1024)
"""16 MiB each."""


def make_state(key):
    params = {f"kernel_{i}": jax.random.normal(jax.random.fold_in(key, i), SHAPE) for i in range(ARRAYS)}
    return train.init_state(params, optax.sgd(0.1), key)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(directory, devices, gigabytes):
    axes = {f"kernel_{i}": "D F H" for i in range(ARRAYS)}
    parallel = train.Jit(train.make_mesh(fsdp=devices), axes)
    key = jax.random.key(0)
    with train.Checkpoints(directory, restore_concurrent_gb=gigabytes) as checkpoints:
        if not checkpoints.steps():
            checkpoints.save(1, parallel.create(make_state, key))
            return
        abstract = parallel.abstract(jax.eval_shape(make_state, key))
        jnp.zeros(8).block_until_ready()  # the client exists
        before = peak()
        state, _ = checkpoints.restore(abstract)
        jax.block_until_ready(state)
    size = sum(x.nbytes for x in jax.tree.leaves(state.params))
    print(json.dumps({"state": size, "beyond": peak() - before - size}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))

"""Small programs for several processes, by name: ``main(mode, name)``."""

import json
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax import processes


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
    local = processes.local({"x": x, "total": total, "n": 3})
    print("printed")
    show(
        {
            "index": processes.index(),
            "count": processes.count(),
            "main": processes.is_main(),
            "made": made,
            "flags": flags,
            "local": [local["x"].tolist(), float(local["total"]), local["n"]],
            "devices": len(local["x"].sharding.device_set),
        }
    )


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


def one_raises(number="1"):
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

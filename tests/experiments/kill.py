"""Runs an experiment in a process and kills it; also the program of that process."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def kill_at(step, module, *arguments, out):
    """Runs ``python -m module`` with the JAX settings of the tests, and kills it after a checkpoint.

    Args:
      step: of the checkpoint.
      module: an experiment.
      *arguments: its arguments without ``--out``.
      out: the run's directory.

    Returns:
      The steps of the saved checkpoints.
    """
    command = [sys.executable, "-m", "tests.experiments.kill", module, "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    checkpoints = out / "checkpoints"
    deadline = time.monotonic() + 300
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while not (checkpoints / str(step)).exists() and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    return [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  the same JAX settings as the test

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

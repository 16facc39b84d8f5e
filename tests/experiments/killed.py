"""A command as a process of its own that a test kills; also what that process runs."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def kill_at(step, module, *arguments, out):
    """Runs ``python -m module`` with the settings of the tests, and kills it once a checkpoint is there.

    Args:
        step: of the checkpoint, or of the first after it.
        module: an experiment.
        *arguments: its own, but for ``--out``.
        out: the run's directory.

    Returns:
        The steps of the checkpoints that are left.
    """
    command = [sys.executable, "-m", "tests.experiments.killed", module, "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    checkpoints = out / "checkpoints"
    patience = time.monotonic() + 300
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while not (checkpoints / str(step)).exists() and time.monotonic() < patience:
            if process.poll() is not None:
                break
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    return [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  the same settings as the process that compares

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

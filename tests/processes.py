"""Starts the processes of a program on this machine, each with its own simulated devices."""

import importlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]


class Processes:
    """Processes that run ``python -m module``, connected over the loopback. A context manager: kills them.

    Args:
      n: number of processes.
      module: of ``tests``; its main function is called with the arguments.
      *arguments: of the module; ``{index}`` is replaced by the number of the process.
      devices: of each process.
      environment: further variables.
    """

    def __init__(self, n, module, *arguments, devices=2, environment=None):
        self.address = f"127.0.0.1:{_free_port()}"
        self.running = []
        for index in range(n):
            variables = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TEST_PROCESSES": f"{self.address},{n},{index}" if n > 1 else "off",
                "TEST_DEVICES": str(devices),
                **(environment or {}),
            }
            command = [sys.executable, "-m", "tests.processes", module]
            command += [str(argument).replace("{index}", str(index)) for argument in arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.running.append(subprocess.Popen(command, cwd=ROOT, env=variables, **pipes))

    def finish(self, timeout=300):
        """Waits for all; returns ``(exit status, standard output, standard error)`` of each."""
        deadline = time.monotonic() + timeout
        outputs = [p.communicate(timeout=max(1, deadline - time.monotonic())) for p in self.running]
        return [
            (process.returncode, *map(_without_notes, output))
            for process, output in zip(self.running, outputs, strict=True)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.communicate()


def run(n, module, *arguments, **options):
    """The standard outputs of processes that must succeed."""
    with Processes(n, module, *arguments, **options) as processes:
        ended = processes.finish()
    for status, _, error in ended:
        assert status == 0, error
    return [output for _, output, _ in ended]


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _without_notes(output):
    """Without the lines that gloo and absl print; several threads of gloo write into one line."""
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if not re.search(r"\[Gloo\]|^WARNING: All log|^[\d\s]*$", line))


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  the same JAX settings as the test

    jax.config.update("jax_num_cpu_devices", int(os.environ["TEST_DEVICES"]))
    importlib.import_module(sys.argv[1]).main(os.environ["TEST_PROCESSES"], *sys.argv[2:])

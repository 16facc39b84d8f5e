"""Many processes: start, agree, wait for each other, and end together.

Every process runs the same program on its own devices. With one process each function here does nothing.
"""

import collections
import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax._clusters import declared_tasks, local_devices
from tfm_jax.types import Array, Json

__all__ = [
    "agree",
    "any_process",
    "code_version",
    "count",
    "from_main",
    "index",
    "initialize",
    "is_main",
    "on_failure",
    "sync",
    "together",
]

T = TypeVar("T")
MODES = ("auto", "on", "off")
HEARTBEAT_SECONDS = 15
"""A process that sends no heartbeat for this long has ended; JAX then ends the others."""
_DAY = 24 * 3600 * 1000
"""Of a wait for another process, in milliseconds: one that ended is noticed long before."""
_GRACE = 3.0
"""Seconds for a process to report its own error after that of another one."""
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (FileExistsError, FileNotFoundError, ImportError, OSError, ValueError)
}
_COUNTS: collections.Counter[str] = collections.Counter()
_CLEANUPS: list[Callable[[], object]] = []
"""Those of `on_failure`, the innermost last."""


def initialize(mode: str = "auto") -> None:
    """Connects the processes of a program, before JAX is used.

    Equivalent to (where there is more than one)::

        jax.distributed.initialize(heartbeat_timeout_seconds=15)

    Args:
      mode: "auto" connects where Slurm, Open MPI, Kubernetes or a TPU pod declares more than one task; "on"
        always does, and requires one of these; "off" never does. ``"HOST:PORT,COUNT,INDEX"`` needs none of
        them: the address of process 0, the number of processes, and the number of this one.

    Raises:
      ValueError: for another mode, or where the processes cannot be found; the message has the fix.
    """
    if mode == "off" or jax.distributed.is_initialized():
        return
    if mode in MODES:
        found = declared_tasks()
        if mode == "auto" and (found is None or found[1] < 2):
            return
        if found is None:
            raise ValueError(
                "--distributed: got 'on' without Slurm, Open MPI, Kubernetes or a TPU pod; wanted the "
                "processes. Give --distributed HOST:PORT,COUNT,INDEX"
            )
        options: dict[str, Any] = local_devices()
    else:
        address, processes, number = _parse(mode)
        options = {"coordinator_address": address, "num_processes": processes, "process_id": number}
        options["cluster_detection_method"] = "deactivate"
    # The handler of JAX's preemption service ignores SIGTERM outside of training.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **options)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--distributed {mode}: got no connection of the processes ({reason:.300}); wanted one. Check "
            "that process 0 runs and that its port is open, or give --distributed off"
        ) from error


def count() -> int:
    """The number of processes; 1 where `initialize` connected none."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The number of this process, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is process 0, which prints and writes files."""
    return index() == 0


def sync(name: str) -> None:
    """Waits until every process is at this call.

    Args:
      name: of the place, the same on all.
    """
    if count() > 1:
        _client().wait_at_barrier(_key(name), _DAY)


def from_main(name: str, make: Callable[[], T]) -> T:
    """What process 0 makes, on every process.

    Equivalent to (with one process)::

        make()

    Args:
      name: of the value, the same on all.
      make: called by process 0 alone; it returns what JSON can hold.

    Returns:
      The value.

    Raises:
      ImportError, OSError, ValueError: what ``make`` raised, on every process.
    """
    if count() == 1:
        return make()
    key = _key(name)
    if not is_main():
        sent = json.loads(_client().blocking_key_value_get(key, _DAY))
        if "error" in sent:
            raise _ERRORS[sent["error"]](sent["message"])
        return sent["value"]
    try:
        value = make()
    except tuple(_ERRORS.values()) as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
        _client().key_value_set(key, json.dumps({"error": kind, "message": _line(error)}))
        raise
    _client().key_value_set(key, json.dumps({"value": value}))
    return value


def agree(name: str, value: Mapping[str, object]) -> None:
    """Checks that all processes have the same values.

    Args:
      name: of what they agree on, such as "the config".
      value: by field, as JSON can hold it.

    Raises:
      ValueError: on every process, where they differ; the message has the fields and the values.
    """
    if count() == 1:
        return
    key = _key(name)
    _client().key_value_set(f"{key}/{index()}", json.dumps(value, sort_keys=True, default=str))

    def differences() -> list[str]:
        values = [json.loads(_client().blocking_key_value_get(f"{key}/{i}", _DAY)) for i in range(count())]
        return [
            f"\n  {field}: process 0 has {values[0].get(field)!r}, process {i} has {other.get(field)!r}"
            for i, other in enumerate(values)
            for field in sorted(values[0].keys() | other.keys())
            if values[0].get(field) != other.get(field)
        ]

    if lines := from_main(f"{name}, compared", differences):
        shown = "".join(lines[:10]) + (f"\n  and {len(lines) - 10} more" if len(lines) > 10 else "")
        raise ValueError(
            f"got {count()} processes that disagree on {name}; wanted the same command, code and data for "
            f"each:{shown}"
        )


def any_process(flag: bool) -> Array:
    """Whether the flag is set on any process.

    The result is computed on the devices, after what was dispatched before: read it later, so that the host
    does not wait for them. All processes read the same.

    Args:
      flag: of this process.

    Returns:
      bool scalar
    """
    if count() == 1:
        return jnp.bool_(flag)
    flags = np.full(jax.local_device_count(), flag)
    shape = (jax.device_count(),)
    return _any()(jax.make_array_from_process_local_data(_one_each(), flags, shape))


def code_version() -> dict[str, Json]:
    """The versions of this package and of JAX, and a digest of the sources, for `agree`."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return {"jax": jax.__version__, "python": sys.version.split()[0], "sources": digest.hexdigest()}


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """Runs a program on all processes: only process 0 prints, and where one fails all end.

    A process that raises prints its error with its number; the others end within seconds with a message. One
    that is killed is noticed by its heartbeat, within 15 seconds. SIGTERM raises SystemExit, where no other
    handler is set.

    Args:
      name: of the program, printed before each message.

    Raises:
      Nothing, with several processes: an error ends the process.
    """
    if count() == 1:
        yield
        return
    ending = _Ending(name)
    with contextlib.ExitStack() as stack:
        if not is_main():
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(_exit_on_sigterm(name))
        try:
            yield
        except BaseException as error:
            if not (isinstance(error, SystemExit) and not error.code):
                ending.fail(error)
    ending.finish()


@contextlib.contextmanager
def on_failure(function: Callable[[], object]) -> Iterator[None]:
    """Calls a function where the body raises an Exception, or another process fails meanwhile.

    Args:
      function: such as one that removes a file; where another process failed, a thread calls it.
    """
    _CLEANUPS.append(function)
    try:
        yield
    except Exception:
        function()
        raise
    finally:
        _CLEANUPS.remove(function)


class _Ending:
    """Ends the processes together: by a key that the first one to fail sets, and that a thread waits for.

    A process that is killed sets no key: a second thread waits at a barrier, which fails when its heartbeats
    are missed. Process 0 and the others have one each, at which the main threads of those of the other one
    arrive at the end.
    """

    def __init__(self, name: str):
        self._name, self._client = name, _client()
        self._failing = threading.Event()
        """Set by the main thread after its own error."""
        self._one = threading.Lock()
        """Held by what ends this process: the main thread after its own error, or a watching thread."""
        watches = (self._watch_errors, self._watch_heartbeats)
        self._threads = [threading.Thread(target=watch, daemon=True) for watch in watches]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Waits for all, and disconnects."""
        sync("end of the program")
        if is_main():
            self._client.key_value_set(_FAILED, "{}")
        self._client.wait_at_barrier(_ALIVE[not is_main()], _DAY)
        for thread in self._threads:
            thread.join()
        jax.distributed.shutdown()

    def fail(self, error: BaseException) -> None:
        """Reports the error of this process to the others, prints it, and exits."""
        self._failing.set()
        self._one.acquire()
        number, message = index(), _describe(self._name, error)
        with contextlib.suppress(Exception):  # this process ends, whether or not the others can be reached
            self._client.key_value_set(f"{_FAILED}/{number}", message)
        with contextlib.suppress(Exception):  # another one was first
            self._client.key_value_set(_FAILED, json.dumps({"process": number, "message": message}))
        status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else None
        if status is None and not self._is_printed_by_main(message):  # with a status, the message was printed
            if not isinstance(error, (SystemExit, KeyboardInterrupt)) and not _is_of_runtime(error):
                traceback.print_exception(error)
            self._print(message)
        self._exit(1 if status is None else status)

    def _watch_errors(self) -> None:
        try:
            failed = json.loads(self._client.blocking_key_value_get(_FAILED, _DAY * 20))
        except Exception:  # the coordinator is gone: the other thread reports it
            return
        if not failed or self._failing.wait(_GRACE):
            return  # the end; or the main thread reports its own error
        self._one.acquire()
        self._print(f"ended, since process {failed['process']} failed: {failed['message']}")
        self._clean_up()
        self._exit(1)

    def _watch_heartbeats(self) -> None:
        try:
            self._client.wait_at_barrier(_ALIVE[is_main()], _DAY * 20)
        except Exception as error:  # at once, or JAX aborts this process with many lines
            if not self._one.acquire(blocking=False):
                return  # this process ends already
            found = re.search(r"Task (\d+) heartbeat timeout", str(error))
            which = f"process {found[1]} is" if found else "process 0, or the connection to it, is"
            self._print(f"ended, since {which} gone, killed or without a network; its output may say why")
            self._clean_up()
            os._exit(1)

    def _clean_up(self) -> None:
        for function in reversed(_CLEANUPS):
            with contextlib.suppress(Exception):
                function()

    def _is_printed_by_main(self, message: str) -> bool:
        """Whether process 0 failed with the same error, as all do on a wrong setting."""
        if is_main():
            return False
        try:
            return self._client.blocking_key_value_get(f"{_FAILED}/0", int(_GRACE * 1000)) == message
        except Exception:
            return False

    def _print(self, message: str) -> None:
        with contextlib.suppress(OSError):
            print(f"process {index()} of {count()}: {message}", file=sys.stderr, flush=True)

    def _exit(self, status: int) -> None:
        """Exits without the handlers of Python, which would wait for processes that are gone."""
        with contextlib.suppress(Exception):
            self._client.wait_at_barrier(f"{_FAILED}/end", int(_GRACE * 2000))
        if is_main():  # the coordinator is the last, or JAX aborts the others
            time.sleep(0.5)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


_FAILED = "tfm_jax/failed"
_ALIVE = ("tfm_jax/alive", "tfm_jax/alive of process 0")
"""Barriers that nobody passes before the end."""


@contextlib.contextmanager
def _exit_on_sigterm(name: str) -> Iterator[None]:
    """SIGTERM raises SystemExit, so that this process reports it to the others."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def receive(*_: object) -> None:
        sys.exit(f"{name}: got SIGTERM before the training or after it; nothing was saved")

    before = signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _client() -> Any:
    """The client of JAX's coordination service, for which JAX has no public name."""
    from jax._src import distributed

    return distributed.global_state.client


def _key(name: str) -> str:
    """A key for one use of a name: all processes use the names in the same order."""
    _COUNTS[name] += 1
    return f"tfm_jax/{name}/{_COUNTS[name]}"


def _describe(name: str, error: BaseException) -> str:
    """The error of a program in one line, or as its message is."""
    if _is_of_runtime(error):
        kept = "" if isinstance(error, SystemExit) else f"{name}: "
        return f"{kept}{_line(error):.300}. If another process ended, its output has the cause"
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, str) else f"{name}: exit status {error.code}"
    return f"{name}: {type(error).__name__}: {error}"


_STATUS = re.compile(
    r"(.*: )?(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): "
)


def _is_of_runtime(error: BaseException) -> bool:
    """Whether a computation failed, as all do where a process is gone: also JAX's ValueError of a status."""
    return isinstance(error, jax.errors.JaxRuntimeError) or _STATUS.match(str(error)) is not None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) if _is_of_runtime(error) else str(error)


def _parse(mode: str) -> tuple[str, int, int]:
    """``"HOST:PORT,COUNT,INDEX"``"""
    parts = mode.split(",")
    try:
        address, processes, number = parts[0], int(parts[1]), int(parts[2])
        host, _, port = address.rpartition(":")
        if len(parts) == 3 and host and 0 < int(port) < 2**16 and 0 <= number < processes:
            return address, processes, number
    except (IndexError, ValueError):
        pass
    raise ValueError(
        f"--distributed: got {mode!r}; wanted auto, on, off, or HOST:PORT,COUNT,INDEX, such as "
        "10.0.0.1:1234,2,0 for the first of two processes."
    )


@functools.cache
def _one_each() -> NamedSharding:
    """One element for each device of all processes."""
    return NamedSharding(Mesh(np.array(jax.devices()), "device"), P("device"))


@functools.cache
def _any() -> Callable[[Array], Array]:
    return jax.jit(jnp.any, out_shardings=NamedSharding(_one_each().mesh, P()))

"""JAX's persistent compilation cache, for commands and experiments: a second start does not compile again."""

import functools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_BYTES", "default_directory", "describe", "enable", "report_hits"]

MAX_BYTES = 2 * 2**30
"""The most that the cache holds; the least recently used programs are removed."""
_MIN_SECONDS = 0.2
_HIT = "/jax/compilation_cache/cache_hits"
_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


def default_directory() -> Path:
    """``tfm_jax/compiled`` in the user's cache directory, ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tfm_jax" / "compiled"


def enable(choice: str = "auto") -> None:
    """Configures JAX's persistent compilation cache; call it before the first compilation.

    Args:
      choice: "auto" leaves JAX's own configuration alone where it names a directory (such as
        ``JAX_COMPILATION_CACHE_DIR``) or disables the cache, and takes `default_directory` elsewhere, if it
        can be written; "off" disables the cache; anything else is the directory.

    Raises:
      ValueError: the directory cannot be written.
    """
    _counts()
    if choice == "off":
        _update(jax_enable_compilation_cache=False)
        return
    if choice == "auto":
        if _setting("jax_compilation_cache_dir") or not _setting("jax_enable_compilation_cache"):
            return
        directory = default_directory()
    else:
        directory = Path(choice).expanduser().absolute()
    try:
        if not choice:  # not the working directory
            raise FileNotFoundError("it has no name")
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(f"it cannot be written: {directory}")
    except OSError as error:
        if choice == "auto":
            return
        raise ValueError(
            f"--compilation-cache: got {choice!r}; wanted a directory that can be written, or off ({error})."
        ) from error
    _update(jax_enable_compilation_cache=True, jax_compilation_cache_dir=str(directory))
    if _setting("jax_compilation_cache_max_size") == -1:
        _update(jax_compilation_cache_max_size=MAX_BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        _update(jax_persistent_cache_min_compile_time_secs=_MIN_SECONDS)


def describe() -> str:
    """Where the cache is and how large, or that it is off."""
    directory = _setting("jax_compilation_cache_dir")
    if not directory or not _setting("jax_enable_compilation_cache"):
        return "off"
    limit = _setting("jax_compilation_cache_max_size")
    most = "without a limit" if limit < 0 else f"at most {limit / 2**30:.3g} GiB"
    if "://" in directory:
        return f"{directory}, {most}"
    sizes = [path.stat().st_size for path in Path(directory).glob("*-cache")]
    return f"{directory}, {most}; {len(sizes)} programs, {sum(sizes) / 2**20:.3g} MiB"


def report_hits(report: "Callable[[str], object]" = print) -> None:
    """Reports, in one line, how many programs of this process came from the cache; nothing without any."""
    counts = _counts()
    if counts.hits:
        programs = f"{counts.hits} program{'s' * (counts.hits > 1)}"
        directory = _setting("jax_compilation_cache_dir")
        report(
            f"compilation cache: {programs} from {directory}, {max(counts.saved, 0):.3g} s less to compile"
        )


def _setting(name: str) -> Any:
    import jax  # not before a command needs it: --help stays fast

    return getattr(jax.config, name)


def _update(**settings: object) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads the settings once, at the first compilation


@functools.cache
def _counts() -> SimpleNamespace:
    """The hits of this process since the first call, and the seconds that they saved; JAX adds to them."""
    import jax

    counts = SimpleNamespace(hits=0, saved=0.0)

    def count(event: str, **kwargs: object) -> None:
        counts.hits += event == _HIT

    def save(event: str, duration_secs: float, **kwargs: object) -> None:
        counts.saved += duration_secs if event == _SAVED else 0.0

    jax.monitoring.register_event_listener(count)
    jax.monitoring.register_event_duration_secs_listener(save)
    return counts

"""Reports of planned steps in the user's cache directory: a compilation for 256 chips takes minutes."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tfm_jax.train.plan.report import Report

__all__ = ["directory", "key_of", "load", "save", "versions"]

_FORMAT = 2
_ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
"""Variables that the compilers read."""
_PACKAGES = ("tfm_jax", "jax", "jaxlib", "libtpu", "jax-cuda13-pjrt", "jax-cuda13-plugin")


def directory() -> Path:
    """``tfm_jax/plans`` in the user's cache directory, ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tfm_jax" / "plans"


def key_of(experiment: str, topology: str, config: Mapping[str, object], package: str | None = None) -> str:
    """A name for the report of a config: it differs by release and flags of the compilers and by the sources.

    Args:
      experiment: its name.
      topology: such as ``"v5e:16x16"``.
      config: as JSON has it.
      package: the outermost package of the experiment, whose sources count beside those of ``tfm_jax``.
    """
    flags = {name: os.environ.get(name) for name in _ENVIRONMENT}
    roots = [Path(__file__).parents[2]]
    if package is not None and (file := getattr(sys.modules.get(package), "__file__", None)) is not None:
        path = Path(file)  # of a module, or the __init__.py of a package
        roots.append(path.parent if path.name == "__init__.py" else path)
    sources = hashlib.blake2b(digest_size=8)
    for root in roots:
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            sources.update(path.read_bytes())
    parts = [_FORMAT, experiment, topology, config, versions(), flags, sources.hexdigest()]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def versions() -> dict[str, str]:
    """The releases of this package, JAX and the compilers that are installed."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def load(key: str) -> Report | None:
    """A saved report; None where there is none that can be read."""
    try:
        return Report.from_json(json.loads((directory() / f"{key}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(key: str, report: Report) -> None:
    """Saves a report, if the directory can be written."""
    try:
        directory().mkdir(parents=True, exist_ok=True)
        part = directory() / f"{key}.{os.getpid()}.part"
        part.write_text(json.dumps(report.to_json()), encoding="utf-8")
        part.replace(directory() / f"{key}.json")
    except OSError:
        pass  # a read-only home: the next plan compiles again

"""The functions of other libraries, as their users call them, for the laws to be tried on.

A module a library, with ``PEERS``. A module that cannot be imported is a library that is not installed.
"""

import importlib
from collections.abc import Iterator

from benchmarks.peers.peer import Peer

__all__ = ["MODULES", "Peer", "found"]

MODULES = {
    "tfm_jax": "ours",
    "jax": "jax_nn",
    "flax": "flax_",
    "equinox": "equinox_",
    "dm-haiku": "haiku_",
    "torch": "torch_",
    "x-transformers": "x_transformers_",
    "keras": "keras_",
}
"""Modules by the name of the distribution that they ask."""


def found(names: list[str]) -> Iterator[tuple[str, tuple[Peer, ...] | None]]:
    """By distribution its peers; None where it is not installed."""
    for name in names:
        try:
            yield name, importlib.import_module(f"benchmarks.peers.{MODULES[name]}").PEERS
        except ImportError as error:
            if error.name and error.name.startswith("benchmarks"):
                raise
            yield name, None

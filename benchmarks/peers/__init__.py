"""Attention functions of other libraries, as their users call them, for ``benchmarks.laws``.

One module per library, with ``PEERS``. A library is not installed if its module cannot be imported.
"""

import importlib
from collections.abc import Iterator

from benchmarks.peers.peer import Peer

__all__ = ["MODULES", "Peer", "load"]

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
"""Modules by the name of the library's distribution."""


def load(names: list[str]) -> Iterator[tuple[str, tuple[Peer, ...] | None]]:
    """The peers of each distribution; None if it is not installed."""
    for name in names:
        try:
            yield name, importlib.import_module(f"benchmarks.peers.{MODULES[name]}").PEERS
        except ImportError as error:
            if error.name and error.name.startswith("benchmarks"):
                raise
            yield name, None

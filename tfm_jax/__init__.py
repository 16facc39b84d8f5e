"""Transformers as pure functions in JAX, wrapped in thin Flax modules.

Subpackages are imported on first use, so ``import tfm_jax`` is fast.
"""

import importlib
from typing import Any

__version__ = "0.5.0"
__all__ = ["data", "generate", "laws", "nn", "ops", "pretrained", "runs", "train", "types", "values", "viz"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

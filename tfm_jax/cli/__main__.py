"""``python -m tfm_jax.cli`` is ``tfm``."""

import sys

from tfm_jax.cli import main

__all__ = []

if __name__ == "__main__":
    sys.exit(main())

"""The command ``tfm``: models translate, write and embed; checkpoints are converted; laws are tried."""

from tfm_jax.cli.run import main

__all__ = ["main"]

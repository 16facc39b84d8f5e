"""The command ``tfm``: models translate, write, embed and classify; checkpoints are converted; laws tried."""

from tfm_jax.cli.run import main

__all__ = ["main"]

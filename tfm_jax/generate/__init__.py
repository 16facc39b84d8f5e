"""From a trained model to tokens."""

from tfm_jax.generate.decode import greedy, sample

__all__ = ["greedy", "sample"]

"""Pure functions on arrays: the Transformer without parameters. Imports only this room of the package."""

from tfm_jax.ops.dropout import dropout

__all__ = ["dropout"]

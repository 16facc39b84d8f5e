"""Which kind of device runs what is traced now."""

import jax

__all__ = ["current_platform"]


def current_platform() -> str:
    """Where what is traced now will run: on the mesh that is set, or on the default device.

    Equivalent to::

        jax.default_backend()                              # without a mesh

    Returns:
      "cpu", "gpu" or "tpu".
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)

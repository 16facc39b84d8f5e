"""What the commands share whose model reads texts, and writes none: ``tfm embed``, ``tfm classify``."""

import contextlib
import dataclasses
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.cli.lines import LineCommand
from tfm_jax.ranges import integer_range

__all__ = ["EncoderCommand"]

DEVICES = integer_range(1, 4096)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderCommand(LineCommand):
    """Which texts, which model, and on what."""

    text: Annotated[Positional[tuple[str, ...]], arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """Without any, and without --file, the lines of standard input."""
    model: Annotated[str, arg(metavar="DIR")]
    """The checkpoint: a directory, or a name of the Hugging Face hub, owner/name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the parameters and of what is computed."""
    allow_pickle: bool = False
    """Read pytorch_model.bin where there is no safetensors file; needs torch, asked to load weights only."""
    devices: Annotated[int, arg(metavar="N"), DEVICES] = 1
    """Devices that share each batch, each with the weights in its memory. A CPU becomes so many devices: try
    as many as it has cores."""

    def mesh(self) -> Any:
        """Of so many devices, into which a CPU is divided where none of them is in use yet; None for one."""
        if self.devices > self.batch_size:
            raise ValueError(
                f"--devices: got {self.devices}; wanted at most the {self.batch_size} of --batch-size."
            )
        if self.devices == 1:
            return None
        import jax

        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", self.devices)
        return tfm_jax.train.data_mesh(self.devices)

"""What ``tfm embed`` and ``tfm classify`` share: texts go into an encoder, on one or more devices."""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._lines import LineCommand
from tfm_jax.cli._output import check_output
from tfm_jax.ranges import integer_range

if TYPE_CHECKING:
    from jax.sharding import Mesh

__all__ = ["EncoderCommand"]

DEVICES = integer_range(1, 4096)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderCommand(LineCommand):
    """Options for the texts, the model and the devices."""

    text: Annotated[Positional[tuple[str, ...]], arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """The texts. Without any, and without --file, the lines of standard input."""
    model: Annotated[str, arg(metavar="DIR")]
    """The checkpoint: a directory, or owner/name on the Hugging Face hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters and activations."""
    allow_pickle: bool = False
    """Read pytorch_model.bin if there is no safetensors file. Needs torch, which loads weights only."""
    devices: Annotated[int, arg(metavar="N"), DEVICES] = 1
    """Split each batch over N devices, each with all weights. A CPU becomes N devices; try one per core."""
    out: Path | None = None

    def check(self) -> None:
        """Checks the texts, the number of devices and the output file."""
        super().check()
        if self.devices > self.batch_size:
            raise ValueError(
                f"--devices: got {self.devices}; wanted at most --batch-size, {self.batch_size}."
            )
        check_output(self.out)

    def mesh(self) -> "Mesh | None":
        """A mesh of the devices, or None for one; divides the CPU if JAX has not started."""
        if self.devices == 1:
            return None
        import jax

        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", self.devices)
        return tfm_jax.train.make_mesh(data=self.devices)

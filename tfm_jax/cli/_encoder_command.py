"""What ``tfm embed`` and ``tfm classify`` share: inputs go into an encoder, on one or more devices."""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._model_command import ModelCommand
from tfm_jax.cli._output import check_output
from tfm_jax.ranges import integer_range

if TYPE_CHECKING:
    from jax.sharding import Mesh

__all__ = ["EncoderCommand"]

DEVICES = integer_range(1, 4096)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderCommand(ModelCommand):
    """Options for the devices and the output."""

    devices: Annotated[int, arg(metavar="N"), DEVICES] = 1
    """Split each batch over N devices, each with all weights. A CPU becomes N devices; try one per core."""
    out: Path | None = None

    def check(self) -> None:
        """Checks the number of devices and the output file too."""
        super().check()
        if self.devices > self.batch_size:
            raise ValueError(
                f"--devices: got {self.devices}; wanted at most --batch-size, {self.batch_size}."
            )
        check_output(self.out)

    def check_model(self) -> str | None:
        """The task of the model, as of any command, and also where an older version wrote the run."""
        task = super().check_model()
        if task is None and self.is_run:  # a generator, or an error that says how to write task.json
            generator: Any = tfm_jax.runs.load_run(self.directory)
            self.check_generator(generator)
        return task

    @property
    def load_options(self) -> dict[str, Any]:
        """The mesh too."""
        mesh = self.mesh()
        return super().load_options | ({} if mesh is None else {"mesh": mesh})

    def mesh(self) -> "Mesh | None":
        """A mesh of the devices, or None for one; divides the CPU if JAX has not started."""
        if self.devices == 1:
            return None
        import jax

        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", self.devices)
        return tfm_jax.train.make_mesh(data=self.devices)

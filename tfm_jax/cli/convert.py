"""``tfm convert``: a run, or a checkpoint, as safetensors in a directory that transformers loads."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._model_command import check_source, option_errors
from tfm_jax.cli._options import Command, optional
from tfm_jax.console import print_error
from tfm_jax.ranges import Size

if TYPE_CHECKING:
    from tfm_jax.pretrained import CheckpointConfig

__all__ = ["Convert"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Convert a run, or a checkpoint, to what transformers loads: safetensors, config.json, tokenizer."""

    source: Annotated[Positional[str], arg(metavar="MODEL")]
    """A run of an experiment; or a checkpoint: a directory, or owner/name on the Hugging Face hub."""
    target: Annotated[Positional[Path], arg(metavar="DIR")]
    """The directory to write. It is created, or must be empty."""
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, optional("{float32,bfloat16}", "that of MODEL, or float32")
    ] = None
    """Dtype of the written tensors."""
    average: Annotated[Size | None, optional("N", "the run's config, or 1")] = None
    """Of a run: how many of the last checkpoints to average."""
    allow_pickle: bool = False
    """Of a checkpoint: read pytorch_model.bin if there is no safetensors file. Needs torch, which loads
    weights only."""
    no_tokenizer: bool = False
    """Of a checkpoint: do not convert the tokenizer; copy its files, of whatever class it is."""

    @functools.cached_property
    def is_run(self) -> bool:
        """Whether the model is a run; else it is a checkpoint."""
        return tfm_jax.runs.is_run(self.source)

    def check(self) -> None:
        """Checks that the options fit a run or a checkpoint, whichever the model is."""
        check_source(self, self.source, self.is_run, ("average",), ("allow_pickle", "no_tokenizer"))

    def run(self) -> int:
        """Returns 0; a model that cannot be converted raises."""
        return self._convert_run() if self.is_run else self._convert_checkpoint()

    def _convert_run(self) -> int:
        options = {"average": self.average, "dtype": self.dtype}
        with option_errors():
            architecture = tfm_jax.runs.convert_run(self.source, self.target, **options)
        print(f"{self.target}: {architecture}")
        return 0

    def _convert_checkpoint(self) -> int:
        from tfm_jax.pretrained.extra_files import find_other_files, is_tokenizer_file, write_files
        from tfm_jax.pretrained.weights.files import checkpoint_directory

        source = checkpoint_directory(self.source, allow_pickle=self.allow_pickle)
        _, params, config, tokenizer = tfm_jax.pretrained.load(
            source, self.dtype, allow_pickle=self.allow_pickle, tokenizer=not self.no_tokenizer
        )
        tfm_jax.pretrained.save(self.target, params, config, tokenizer)
        if self.no_tokenizer:
            kept = {name: data for name, data in config.files.items() if is_tokenizer_file(name)}
            write_files(self.target, kept)
        texts, others = find_other_files(source, config.files)
        for name in texts:
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, self.target / name)
        others += [name for name in config.files if not (self.target / name).exists()]
        self._convert_pickles(config)
        if others:
            print_error(f"not copied: {', '.join(others)}")
        return 0

    def _convert_pickles(self, config: "CheckpointConfig") -> None:
        """Converts the pickles of a sentence encoder's layers, or reports them."""
        pickles = [self.target / name for name in config.files if name.endswith("/pytorch_model.bin")]
        if self.allow_pickle:
            for path in pickles:
                _to_safetensors(path)
        elif left := [path for path in pickles if not path.with_name("model.safetensors").exists()]:
            names = ", ".join(str(path.relative_to(self.target)) for path in left)
            print_error(f"still pickles: {names}; --allow-pickle converts them too")


def _to_safetensors(path: Path) -> None:
    """Replaces a pickle by a ``model.safetensors`` beside it."""
    import numpy as np
    from safetensors.numpy import save_file

    from tfm_jax.pretrained.weights.files import open_weights

    weights = open_weights(path.parent, allow_pickle=True)
    tensors = {name: np.ascontiguousarray(weights.read(name)) for name in weights.shapes}
    save_file(tensors, path.with_name("model.safetensors"), metadata={"format": "pt"})
    path.unlink()

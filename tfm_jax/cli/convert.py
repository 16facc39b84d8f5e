"""``tfm convert``: any checkpoint that we read, as a directory that transformers loads."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.cli.lines import optional

__all__ = ["Convert"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Writes a checkpoint anew: safetensors with the names of today, that transformers loads."""

    source: Annotated[Positional[str], arg(metavar="SRC")]
    """The checkpoint: a directory, or a name of the Hugging Face hub, owner/name."""
    target: Annotated[Positional[Path], arg(metavar="DST")]
    """The directory to write; it is made, or must be empty."""
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, optional("{float32,bfloat16}", "as SRC, or float32")
    ] = None
    """Of the tensors that are written."""
    allow_pickle: bool = False
    """Read pytorch_model.bin where there is no safetensors file; needs torch, asked to load weights only."""
    no_tokenizer: bool = False
    """Convert the weights alone: the tokenizer's files are copied as they are, of whatever class it is."""

    def use(self) -> int:
        """Gives 0: what cannot be converted raises."""
        from tfm_jax.pretrained.extra_files import find_other_files, is_tokenizer_file, write_files
        from tfm_jax.pretrained.weights.files import checkpoint_directory

        pretrained = tfm_jax.pretrained
        source = checkpoint_directory(self.source, allow_pickle=self.allow_pickle)
        _, params, config, tokenizer = pretrained.load(
            source, self.dtype, allow_pickle=self.allow_pickle, tokenizer=not self.no_tokenizer
        )
        pretrained.save(self.target, params, config, tokenizer)
        if self.no_tokenizer:
            write_files(self.target, {x: y for x, y in config.files.items() if is_tokenizer_file(x)})
        texts, others = find_other_files(source, config.files)
        for name in texts:
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, self.target / name)
        others += [name for name in config.files if not (self.target / name).exists()]
        pickles = [self.target / name for name in config.files if name.endswith("/pytorch_model.bin")]
        if self.allow_pickle:
            for path in pickles:
                _as_safetensors(path)
        elif left := [path for path in pickles if not path.with_name("model.safetensors").exists()]:
            names = ", ".join(str(path.relative_to(self.target)) for path in left)
            print(f"tfm: still pickles: {names}; --allow-pickle converts them too", file=sys.stderr)
        if others:
            print(f"tfm: not copied: {', '.join(others)}", file=sys.stderr)
        return 0


def _as_safetensors(path: Path) -> None:
    """Replaces the pickle of a sentence model's layer by a ``model.safetensors``."""
    import numpy as np
    from safetensors.numpy import save_file

    from tfm_jax.pretrained.weights.files import open_weights

    weights = open_weights(path.parent, allow_pickle=True)
    tensors = {name: np.ascontiguousarray(weights.read(name)) for name in weights.shapes}
    save_file(tensors, path.with_name("model.safetensors"), metadata={"format": "pt"})
    path.unlink()

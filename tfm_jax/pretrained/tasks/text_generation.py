"""Text generation and translation with a checkpoint."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers

from tfm_jax import nn
from tfm_jax.generate import TextGenerator
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.families import find_architecture
from tfm_jax.pretrained.generation_config import check_changes, to_generation_config
from tfm_jax.pretrained.load import load_files
from tfm_jax.pretrained.tasks.batch_runner import require_tokenizer

__all__ = ["load_text_generator"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Tokenizer:
    """A checkpoint's tokenizer for ``TextGenerator``: it adds special tokens itself, and has no roles."""

    backend: tokenizers.Tokenizer
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None

    @property
    def vocab_size(self) -> int:
        return self._last_id + 1

    @functools.cached_property
    def _last_id(self) -> int:
        return max(self.backend.get_vocab().values(), default=-1)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(found.ids, np.int32) for found in self.backend.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)


def load_text_generator(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = "float32",
    *,
    allow_pickle: bool = False,
    generation: Settings | None = None,
) -> TextGenerator:
    """Loads a checkpoint that continues prompts, or translates, with its ``generation_config.json``.

    Equivalent to::

        model, params, config, tokenizer = load(path_or_repo_id, dtype)
        generate.TextGenerator(model, params, tokenizer, to_generation_config(config, **generation))

    Args:
      path_or_repo_id, dtype, allow_pickle: as for ``load``.
      generation: settings that replace the checkpoint's, by name, such as ``{"num_beams": 1}``; None removes
        one.

    Returns:
      The ``TextGenerator``. The tokenizer adds the checkpoint's special tokens to a text.

    Raises:
      FileNotFoundError: where there is no tokenizer, and as ``load``.
      ValueError: for a model that does not generate text, as ``to_generation_config``, and as ``load``.
    """
    check_changes(generation or {})
    files = CheckpointFiles.find(path_or_repo_id, allow_pickle=allow_pickle)
    model, params, config, _ = load_files(files, dtype)
    if find_architecture(config.architecture).module not in (nn.Decoder, nn.EncoderDecoder):
        raise ValueError(
            f"load_text_generator: got {files}, a {config.architecture}; wanted a model that generates text, "
            "such as LlamaForCausalLM."
        )
    tokenizer = _Tokenizer(require_tokenizer(files))
    return TextGenerator(model, params, tokenizer, to_generation_config(config, **(generation or {})))

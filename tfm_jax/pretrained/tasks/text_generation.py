"""A checkpoint as what writes or translates texts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers

from tfm_jax import nn
from tfm_jax.generate import TextGenerator
from tfm_jax.pretrained.families import known
from tfm_jax.pretrained.generation_config import check_changes, to_generation_config
from tfm_jax.pretrained.load import load

__all__ = ["load_text_generator"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Tokenizer:
    """A checkpoint's, which puts special tokens around a text itself; the recipe knows their roles."""

    backend: tokenizers.Tokenizer
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self.backend.get_vocab().values(), default=-1) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(found.ids, np.int32) for found in self.backend.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)


def load_text_generator(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = "float32",
    *,
    allow_pickle: bool = False,
    generation: Mapping[str, Any] | None = None,
) -> TextGenerator:
    """Loads a checkpoint that writes prompts on, or translates, as its ``generation_config.json`` says.

    Equivalent to::

        model, params, config, tokenizer = load(path_or_repo_id, dtype)
        generate.TextGenerator(model, params, tokenizer, to_generation_config(config, **generation))

    Args:
      path_or_repo_id, dtype, allow_pickle: as ``load`` takes them.
      generation: settings in the place of the checkpoint's, by their names, such as ``{"num_beams": 1}``;
        None takes one away.

    Returns:
      The ``TextGenerator``; its tokenizer puts around a text what the checkpoint's does.

    Raises:
      FileNotFoundError: where there is no tokenizer, and as ``load``.
      ValueError: for a model that writes no text, as ``to_generation_config``, and as ``load``.
    """
    check_changes(generation or {})
    model, params, config, tokenizer = load(path_or_repo_id, dtype, allow_pickle=allow_pickle)
    module = known(config.architecture).architectures[config.architecture].module
    if module not in (nn.Decoder, nn.EncoderDecoder):
        raise ValueError(f"{path_or_repo_id} is a {config.architecture}, which writes no text")
    if tokenizer is None:
        raise FileNotFoundError(f"there is no tokenizer in {path_or_repo_id}")
    recipe = to_generation_config(config, **(generation or {}))
    return TextGenerator(model, params, _Tokenizer(tokenizer), recipe)

"""Texts through a model in batches of few shapes, and what it gives for each back in their order."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax import nn
from tfm_jax.generate.batching import check_vocabulary
from tfm_jax.ops.tracing import current_platform
from tfm_jax.types import Array, Params

__all__ = ["BatchRunner", "length_of", "on_all_of", "over_slices", "tokenizer_in"]

Text = str | tuple[str, str]
_Run = Callable[[Array, Array, Array | None], Array]

_CPU_TOKENS = 1024
"""Tokens that a CPU device takes at once: what is computed of them stays in its caches."""


class BatchRunner:
    """Cuts texts to a length, and runs a model on them.

    Args:
      tokenizer: it is copied: the caller's stays as it is.
      max_length: in tokens.
      mesh: whose devices share each batch; None is one device.
      side: from which a longer text is cut: "right" or "left".
      vocab_size: of the model, which ids must be below; None is any.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        max_length: int,
        mesh: Mesh | None = None,
        *,
        side: str = "right",
        vocab_size: int | None = None,
    ):
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.devices = 1 if mesh is None else mesh.size
        self.sharding = None if mesh is None else NamedSharding(mesh, P(None, mesh.axis_names))
        platform = current_platform() if mesh is None else mesh.devices.flat[0].platform
        self.tokens_at_once = _CPU_TOKENS if platform == "cpu" else sys.maxsize
        self.tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.enable_truncation(max_length, direction=side)
        self.tokenizer.no_padding()

    def __call__(
        self, texts: Sequence[Text], batch_size: int, run: _Run
    ) -> list[tuple[tokenizers.Encoding, np.ndarray]]:
        """Runs a model on texts; those of like length share a batch.

        Args:
          texts: each a text, or a pair of them.
          batch_size: at least 1.
          run: gives [slices, B, ...] of tokens int32 [slices, B, T], their types int32 [slices, B, T], and
            which are valid, bool, or None where all are: see ``over_slices``.

        Returns:
          Of each text, in their order, what the tokenizer and what ``run`` made of it.

        Raises:
          ValueError: for a ``batch_size`` below 1, and an unknown token.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}")
        encodings = self.tokenizer.encode_batch(list(texts))
        if self.vocab_size is not None:
            check_vocabulary(texts, [x.ids for x in encodings], self.vocab_size, self.tokenizer.id_to_token)
        order = sorted(range(len(encodings)), key=lambda i: -len(encodings[i].ids))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = jax.device_put(self._padded([encodings[i] for i in rows]), self.sharding)
            given = np.concatenate(np.asarray(run(*batch)))
            found |= zip(rows, given, strict=False)  # a batch of some other number is filled up
        return [(encoding, found[i]) for i, encoding in enumerate(encodings)]

    def _padded(
        self, encodings: list[tokenizers.Encoding]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Tokens, their types, and which are valid, in few different shapes: each is compiled for, with a
        mask and without."""
        length = -(-max(1, *(len(x.ids) for x in encodings)) // 16) * 16
        length = min(length, self.max_length)
        wanted = -(-(1 << (len(encodings) - 1).bit_length()) // self.devices)
        fit = max(1, min(wanted, self.tokens_at_once // length))
        slices = -(-wanted // (1 << (fit.bit_length() - 1)))
        rows = -(-wanted // slices)  # and not as many as fit: a last slice would be filled up
        shape = (slices * rows * self.devices, length)
        tokens, types, valid = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
        for row, x in enumerate(encodings):
            n = len(x.ids)
            tokens[row, :n], types[row, :n], valid[row, :n] = x.ids, x.type_ids, True
        tokens, types, valid = (x.reshape(-1, rows * self.devices, length) for x in (tokens, types, valid))
        return tokens, types, None if valid.all() else valid  # no mask is faster than one that closes nothing


def over_slices(run: Callable[..., Array], params: Params, *batch: Array | None) -> Array:
    """Runs a model on slices of a batch, one after another.

    Equivalent to::

        at = lambda i: (None if x is None else x[i] for x in batch)
        jnp.stack([run(params, *at(i)) for i in range(slices)])

    Args:
      run: gives [B, ...] of parameters and of arrays [B, T].
      params: of the model.
      batch: each [slices, B, T]; a None stays one.

    Returns:
      [slices, B, ...].
    """
    return jax.lax.map(lambda arrays: run(params, *arrays), batch)


def on_all_of(mesh: Mesh | None) -> NamedSharding | None:
    """Where parameters lie whose batches a mesh shares: on each of its devices; None for one device.

    Args:
      mesh: whose axes are all of type Auto.

    Returns:
      The sharding.

    Raises:
      ValueError: for axes of another type.
    """
    if mesh is None:
        return None
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            f"got a mesh of {mesh.axis_types}, wanted axes of type Auto, as train.data_mesh(2) has"
        )
    return NamedSharding(mesh, P())


def length_of(said: Any, tokenizer: tokenizers.Tokenizer, config: nn.Config, directory: Path) -> int:
    """How many tokens a text is cut to.

    Args:
      said: in the files of the checkpoint: its ``max_seq_length`` or ``model_max_length``; 1e30 is no
        limit, None is that of the model's positions, or 512 where they have none.
      tokenizer: whose special tokens are counted.
      config: whose learned positions are a limit too.
      directory: of the checkpoint.

    Returns:
      The number.

    Raises:
      ValueError: for a length that is no whole number, or leaves no place for a token of the text.
    """
    special = tokenizer.num_special_tokens_to_add(False)
    whole = isinstance(said, int | float) and not isinstance(said, bool) and said % 1 == 0
    if said is not None and not (whole and said > special):
        raise ValueError(
            f"a text of {directory} may have {said!r} tokens, wanted a whole number, more than the {special} "
            "special ones: fix max_seq_length, or model_max_length in tokenizer_config.json"
        )
    learned = isinstance(config.positions, nn.Learned)
    limit = config.positions.max_length if learned else math.inf if said is not None else 512
    return int(min(limit, limit if said is None else said))


def tokenizer_in(directory: Path, tokenizer: tokenizers.Tokenizer | None) -> tokenizers.Tokenizer:
    """The tokenizer that ``load`` found; a FileNotFoundError where it found none."""
    if tokenizer is None:
        raise FileNotFoundError(f"there is no tokenizer in {directory}")
    return tokenizer

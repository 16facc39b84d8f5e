"""Batched inference: few shapes, in slices of one size; texts are grouped by length and restored in order."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard

import jax
import numpy as np
import tokenizers
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax import nn
from tfm_jax.generate.batching import check_vocabulary
from tfm_jax.ops.tracing import current_platform
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.sharding import ShardingRules, use_rules
from tfm_jax.types import Array, Params

__all__ = [
    "BatchRunner",
    "SlicedBatches",
    "Text",
    "check_batch_size",
    "map_slices",
    "max_length_of",
    "replicated",
    "require_tokenizer",
]

Text = str | tuple[str, str]
_Run = Callable[[Array, Array, Array | None], Array]

_CPU_TOKENS = 1024
"""Tokens in one slice on a CPU device: its activations fit into the caches."""


class SlicedBatches:
    """Runs a model on batches in slices of one size, on one device or on those of a mesh.

    Args:
      mesh: whose devices share each batch; None is one device.
    """

    def __init__(self, mesh: Mesh | None = None):
        self.devices = 1 if mesh is None else mesh.size
        self.mesh = mesh
        self.sharding = None if mesh is None else NamedSharding(mesh, P(None, mesh.axis_names))
        platform = current_platform() if mesh is None else mesh.devices.flat[0].platform
        self.tokens_per_slice = _CPU_TOKENS if platform == "cpu" else sys.maxsize

    def shape(self, n: int, length: int) -> tuple[int, int]:
        """The number of slices, and the examples in one, of a batch of n examples of this many tokens.

        Slices hold at least n examples, in few shapes: jit compiles each of them.
        """
        per_device = -(-(1 << (n - 1).bit_length()) // self.devices)
        fit = max(1, min(per_device, self.tokens_per_slice // length))
        slices = -(-per_device // (1 << (fit.bit_length() - 1)))
        return slices, -(-per_device // slices) * self.devices  # not as many as fit: the last would be padded

    def run(self, function: Callable[..., Array], *batch: np.ndarray | None) -> np.ndarray:
        """The outputs [slices * B, ...] of a function of arrays [slices, B, ...], or None."""
        placed = jax.device_put(batch, self.sharding)
        with self._on_mesh():
            return np.concatenate(np.asarray(function(*placed)))

    @contextlib.contextmanager
    def _on_mesh(self) -> Iterator[None]:
        """Inside it a model knows that all axes of the mesh share the batch."""
        if self.mesh is None:
            yield
            return
        rules = ShardingRules(parameters={}, activations={"B": self.mesh.axis_names}, exceptions={})
        with jax.set_mesh(self.mesh), use_rules(rules):
            yield


class BatchRunner(SlicedBatches):
    """Truncates texts and runs a model on them in batches.

    Args:
      tokenizer: is copied; the caller's does not change.
      max_length: in tokens.
      mesh: whose devices share each batch; None is one device.
      side: of a longer text that is truncated: "right" or "left".
      vocab_size: of the model, for a check of the ids; None checks nothing.
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
        super().__init__(mesh)
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = tokenizer.encode_special_tokens  # no file holds it
        self.tokenizer.enable_truncation(max_length, direction=side)
        self.tokenizer.no_padding()

    def __call__(
        self, texts: Sequence[Text], batch_size: int, run: _Run
    ) -> list[tuple[tokenizers.Encoding, np.ndarray]]:
        """Runs a model on texts; texts of similar length share a batch.

        Args:
          texts: each a text, or a pair of texts.
          batch_size: at least 1.
          run: maps token ids int32 [slices, B, T], token types int32 [slices, B, T], and the valid positions
            bool [slices, B, T] (None where all are) to [slices, B, ...]; see ``map_slices``.

        Returns:
          The encoding and the output of each text, in their order.

        Raises:
          ValueError: for a ``batch_size`` below 1, and an id outside the vocabulary.
        """
        check_batch_size("BatchRunner", batch_size)
        encodings = self.tokenizer.encode_batch(list(texts))
        if self.vocab_size is not None:
            check_vocabulary(texts, [x.ids for x in encodings], self.vocab_size, self.tokenizer.id_to_token)
        order = sorted(range(len(encodings)), key=lambda i: -len(encodings[i].ids))
        outputs: dict[int, np.ndarray] = {}
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            found = self.run(run, *self._padded([encodings[i] for i in indices]))
            outputs |= zip(indices, found, strict=False)  # the batch ends with empty sequences
        return [(encoding, outputs[i]) for i, encoding in enumerate(encodings)]

    def _padded(
        self, encodings: list[tokenizers.Encoding]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Token ids, token types and valid positions, in few shapes: jit compiles each of them."""
        length = -(-max(1, *(len(x.ids) for x in encodings)) // 16) * 16
        length = min(length, self.max_length)
        slices, B = self.shape(len(encodings), length)
        shape = (slices * B, length)
        tokens, types, valid = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
        for i, x in enumerate(encodings):
            n = len(x.ids)
            tokens[i, :n], types[i, :n], valid[i, :n] = x.ids, x.type_ids, True
        tokens, types, valid = (x.reshape(-1, B, length) for x in (tokens, types, valid))
        return tokens, types, None if valid.all() else valid  # without a mask attention is faster


def check_batch_size(function: str, batch_size: int) -> None:
    """Raises a ValueError for a batch size below 1."""
    if batch_size < 1:
        raise ValueError(f"{function}: got batch_size={batch_size}; wanted an integer of at least 1.")


def map_slices(run: Callable[..., Array], params: Params, *batch: Array | None) -> Array:
    """Runs a model on the slices of a batch, one after another.

    Equivalent to::

        at = lambda i: (None if x is None else x[i] for x in batch)
        jnp.stack([run(params, *at(i)) for i in range(slices)])

    Args:
      run: maps parameters and arrays [B, T] to [B, ...].
      params: of the model.
      batch: each [slices, B, T] or None.

    Returns:
      [slices, B, ...].
    """
    return jax.lax.map(lambda arrays: run(params, *arrays), batch)


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of parameters that every device of a mesh holds; None for one device.

    Args:
      mesh: with axes of type Auto only.

    Returns:
      The sharding.

    Raises:
      ValueError: for axes of another type.
    """
    if mesh is None:
        return None
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            f"load: got a mesh of {mesh.axis_types}; wanted axes of type Auto, as those of "
            "train.make_mesh(data=2)."
        )
    return NamedSharding(mesh, P())


def max_length_of(
    declared: object, tokenizer: tokenizers.Tokenizer, config: nn.Config, files: CheckpointFiles
) -> int:
    """The length that texts are truncated to, in tokens.

    Args:
      declared: ``max_seq_length`` or ``model_max_length`` of the checkpoint; 1e30 is no limit. None is the
        limit of the model's positions, or 512 where they have none.
      tokenizer: whose special tokens count.
      config: whose learned positions are another limit.
      files: of the checkpoint, for the message.

    Returns:
      The length.

    Raises:
      ValueError: for a length that is not an integer, or has no room for a token of the text.
    """
    special = tokenizer.num_special_tokens_to_add(False)
    if declared is not None and not _is_length(declared, special):
        raise ValueError(
            f"{files}: got a maximum length of {declared!r} tokens; wanted an integer above the {special} "
            "special tokens. Fix max_seq_length, or model_max_length in tokenizer_config.json."
        )
    limit = None if config.positions is None else config.positions.max_length
    lengths = [x for x in (limit, declared) if x is not None]
    return int(min(lengths, default=512))


def _is_length(value: object, special: int) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value % 1 == 0 and value > special


def require_tokenizer(files: CheckpointFiles) -> tokenizers.Tokenizer:
    """The tokenizer of a checkpoint; a FileNotFoundError where there is none."""
    if files.tokenizer is None:
        raise FileNotFoundError(f"load: got no tokenizer in {files}; wanted a tokenizer.json or the like.")
    return files.tokenizer

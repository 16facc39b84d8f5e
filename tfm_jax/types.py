"""Axis letters and type aliases of the library.

One letter per axis, everywhere: in comments of signatures (``# [..., T, N, H]``), in docstrings and in einsum
strings.

======  =============================================================
B       batch
T       query or target length
S       key or source length; T in self-attention
N       query heads
K       key/value heads; K divides N
H       head dimension
D       model dimension (``d_model``)
F       feed-forward dimension (``d_ff``)
V       vocabulary
L       layers
E       experts
P       pixels of a patch, or of one of its sides
R       buckets of relative positions
Y       token types
C       classes of a classifier, channels of an image
======  =============================================================

A letter may have a small suffix: ``Hv`` is the head dimension of the values. ``...`` is any number of leading
axes, often B: ops index from the right and accept any.
"""

from collections.abc import Mapping, Sequence
from typing import (
    Any,
    Generic,
    NamedTuple,
    NotRequired,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    runtime_checkable,
)

import jax
import numpy as np

LETTERS = frozenset("BTSNKHDFVLEPRYC")
"""The letters of this legend."""
Array = jax.Array
Key = jax.Array
"""A PRNG key from ``jax.random.key``, or the old form from ``jax.random.PRNGKey``. Use each key once."""
Params = dict[str, Any]
"""Model parameters: a plain, nested dict of arrays."""
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
"""What a JSON file can hold."""
SumWeight = tuple[Array, Array]
"""A loss or metric as ``(sum, weight)``, float32 scalars; both add over microbatches, devices and hosts."""


class Metric(NamedTuple):
    """A sum that is reported and adds nothing to the loss, among the auxiliary sums of a model."""

    sum: Array
    weight: Array


Batch = Mapping[str, Array]
"""Arrays by name, each with the batch axis first. The batches below say which names."""
ArrayT = TypeVar("ArrayT", bound=np.ndarray | jax.Array)
"""The arrays of a batch: NumPy's from a loader, JAX's in a loss."""
BatchT = TypeVar("BatchT", bound=Mapping[str, object])
"""A batch of any kind: one of those below, a `Batch`, or a ``TypedDict`` of your own."""


class LanguageModelBatch(TypedDict, Generic[ArrayT]):
    """Packed sequences of a language model."""

    tokens: ArrayT  # int32 [B, T]
    labels: ArrayT  # int32 [B, T]: the next token
    weights: ArrayT  # float32 [B, T]: of each label; 0 is padding
    segment_ids: ArrayT  # int32 [B, T]: of each document in its sequence, from 1; 0 is padding
    positions: ArrayT  # int32 [B, T]: from 0 in each segment
    index: NotRequired[ArrayT]  # int32 [B]: of each example, from a loader of one pass; -1 is padding


class TranslationBatch(TypedDict, Generic[ArrayT]):
    """Pairs of source and target sequences."""

    source: ArrayT  # int32 [B, S]
    valid: ArrayT  # bool [B, S]: False is padding of the source
    target: ArrayT  # int32 [B, T]: from BOS on
    labels: ArrayT  # int32 [B, T]: the next token of the target, up to EOS
    weights: ArrayT  # float32 [B, T]: of each label; 0 is padding
    index: NotRequired[ArrayT]  # int32 [B], as above


class TextClassificationBatch(TypedDict, Generic[ArrayT]):
    """Labelled sequences of tokens, or sequences of labelled tokens."""

    tokens: ArrayT  # int32 [B, T]
    valid: ArrayT  # bool [B, T]: False is padding
    labels: ArrayT  # int32 [B]; of tokens [B, T]
    weights: ArrayT  # float32 [B]: of each example; 0 is padding. Of tokens [B, T]; 0 has no label
    token_types: NotRequired[ArrayT]  # int32 [B, T]: of pairs, for an encoder with token types
    index: NotRequired[ArrayT]  # int32 [B], as above


class ImageClassificationBatch(TypedDict, Generic[ArrayT]):
    """Labelled images."""

    images: ArrayT  # float32 [B, height, width, channels], in [0, 1]
    labels: ArrayT  # int32 [B]
    weights: ArrayT  # float32 [B]: of each example; 0 is padding
    index: NotRequired[ArrayT]  # int32 [B], as above


@runtime_checkable
class Tokenizer(Protocol):
    """Interface of tokenizers, for data and generation.

    A special id is None if the tokenizer has no such token. ``decode`` drops special tokens.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    def encode_batch(self, texts: Sequence[str], /) -> list[np.ndarray]: ...
    def decode(self, ids: Sequence[int] | np.ndarray, /) -> str: ...

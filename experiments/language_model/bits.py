"""Bits per byte of a model, and of ``xz`` after the same training texts."""

import lzma
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfm_jax import train
from tfm_jax.train.parallel import Parallel
from tfm_jax.types import BatchT, Params

__all__ = ["bits_per_byte", "make_measure", "xz_bits_per_byte"]

XZ_WINDOW = 1 << 26
"""The dictionary size of xz -9, in bytes."""


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Bits per byte of texts.

    Equivalent to::

        sum(-log2(p) for p in probabilities of all tokens) / len("".join(texts).encode())

    Args:
      nats: the summed loss of all tokens of the texts, EOS included.
      n_bytes: the bytes of the texts in UTF-8, > 0.

    Returns:
      Bits per byte; 8 is no compression.
    """
    return nats / math.log(2) / n_bytes


def make_measure(loss_fn: train.LossFn[BatchT], parallel: Parallel) -> Callable[..., tuple[float, float]]:
    """Makes ``measure(params, batches) -> (nats, tokens)``.

    Args:
      loss_fn: ``(params, batch, None) -> ((nats, tokens), {...})``.
      parallel: how it runs on the devices.

    Returns:
      The function; it returns the summed loss of all batches and the number of their tokens.
    """
    step = parallel.compile_eval(train.make_eval_step(loss_fn, axis_name=parallel.axis_name))

    def measure(params: Params, batches: Iterable[Mapping[str, object]]) -> tuple[float, float]:
        nats, tokens = train.evaluate(step, params, batches)["loss"]
        return float(nats), float(tokens)

    return measure


def xz_bits_per_byte(training: Sequence[str], validation: Sequence[str]) -> float:
    """Bits per byte of the validation texts for ``xz -9`` after the training texts.

    Equivalent to::

        before, both = (lzma.compress(text, preset=9) for text in (training, training + validation))
        8 * (len(both) - len(before)) / len(validation)       # texts joined, in UTF-8

    Args:
      training: the texts before; only their last 64 MiB matter to xz.
      validation: the texts to compress.

    Returns:
      Bits per byte.
    """
    prefix = "".join(training).encode()[-XZ_WINDOW:]
    text = "".join(validation).encode()

    def size(content: bytes) -> int:
        return len(lzma.compress(content, preset=9))

    return 8 * (size(prefix + text) - size(prefix)) / len(text)

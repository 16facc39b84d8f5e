"""Bits per byte: of a model, and of ``xz`` given the same texts to learn from."""

import lzma
import math
from collections.abc import Callable, Iterable, Sequence

from tfm_jax import train
from tfm_jax.types import Batch, Params

__all__ = ["bits_per_byte", "make_measure", "xz_bits_per_byte"]

XZ_WINDOW = 1 << 26  # bytes: as far back as xz -9 looks


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """What a byte of the texts costs, in bits.

    Equivalent to::

        sum(-log2(p) for p in probabilities of all tokens) / len("".join(texts).encode())

    Args:
        nats: the sum of the losses of all tokens of the texts, their end tokens among them.
        n_bytes: the bytes of the texts in UTF-8, > 0.

    Returns:
        The figure; 8 is no compression.
    """
    return nats / math.log(2) / n_bytes


def make_measure(loss_fn: train.LossFn, parallel: train.Parallel) -> Callable[..., tuple[float, float]]:
    """Makes ``measure(params, batches) -> (nats, tokens)``.

    Args:
        loss_fn: ``(params, batch, None) -> ((nats, tokens), {...})``.
        parallel: where it runs.

    Returns:
        The function: the summed loss of all batches, and the number of tokens that it is of.
    """
    step = parallel.compile_eval(train.make_eval_step(loss_fn, axis_name=parallel.axis_name))

    def measure(params: Params, batches: Iterable[Batch]) -> tuple[float, float]:
        return train.total(step(params, batch) for batch in batches)["loss"]

    return measure


def xz_bits_per_byte(training: Sequence[str], validation: Sequence[str]) -> float:
    """What a byte of the validation texts costs ``xz -9`` after the training texts, in bits.

    Equivalent to::

        size = lambda texts: len(lzma.compress("".join(texts).encode(), preset=9))
        8 * (size(training + validation) - size(training)) / len("".join(validation).encode())

    Args:
        training: the texts that come first; of more than 64 MiB the last, as xz looks no further back.
        validation: the texts to pay for.

    Returns:
        The figure.
    """
    prefix = "".join(training).encode()[-XZ_WINDOW:]
    text = "".join(validation).encode()
    size = lambda content: len(lzma.compress(content, preset=9))
    return 8 * (size(prefix + text) - size(prefix)) / len(text)

"""Batches of tokenized texts, and buffering of their outputs up to EOS or a stop string."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax.monitoring
import numpy as np

from tfm_jax.checks import as_texts
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Tokenizer

__all__ = [
    "Batch",
    "StopStringBuffer",
    "bucketed_batches",
    "check_stop_strings",
    "check_vocabulary",
    "log_compilation",
]

MIN_BUCKET = 16
"""The smallest bucket of lengths; the others are the powers of two above it."""
REPLACEMENT = "\ufffd"
"""What a tokenizer decodes an incomplete character to."""


def check_vocabulary(
    texts: Sequence[object],
    ids: Sequence[Sequence[int] | np.ndarray],
    V: int,
    token_of: Callable[[int], object],
) -> None:
    """Raises a ValueError for the first text with an id outside the model's vocabulary.

    Args:
      texts: for the message.
      ids: token ids of each text.
      V: the model's vocabulary size.
      token_of: the token of an id, for the message.
    """
    for i, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
        if unknown := [int(x) for x in tokens if x >= V]:
            shown, token = repr(text)[:40], token_of(unknown[0])
            named = f"the token {token!r} with the id" if token else "the id"  # special tokens have no text
            raise ValueError(
                f"text {i} ({shown}): got {named} {unknown[0]}; "
                f"wanted ids below {V}, the model's vocabulary. "
                "Remove the token, or use the model's tokenizer."
            )


class Batch(NamedTuple):
    """A batch of inputs from one bucket of lengths."""

    indices: np.ndarray  # int [n], of the inputs
    filled: np.ndarray  # int [B], the indices, then the last one repeated
    tokens: np.ndarray  # int32 [B, P]
    valid: np.ndarray  # bool [B, P], False at padding


def bucketed_batches(
    ids: Sequence[np.ndarray],
    batch_size: int,
    longest: int | None,
    *,
    side: Literal["left", "right"] = "left",
    exact: bool = False,
) -> Iterator[Batch]:
    """Batches inputs by length, in few shapes.

    Args:
      ids: int32 [P] each.
      batch_size: most examples of a batch; batches are filled to it or to a smaller power of two.
      longest: the largest bucket; None for no limit.
      side: of the padding: left for prompts; right for sources, whose positions count from 0.
      exact: batch only inputs of equal length, without padding.

    Returns:
      The batches, the shortest inputs first. The padding of an input does not depend on the others. A batch
      is filled up with copies of its last input.
    """
    check_number("TextGenerator", "batch_size", batch_size, SIZE)
    lengths = np.array([len(x) for x in ids], int)
    widths = lengths if exact else np.array([max(_next_power_of_2(n), MIN_BUCKET) for n in lengths], int)
    widths = widths if longest is None else np.minimum(widths, longest)
    for P in np.unique(widths):
        bucket = np.flatnonzero(widths == P)
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        B = min(batch_size, _next_power_of_2(len(bucket) if exact else len(ids)))
        for start in range(0, len(bucket), B):
            indices = bucket[start : start + B]
            filled = indices[np.minimum(np.arange(B), len(indices) - 1)]
            tokens, valid = np.zeros((B, P), np.int32), np.zeros((B, P), bool)
            for row, i in enumerate(filled):
                columns = slice(P - lengths[i], None) if side == "left" else slice(lengths[i])
                tokens[row, columns], valid[row, columns] = ids[i], True
            yield Batch(indices, filled, tokens, valid)


def _next_power_of_2(n: int) -> int:
    return 1 << (int(n) - 1).bit_length()


class StopStringBuffer:
    """Buffers the tokens of one output until EOS or a stop string.

    Args:
      tokenizer: decodes the tokens.
      prompt: int32 [P], the tokens before; some tokenizers decode the first word of a text differently.
      stop_strings: strings that end the output.
      eos_ids: tokens that end the output.

    Attributes:
      done: whether EOS or a stop string was found.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int] | np.ndarray,
        stop_strings: Sequence[str],
        eos_ids: Sequence[int],
    ):
        self._tokenizer, self._stop_strings, self._eos_ids = tokenizer, stop_strings, eos_ids
        self._context, self._ids = list(map(int, prompt[-4:])), []
        self.done = False

    def add(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Appends tokens up to EOS."""
        for token in [] if self.done else map(int, tokens):
            if token < 0:
                raise ValueError(
                    f"TextGenerator: got no valid token after {len(self._ids)}; wanted finite logits. "
                    "The parameters are not finite, the processors mask every token, or a temperature near 0 "
                    "makes several logits infinite."
                )
            if token in self._eos_ids:
                self.done = True
                return
            self._ids.append(token)
        if self._stop_strings:
            self.text()

    def text(self) -> str:
        """The text so far, up to the first stop string."""
        context = self._tokenizer.decode(self._context) if self._context else ""
        text = self._tokenizer.decode([*self._context, *self._ids])
        text = text[len(context) :] if text.startswith(context) else self._tokenizer.decode(self._ids)
        # The stop string that is complete first counts, so that the result does not depend on the chunks.
        found = [(start + len(s), start) for s in self._stop_strings if (start := text.find(s)) >= 0]
        self.done = self.done or bool(found)
        return text[: min(found)[1]] if found else text

    def stable_text(self) -> str:
        """The text that later tokens cannot change: whole characters, no start of a stop string."""
        text = self.text()
        if self.done:
            return text
        text = text.rstrip(REPLACEMENT)
        unfinished = [n for s in self._stop_strings for n in range(1, len(s)) if text.endswith(s[:n])]
        return text[: len(text) - max(unfinished, default=0)]


def check_stop_strings(stop: Sequence[str]) -> tuple[str, ...]:
    """The stop strings; a ValueError for an empty one."""
    stop = tuple(as_texts("TextGenerator", "stop", stop))
    if not all(stop):
        raise ValueError("TextGenerator: got an empty stop string; wanted non-empty ones. Remove it.")
    return stop


@contextlib.contextmanager
def log_compilation(description: str) -> Iterator[None]:
    """Logs how long JAX traced and compiled inside the block, if it did."""
    spans = []

    def listen(event: str, start_time: float, end_time: float, **details: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            spans.append((start_time, end_time))

    jax.monitoring.register_event_time_span_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_time_span_listener(listen)
    if spans:
        logging.getLogger("tfm_jax.generate").info("compiled %s in %.1f s", description, _union_length(spans))


def _union_length(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of spans, which nest: one function is traced within another."""
    total, covered_to = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return total

"""The rows of a batch of texts: token ids in, padded to few shapes; texts out, cut where they stop."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import listed_texts
from tfm_jax.generate.logits_processors import Context
from tfm_jax.ops import sampling
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Array

__all__ = ["Batch", "OnlyBelow", "Row", "Tokenizer", "batches", "check_ids", "compiling", "stops"]

SHORTEST = 16
"""Tokens in the smallest bucket of lengths; the others are the powers of two."""
HALF = "\ufffd"
"""What a tokenizer decodes part of a character to."""


class Tokenizer(Protocol):
    """What is asked of a tokenizer; ``tfm_jax.data`` has some. ``decode`` leaves special tokens out."""

    vocab_size: int
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def check_ids(
    texts: Sequence[object],
    ids: Sequence[Sequence[int] | np.ndarray],
    V: int,
    token_of: Callable[[int], object],
) -> None:
    """Raises a ValueError for the first text with an id that a model of V tokens has no vector for.

    Args:
      texts: for the message.
      ids: of each.
      V: the model's vocabulary.
      token_of: the token of an id.
    """
    for i, (text, row) in enumerate(zip(texts, ids, strict=True)):
        if wrong := [int(x) for x in row if x >= V]:
            shown, token = repr(text)[:40], token_of(wrong[0])
            named = f"the token {token!r} with the id" if token else "the id"  # a special one has no text
            raise ValueError(
                f"text {i} ({shown}): got {named} {wrong[0]}; wanted "
                f"ids below {V}, those that the model has. Take the token out of the text, or use the "
                "tokenizer that the model was trained with"
            )


class Batch(NamedTuple):
    """Inputs of one bucket of lengths."""

    rows: np.ndarray  # int [n], which inputs
    filled: np.ndarray  # int [B], those, and the last one again and again
    tokens: np.ndarray  # int32 [B, P]
    valid: np.ndarray  # bool [B, P], what is not padding


def batches(
    ids: Sequence[np.ndarray], batch_size: int, reach: int | None, side: Literal["left", "right"] = "left"
) -> Iterator[Batch]:
    """Cuts inputs into batches of few shapes.

    Args:
      ids: int32 [P] each.
      batch_size: B; fewer inputs make a smaller batch, of a power of two.
      reach: the longest bucket; None is no limit.
      side: of the padding: left of a prompt, which goes on; right of a source, whose positions count from 0.

    Returns:
      The batches, the shortest inputs first. Each input is padded to its own length's bucket, whatever it is
      batched with; what fills a batch up ends where its last row ends.
    """
    check_number("TextGenerator", "batch_size", batch_size, SIZE)
    power = lambda n: 1 << (n - 1).bit_length()
    lengths = [len(x) for x in ids]
    widths = np.array([max(power(n), SHORTEST) for n in lengths], int)
    widths = widths if reach is None else np.minimum(widths, reach)
    B = min(batch_size, power(max(len(ids), 1)))
    for P in np.unique(widths):
        here = sorted(np.flatnonzero(widths == P), key=lengths.__getitem__)
        for start in range(0, len(here), B):
            rows = np.array(here[start : start + B])
            filled = rows[np.minimum(np.arange(B), len(rows) - 1)]
            tokens, valid = np.zeros((B, P), np.int32), np.zeros((B, P), bool)
            for k, i in enumerate(filled):
                place = slice(P - lengths[i], None) if side == "left" else slice(lengths[i])
                tokens[k, place], valid[k, place] = ids[i], True
            yield Batch(rows, filled, tokens, valid)


class Row:
    """What one row writes.

    Args:
      tokenizer: of the ids.
      prompt: int32 [P], the ids before; some tokenizers decode a word in another way where a text begins.
      stop: texts that end it.
      ends: ids that end it.

    Attributes:
      over: whether an end token or a stop text came.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], ends: Sequence[int]):
        self._tokenizer, self._stop, self._ends = tokenizer, stop, ends
        self._before, self._ids = list(prompt[-4:]), []
        self.over = False

    def add(self, tokens: Sequence[int]) -> None:
        """Takes the tokens that follow, up to an end."""
        for token in [] if self.over else map(int, tokens):
            if token < 0:
                raise ValueError(
                    f"there was no token to choose after {len(self._ids)}: the parameters are not finite, or "
                    "the processors closed every token, or made several infinite (a temperature near 0)"
                )
            if token in self._ends:
                self.over = True
                return
            self._ids.append(token)
        if self._stop:
            self.text()

    def text(self) -> str:
        """All of it so far, without a stop text and what follows."""
        before = self._tokenizer.decode(self._before) if self._before else ""
        text = self._tokenizer.decode([*self._before, *self._ids])
        text = text[len(before) :] if text.startswith(before) else self._tokenizer.decode(self._ids)
        # Of several the one that is complete first, whenever one looks.
        found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
        self.over = self.over or bool(found)
        return text[: min(found)[1]] if found else text

    def certain(self) -> str:
        """The part that stays, whatever follows: whole characters, before what may become a stop text."""
        text = self.text()
        if self.over:
            return text
        text = text.rstrip(HALF)
        held = [n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])]
        return text[: len(text) - max(held, default=0)]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class OnlyBelow:
    """A processor that closes the ids from n on, which the model has and the tokenizer has not."""

    n: int = pytrees.static()

    def __call__(self, logits: Array, context: Context) -> Array:
        del context
        above = jnp.arange(logits.shape[-1]) >= self.n
        return sampling.mask_tokens(logits, jnp.broadcast_to(above, logits.shape))


def stops(stop: Sequence[str]) -> tuple[str, ...]:
    """The stop texts, none of them empty."""
    stop = tuple(listed_texts("TextGenerator", "stop", stop))
    if not all(stop):
        raise ValueError("a stop text must not be empty: it would end every text before its beginning")
    return stop


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Says how long JAX traced and compiled within, if it did."""
    spans = []

    def listen(event: str, start: float, end: float, **of: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            spans.append((start, end))

    jax.monitoring.register_event_time_span_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_time_span_listener(listen)
    if spans:
        logging.getLogger("tfm_jax.generate").info("compiled %s in %.1f s", what, _covered(spans))


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of spans: one function is traced within another."""
    total, until = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total

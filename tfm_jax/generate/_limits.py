"""Length limits of generation, resolved once per call and carried as one value."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.ranges import COUNT, check_number, check_numbers
from tfm_jax.types import Array

if TYPE_CHECKING:
    from tfm_jax.generate.config import GenerationConfig

__all__ = ["EosIds", "Limits", "TextLimits", "is_eos", "output_lengths", "resolve_limits"]

EosIds = int | Sequence[int] | None
EXTRA_LENGTH = 50
"""A translation may have this many tokens more than its source (Vaswani et al. 2017, section 6.1)."""


class Limits(NamedTuple):
    """Output lengths and special ids of one compiled call; static under ``jit``.

    Args:
      max_length: most tokens of an output, EOS included.
      min_length: fewest tokens of an output, EOS included.
      eos_ids: tokens that end an output.
      pad_id: fills an output after EOS.
      bos_id: first decoder token of an encoder-decoder.
    """

    max_length: int
    min_length: int
    eos_ids: tuple[int, ...]
    pad_id: int
    bos_id: int


def resolve_limits(
    function: str, *, max_length: int, min_length: int, eos_id: EosIds, pad_id: int, bos_id: int
) -> Limits:
    """Checks the lengths and ids of a call.

    Args:
      function: named in errors.
      max_length, min_length, eos_id, pad_id, bos_id: as in ``greedy``.

    Returns:
      The Limits.

    Raises:
      ValueError: a length or an id is not an integer of at least 0; ``min_length`` is above ``max_length``.
    """
    check_numbers(function, COUNT, max_length=max_length, min_length=min_length, pad_id=pad_id, bos_id=bos_id)
    if max_length < min_length:
        raise ValueError(
            f"{function}: got min_length={min_length} with max_length={max_length}; wanted min_length <= "
            "max_length."
        )
    if isinstance(eos_id, np.ndarray | jax.Array):
        eos_id = np.asarray(eos_id).tolist()
    is_sequence = isinstance(eos_id, Sequence) and not isinstance(eos_id, str)
    eos_ids = () if eos_id is None else tuple(eos_id) if is_sequence else (eos_id,)
    for token in eos_ids:
        check_number(function, "eos_id", token, COUNT)
    return Limits(max_length, min_length, tuple(map(int, eos_ids)), pad_id, bos_id)


@dataclasses.dataclass(frozen=True)
class TextLimits:
    """Length limits of one ``TextGenerator`` call, for inputs of every length.

    Args:
      config: the generation config of the call.
      n_positions: positions of the model (``Learned.max_length``); None for no limit.
      is_encoder_decoder: ``max_total`` and ``min_total`` count the decoder's start token instead of a prompt.

    Raises:
      ValueError: a decoder's config has neither ``max_length`` nor ``max_total``.
    """

    config: "GenerationConfig"
    n_positions: int | None
    is_encoder_decoder: bool

    def __post_init__(self):
        c = self.config
        if not self.is_encoder_decoder and c.max_length is None and c.max_total is None:
            raise ValueError("TextGenerator: got max_length=None; wanted a number of tokens to generate.")

    @property
    def depends_on_prompt(self) -> bool:
        """Whether outputs of prompts of different lengths have different limits."""
        return not self.is_encoder_decoder and (
            self.config.max_total is not None or self.config.min_total > 0
        )

    @property
    def max_input(self) -> int | None:
        """Most tokens of an input; None for no limit."""
        if self.is_encoder_decoder:
            return self.n_positions
        if self.config.max_total is not None:
            return self.config.max_total - 1
        # The last token of the output is not read, so it needs no position.
        return None if self.n_positions is None else self.n_positions - (self.config.max_length - 1)

    def check_inputs(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> None:
        """Raises a ValueError for the first text that is too long."""
        longest = self.max_input
        for text, tokens in zip(texts, ids, strict=True):
            if longest is not None and len(tokens) > longest:
                shown = f"{text[:30]!r}{'...' * (len(text) > 30)}"
                raise ValueError(
                    f"TextGenerator: got {shown} of {len(tokens)} tokens; wanted at most {longest}, as "
                    f"{self._reason()}. Shorten the text."
                )

    def _reason(self) -> str:
        if not self.is_encoder_decoder and self.config.max_total is not None:
            return f"prompt and output have at most {self.config.max_total} tokens"
        if self.is_encoder_decoder:
            return f"the model has {self.n_positions} positions"
        output = f"max_length={self.config.max_length}"
        return f"the model has {self.n_positions} positions for prompt and output ({output})"

    def of(self, input_length: int) -> Limits:
        """The limits of the outputs for inputs of one length, padding included for a source."""
        c = self.config
        prompt = 1 if self.is_encoder_decoder else input_length
        # min_total counts the tokens before EOS, min_length counts EOS too.
        shortest = max(c.min_length, c.min_total - prompt + 1) if c.min_total > 0 else c.min_length
        longest = c.max_length
        if c.max_total is not None:
            remaining = c.max_total - prompt
            longest = remaining if longest is None else min(longest, remaining)
        if longest is None:
            longest = input_length + EXTRA_LENGTH
            longest = longest if self.n_positions is None else min(longest, self.n_positions)
        else:
            shortest = min(shortest, longest)
        return resolve_limits(
            "TextGenerator",
            max_length=longest,
            min_length=shortest,
            eos_id=c.eos_ids,
            pad_id=c.pad_id,
            bos_id=c.start_id or 0,
        )


def is_eos(tokens: Array, eos_ids: tuple[int, ...]) -> Array:
    """Whether each token is an EOS token: bool, as tokens."""
    found = jnp.zeros_like(tokens, bool)
    for eos_id in eos_ids:
        found |= tokens == eos_id
    return found


def output_lengths(tokens: Array, eos_ids: tuple[int, ...]) -> Array:
    """The number of tokens of outputs [..., max_length] up to EOS, EOS included: int32 [...]."""
    ended = is_eos(tokens, eos_ids)
    first = jnp.argmax(ended, axis=-1).astype(jnp.int32) + 1
    return jnp.where(ended.any(-1), first, tokens.shape[-1])

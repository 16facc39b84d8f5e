"""Length limits of generation, resolved once per call and carried as one value."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tfm_jax.generate.config import GenerationConfig
from tfm_jax.nn.decoding import CachedDecoder
from tfm_jax.nn.functional import Pure, skeleton_of
from tfm_jax.types import Array

__all__ = [
    "LengthLimits",
    "Limits",
    "check_config",
    "count_positions",
    "is_eos",
    "output_lengths",
    "resolve_limits",
]

EXTRA_LENGTH = 50
"""A translation may have this many tokens more than its source (Vaswani et al. 2017, section 6.1)."""
NO_TOKEN = -1
"""Fills empty outputs where there is neither a pad nor an EOS token."""


class Limits(NamedTuple):
    """Output lengths and special ids of one compiled call; static under ``jit``.

    Args:
      max_length: most tokens of an output, EOS included.
      min_length: fewest tokens of an output, EOS included.
      eos_ids: tokens that end an output.
      pad_id: fills an output after EOS.
      start_id: first decoder token of an encoder-decoder; None for none.
    """

    max_length: int
    min_length: int
    eos_ids: tuple[int, ...]
    pad_id: int
    start_id: int | None


def check_config(function: str, config: GenerationConfig, **required: object) -> None:
    """Checks that a function of token ids can follow a config.

    Args:
      function: named in errors.
      config: the config.
      required: the only supported value of some settings, by name.

    Raises:
      ValueError: a setting that only texts have, or a required one of another value.
    """
    if not isinstance(config, GenerationConfig):
        raise ValueError(
            f"{function}: got config={config!r:.80}; wanted a GenerationConfig, such as "
            "GenerationConfig(max_length=20)."
        )
    required = dict.fromkeys(("prefix_ids", "suffix_ids", "stop_strings"), ()) | required
    wrong = [name for name, wanted in required.items() if getattr(config, name) != wanted]
    if wrong:
        got = ", ".join(f"{name}={getattr(config, name)!r}" for name in wrong)
        wanted = ", ".join(f"{name}={required[name]!r}" for name in wrong)
        advice = " ".join(_ADVICE[name] for name in wrong if name in _ADVICE)
        raise ValueError(f"{function}: got {got}; wanted {wanted}. {advice} Pass config.updated({wanted}).")


_ADVICE = {
    "prefix_ids": "Prepend prefix_ids to inputs, which are token ids, as TextGenerator.encode_prompts does.",
    "suffix_ids": "Append suffix_ids to inputs, which are token ids, as TextGenerator.encode_sources does.",
    "stop_strings": "Cut decoded texts at stop_strings, or call TextGenerator.",
    "beams": "For beams call beam_search.",
    "do_sample": "For sampling call sample.",
}


def resolve_limits(
    function: str, model: Pure[CachedDecoder], length: int, config: GenerationConfig, *, padded: bool
) -> Limits:
    """The limits of a call on token ids.

    Args:
      function: named in errors.
      model: as in ``greedy``.
      length: of the inputs [B, length], padding included.
      config: the generation config.
      padded: whether ``valid`` was passed, so that prompts may have padding.

    Returns:
      The Limits.

    Raises:
      ValueError: no ``max_length``; a prompt that leaves no token of ``max_total``; totals that limit padded
        prompts of different lengths differently; ``valid`` with an encoder-decoder, or one without a
        ``start_id``.
    """
    decoder = skeleton_of(model)
    lengths = LengthLimits(function, config, count_positions(decoder), decoder.is_encoder_decoder())
    if lengths.is_encoder_decoder and padded:
        raise ValueError(
            f"{function}: got valid with an encoder-decoder; wanted valid=None. Mask the source with "
            "source_mask=masks.padding(valid)."
        )
    if lengths.is_encoder_decoder and config.start_id is None:
        raise ValueError(
            f"{function}: got start_id=None with an encoder-decoder; wanted the decoder's first token. Set "
            "it in the config, such as the tokenizer's bos_id."
        )
    if config.max_total is not None and not lengths.is_encoder_decoder and length >= config.max_total:
        raise ValueError(
            f"{function}: got prompts of {length} tokens with max_total={config.max_total}; wanted at most "
            f"{config.max_total - 1} tokens. Shorten them, or pass config.updated(max_length=...)."
        )
    limits = lengths.of(length)
    if padded and lengths.depends_on_prompt and lengths.of(1) != limits:
        raise ValueError(
            f"{function}: got max_total={config.max_total}, min_total={config.min_total} with valid; wanted "
            "the same limits for every prompt. Group the prompts by length, without valid, or set max_length "
            "and min_length."
        )
    return limits


def count_positions(decoder: CachedDecoder) -> int | None:
    """The most positions of a sequence; None for no limit."""
    positions = decoder.decoder_stack().config.positions
    return None if positions is None else positions.max_length


@dataclasses.dataclass(frozen=True)
class LengthLimits:
    """Length limits of one call, for inputs of every length.

    Args:
      function: named in errors.
      config: the generation config of the call.
      n_positions: positions of the model (``Learned.max_length``); None for no limit.
      is_encoder_decoder: ``max_total`` and ``min_total`` count the decoder's start token instead of a prompt.

    Raises:
      ValueError: a decoder's config has neither ``max_length`` nor ``max_total``.
    """

    function: str
    config: GenerationConfig
    n_positions: int | None
    is_encoder_decoder: bool

    def __post_init__(self):
        c = self.config
        if not self.is_encoder_decoder and c.max_length is None and c.max_total is None:
            raise ValueError(
                f"{self.function}: got max_length=None; wanted a number of tokens to generate. Set it in the "
                "config."
            )

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
        if self.n_positions is None or self.config.max_length is None:
            return None
        # The last token of the output is not read, so it needs no position.
        return self.n_positions - (self.config.max_length - 1)

    def check_inputs(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> None:
        """Raises a ValueError for the first text that is too long."""
        longest = self.max_input
        for text, tokens in zip(texts, ids, strict=True):
            if longest is not None and len(tokens) > longest:
                shown = f"{text[:30]!r}{'...' * (len(text) > 30)}"
                raise ValueError(
                    f"{self.function}: got {shown} of {len(tokens)} tokens; wanted at most {longest}, as "
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
        if longest is not None:
            return _limits(c, longest, min(shortest, longest + 1))  # one more: no EOS at all
        longest = input_length + EXTRA_LENGTH
        longest = longest if self.n_positions is None else min(longest, self.n_positions)
        if shortest > longest + 1:
            raise ValueError(
                f"{self.function}: got min_length={shortest} with max_length={longest}, the default; wanted "
                "min_length <= max_length. Set max_length in the config."
            )
        return _limits(c, longest, shortest)


def _limits(config: GenerationConfig, max_length: int, min_length: int) -> Limits:
    fallback = config.eos_ids[0] if config.eos_ids else NO_TOKEN
    pad_id = fallback if config.pad_id is None else config.pad_id
    return Limits(max_length, min_length, config.eos_ids, pad_id, config.start_id)


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

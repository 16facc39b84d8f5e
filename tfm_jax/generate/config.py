"""Generation config: special tokens, lengths, beams, processors, sampling."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

from tfm_jax.fields import check_fields
from tfm_jax.generate.batching import Tokenizer
from tfm_jax.generate.beam_search import Stopping
from tfm_jax.generate.logits_processors import Processor, check_processors
from tfm_jax.ranges import Count, Finite, Size
from tfm_jax.types import Array

__all__ = ["GenerationConfig"]


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Generation config: the defaults of ``TextGenerator``.

    Args:
      eos_ids: EOS tokens; with none an output ends at its length limit.
      pad_id: fills outputs after EOS.
      start_id: first decoder token of an encoder-decoder, and the prompt for an empty text; None for none.
      prefix_ids: prepended to each prompt.
      suffix_ids: appended to each source.
      max_length: most tokens of an output; None requires it in the call, or for a translation is 50 more than
        the source.
      max_total: most tokens of prompt and output together, or of the decoder's output with its start token.
      min_length: fewest tokens of an output, EOS included.
      min_total: fewest tokens before EOS, counted as in ``max_total``.
      beams: number of beams; 1 is no beam search.
      length_penalty, stopping: as in ``beam_search``.
      processors: as in ``greedy``.
      do_sample: the checkpoint asks for sampling; without beams a call must then pass a PRNG key. A call with
        a key samples in any case.
      stop_strings: strings that end an output, and are removed from it.

    Raises:
      ValueError: a field of another type or out of range; the message names it.
    """

    eos_ids: tuple[Count, ...] = ()
    pad_id: Count = 0
    start_id: Count | None = None
    prefix_ids: tuple[Count, ...] = ()
    suffix_ids: tuple[Count, ...] = ()
    max_length: Count | None = None
    max_total: Size | None = None
    min_length: Count = 0
    min_total: Count = 0
    beams: Size = 1
    length_penalty: Finite | Callable[[Array], Array] = 0.0
    stopping: Stopping = "exact"
    processors: tuple[Processor, ...] = ()
    do_sample: bool = False
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self):
        check_fields(self)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """The config for a tokenizer that adds no special tokens: BOS before prompts, EOS after sources.

        Beam search has 4 beams and a length penalty of 0.6 (Vaswani et al. 2017, section 6.1).
        """
        bos, eos = ((i,) if i is not None else () for i in (tokenizer.bos_id, tokenizer.eos_id))
        special = {"pad_id": tokenizer.pad_id or 0, "start_id": tokenizer.bos_id}
        return cls(eos, prefix_ids=bos, suffix_ids=eos, beams=4, length_penalty=0.6, **special)

    def updated(self, **options: Any) -> Self:
        """A copy with the options that are not None; ``max_length`` replaces ``max_total``."""
        options = {name: value for name, value in options.items() if value is not None}
        if "max_length" in options:
            options["max_total"] = None
        if "processors" in options:
            options["processors"] = tuple(check_processors(options["processors"]))
        return dataclasses.replace(self, **options)

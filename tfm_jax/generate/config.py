"""How a model is asked to write: ends, lengths, beams, processors, as one value."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

from tfm_jax.fields import check_fields
from tfm_jax.generate.batching import Tokenizer
from tfm_jax.generate.beam_search import Stopping
from tfm_jax.generate.logits_processors import Processor, several
from tfm_jax.ranges import Count, Finite, Size
from tfm_jax.types import Array

__all__ = ["GenerationConfig"]


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """What ``TextGenerator`` does where it is not told otherwise.

    Args:
      eos_ids: ids that end a text; of none it goes on to its length.
      pad_id: what fills a row that has ended.
      start_id: what the output of an encoder-decoder begins from, and an empty prompt; None is nothing.
      prefix_ids: ids put before each prompt.
      suffix_ids: ids put behind each source.
      max_length: tokens to write at most; None is what the call says, or for a translation 50 more than the
        source.
      max_total: tokens at most, with those of the prompt, or with the start of an encoder-decoder's output.
      min_length: tokens to write at least, the end counted.
      min_total: tokens before an end at least, counted as ``max_total``.
      beams: 1 is none.
      length_penalty, stopping: as ``beam_search`` takes them.
      processors: as ``greedy`` takes them.
      do_sample: sample instead of taking the likeliest token. Without beams a call then needs a PRNG key;
        a call that passes a key samples without this too.
      stop_strings: texts before which a text ends.

    Raises:
      ValueError: for a field of another kind, or out of its range, by name.
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
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Of a tokenizer that puts no special tokens around a text: begin and end stand there, beams of 4."""
        begin, end = ((i,) if i is not None else () for i in (tokenizer.bos_id, tokenizer.eos_id))
        special = {"pad_id": tokenizer.pad_id or 0, "start_id": tokenizer.bos_id}
        return cls(end, prefix_ids=begin, suffix_ids=end, beams=4, length_penalty=0.6, **special)

    def updated(self, **options: Any) -> Self:
        """The same but for what is not None; a ``max_length`` is in the place of ``max_total``."""
        options = {name: value for name, value in options.items() if value is not None}
        if "max_length" in options:
            options["max_total"] = None
        if "processors" in options:
            options["processors"] = tuple(several(options["processors"]))
        return dataclasses.replace(self, **options)

    @property
    def counts_the_prompt(self) -> bool:
        """Whether the lengths depend on a prompt's."""
        return self.max_total is not None or self.min_total > 0

    def limits(self, prompt: int) -> tuple[int | None, int]:
        """The longest and the shortest output after a prompt of so many tokens; None is any length."""
        longest = self.max_length
        if self.max_total is not None:
            left = self.max_total - prompt
            longest = left if longest is None else min(longest, left)
        shortest = self.min_length
        if self.min_total > 0:
            # So many tokens come before an end.
            shortest = max(shortest, self.min_total - prompt + 1)
        return longest, shortest if longest is None else min(shortest, longest)

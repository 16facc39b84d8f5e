"""Generation config: special tokens, lengths, beams, processors, sampling."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, Self

from tfm_jax.fields import check_fields
from tfm_jax.generate.logits_processors import Processor, check_processors
from tfm_jax.ranges import COUNT, Count, Finite, Size, check_number
from tfm_jax.types import Array, Tokenizer

__all__ = ["GenerationConfig", "LengthPenalty", "Stopping"]

LengthPenalty = float | Callable[[Array], Array]
Stopping = Literal["exact", "heuristic", "first"]


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Generation config: lengths, special tokens, beams, processors, sampling.

    Equal configs hash equal, so that a config may be a static argument of ``jax.jit``, unless a processor
    holds an array. All lengths are numbers of tokens.

    A setting that a function cannot follow is an error there. ``greedy``, ``sample``, ``stream`` and
    ``beam_search`` read token ids, and require empty ``prefix_ids``, ``suffix_ids`` and ``stop_strings``,
    which only ``TextGenerator`` uses. All but ``beam_search`` and ``TextGenerator`` require ``beams=1``;
    ``greedy`` and ``beam_search`` require ``do_sample=False``, and so does ``stream`` without a key;
    ``TextGenerator`` requires ``n_best=1``. Without beam search, ``length_penalty`` and ``stopping`` have no
    effect.

    Args:
      eos_ids: ids of EOS tokens, at least 0; with none an output ends at its length limit.
      pad_id: fills outputs after EOS, at least 0; None is the first of ``eos_ids``.
      start_id: first decoder token of an encoder-decoder, which requires it; of a decoder, the prompt for an
        empty text. None for none.
      prefix_ids: prepended to each prompt that is a text.
      suffix_ids: appended to each source that is a text.
      max_length: most tokens of an output, EOS included, at least 0; 0 generates nothing. None is no limit
        beside ``max_total``; a decoder requires one of the two. Without both, a translation has at most 50
        tokens more than its source, padding included, and no more than the positions of ``nn.Learned``.
      max_total: most tokens of prompt and output together, at least 1; of an encoder-decoder, of the output
        with its start token. None is no limit.
      min_length: fewest tokens of an output, EOS included: from 0 to ``max_length``, or one more for outputs
        without EOS.
      min_total: fewest tokens before EOS, counted as in ``max_total``; 0 is no limit.
      beams: outputs that beam search keeps at every length, at least 1. Beams beyond the number of outputs
        stay empty. For ``TextGenerator``, 1 is no beam search.
      n_best: outputs that ``beam_search`` returns for each input, from 1 to ``beams``.
      length_penalty: alpha of ``((5 + length) / 6) ** alpha``, which divides log-probabilities in beam
        search: any finite number, 0 for none, 0.6 in the paper; or a function from int32 lengths to positive
        float32 divisors.
      stopping: when beam search of a sequence ends: ``"exact"``, when no unfinished output can still exceed
        the scores of its ``n_best`` finished ones; ``"heuristic"``, with ``beams`` finished outputs and no
        unfinished one that would exceed the worst of them if it ended now; ``"first"``, with ``beams``
        finished outputs.
      processors: logits processors, applied in order, such as ``(NoRepeatNgram(3), Temperature(0.8))``.
      do_sample: whether generation without beams requires a PRNG key. A call with a key samples in any case.
      stop_strings: strings that end a text, and are removed from it.

    Raises:
      ValueError: a field of another type or out of range; ``min_length`` is above ``max_length + 1``, or
        ``n_best`` above ``beams``. The message names the field.

    Vaswani et al. 2017, section 6.1 (beam 4, alpha 0.6, source length + 50); the penalty: Wu et al. 2016,
    "Google's Neural Machine Translation System", equation 14.
    """

    eos_ids: tuple[Count, ...] = ()
    pad_id: Count | None = None
    start_id: Count | None = None
    prefix_ids: tuple[Count, ...] = ()
    suffix_ids: tuple[Count, ...] = ()
    max_length: Count | None = None
    max_total: Size | None = None
    min_length: Count = 0
    min_total: Count = 0
    beams: Size = 1
    n_best: Size = 1
    length_penalty: Finite | Callable[[Array], Array] = 0.0
    stopping: Stopping = "exact"
    processors: tuple[Processor, ...] = ()
    do_sample: bool = False
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self):
        check_fields(self)
        if self.max_length is not None and self.min_length > self.max_length + 1:
            raise ValueError(
                f"GenerationConfig: got min_length={self.min_length} with max_length={self.max_length}; "
                "wanted min_length <= max_length, or max_length + 1 for outputs without EOS."
            )
        if self.n_best > self.beams:
            raise ValueError(
                f"GenerationConfig: got n_best={self.n_best} with beams={self.beams}; wanted at most beams."
            )

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """The config for a tokenizer that adds no special tokens: BOS before prompts, EOS after sources.

        Beam search has 4 beams and a length penalty of 0.6 (Vaswani et al. 2017, section 6.1).
        """
        bos, eos = ((i,) if i is not None else () for i in (tokenizer.bos_id, tokenizer.eos_id))
        return cls(
            eos,
            pad_id=tokenizer.pad_id,
            start_id=tokenizer.bos_id,
            prefix_ids=bos,
            suffix_ids=eos,
            beams=4,
            length_penalty=0.6,
        )

    def updated(
        self,
        *,
        max_length: int | None = None,
        processors: Sequence[Processor] | None = None,
        **options: object,
    ) -> Self:
        """A copy with the options that are not None.

        A ``max_length`` alone removes ``max_total``, and lowers a ``min_length`` that is too large for it.
        """
        changes = {name: value for name, value in options.items() if value is not None}
        if max_length is not None:
            check_number("GenerationConfig", "max_length", max_length, COUNT)
            lowered = {"max_total": None, "min_length": min(self.min_length, max_length + 1)}
            changes = lowered | changes | {"max_length": max_length}
        if processors is not None:
            changes["processors"] = tuple(check_processors(processors))
        return dataclasses.replace(self, **changes)

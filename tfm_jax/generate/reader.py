"""A model with its tokenizer: what it reads of a text, and what it cannot read."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tfm_jax.generate.processors import Processor
from tfm_jax.generate.rows import OnlyBelow, Tokenizer, listed
from tfm_jax.nn.config import Learned
from tfm_jax.nn.functional import Pure
from tfm_jax.types import Params

__all__ = ["Reader"]


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """What `TextGenerator` knows of its model before it writes anything."""

    model: Pure
    params: Params
    tokenizer: Tokenizer

    def __post_init__(self):
        if self.tokenizer.vocab_size > self._vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids and the model {self._vocab_size}: "
                "they do not belong together"
            )

    def encode_prompts(self, prompts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """The ids that ``write`` begins from: int32 [P] each. Raises as it does."""
        if self.reads_a_source:
            raise ValueError("this is an encoder-decoder, which translates: a decoder writes prompts on")
        begin = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        ids = [np.array([*begin, *x], np.int32) for x in self.tokenizer.encode_batch(listed(prompts))]
        if not all(map(len, ids)):
            raise ValueError("an empty prompt needs a tokenizer with a begin token: give some text")
        return self._checked(prompts, ids, max_length - 1)

    def encode_sources(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids that ``translate`` reads: int32 [S] each. Raises as it does."""
        if not self.reads_a_source:
            raise ValueError("this is a decoder, which writes prompts on: an encoder-decoder translates")
        if self.tokenizer.bos_id is None or self.tokenizer.eos_id is None:
            raise ValueError("to translate, a tokenizer needs a begin and an end token")
        ends = [self.tokenizer.eos_id]
        ids = [np.array([*x, *ends], np.int32) for x in self.tokenizer.encode_batch(listed(texts))]
        return self._checked(texts, ids, 0)

    def _checked(self, texts: Sequence[str], ids: list[np.ndarray], room: int) -> list[np.ndarray]:
        """Raises for what is too long beside so many tokens of output."""
        reach = self._reach(room)
        for text, x in zip(texts, ids, strict=True):
            if reach is not None and len(x) > reach:
                what = f"{text[:30]!r}{'...' * (len(text) > 30)} is {len(x)} tokens long"
                output = f", of which {room} are for the output" if room else ""
                raise ValueError(
                    f"{what}: the model has learned {reach + room} positions{output}; cut the text"
                )
        return ids

    @functools.cached_property
    def _vocab_size(self) -> int:
        return self.model.apply(self.params, method="decoder_stack").config.vocab_size

    @functools.cached_property
    def reads_a_source(self) -> bool:
        """Whether it translates; else it writes prompts on."""
        return self.model.apply(self.params, method="reads_a_source")

    @property
    def _special(self) -> dict[str, int | None]:
        ids = {name: getattr(self.tokenizer, name) for name in ("pad_id", "bos_id", "eos_id")}
        # What fills a row that has ended is never read: it may be any token.
        return {**ids, "pad_id": ids["pad_id"] or 0, "bos_id": ids["bos_id"] or 0}

    @property
    def _only_known(self) -> tuple[Processor, ...]:
        known = self.tokenizer.vocab_size
        return (OnlyBelow(known),) if known < self._vocab_size else ()

    def _reach(self, room: int) -> int | None:
        """How long an input may be beside so many tokens; None is as long as one likes."""
        return None if self._learned is None else self._learned - room

    @functools.cached_property
    def _learned(self) -> int | None:
        """How many positions the model has; None is as many as one likes."""
        positions = self.model.apply(self.params, method="decoder_stack").config.positions
        return positions.max_length if isinstance(positions, Learned) else None

"""A model with its tokenizer: what it reads of a text, and what it cannot read."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tfm_jax.checks import listed_texts
from tfm_jax.generate.processors import Processor
from tfm_jax.generate.recipe import Recipe
from tfm_jax.generate.rows import OnlyBelow, Tokenizer, check_ids
from tfm_jax.nn.config import Learned
from tfm_jax.nn.functional import Pure
from tfm_jax.types import Params

__all__ = ["InputReader"]


@dataclasses.dataclass(frozen=True, eq=False)
class InputReader:
    """What `TextGenerator` knows of its model before it writes anything."""

    model: Pure
    params: Params
    tokenizer: Tokenizer
    recipe: Recipe | None = None

    def encode_prompts(self, prompts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """The ids that ``write`` begins from: int32 [P] each. Raises as it does."""
        if self.reads_a_source:
            raise ValueError("this is an encoder-decoder, which translates: a decoder writes prompts on")
        prompts = listed_texts("TextGenerator", "prompts", prompts)
        recipe = self.own_recipe.told(max_length=max_length)
        nothing = () if recipe.start is None else (recipe.start,)
        encoded = ([*recipe.before, *x] for x in self.tokenizer.encode_batch(prompts))
        ids = [np.array(x or nothing, np.int32) for x in encoded]
        if not all(map(len, ids)):
            raise ValueError("an empty prompt needs a tokenizer with a begin token: give some text")
        if recipe.max_total is not None:
            return self._checked(
                prompts, ids, recipe.max_total - 1, f"with its output it may be {recipe.max_total}"
            )
        longest = recipe.max_length
        if longest is None:
            raise ValueError("say how much to write: max_length")
        return self._checked(prompts, ids, self._reach(longest - 1), self._positions(longest - 1))

    def encode_sources(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids that ``translate`` reads: int32 [S] each. Raises as it does."""
        if not self.reads_a_source:
            raise ValueError("this is a decoder, which writes prompts on: an encoder-decoder translates")
        recipe = self.own_recipe
        if recipe.start is None or not recipe.ends:
            raise ValueError("to translate, a tokenizer needs a begin and an end token")
        texts = listed_texts("TextGenerator", "texts", texts)
        encoded = self.tokenizer.encode_batch(texts)
        ids = [np.array([*x, *recipe.after], np.int32) for x in encoded]
        return self._checked(texts, ids, self._reach(0), self._positions(0))

    def _checked(
        self, texts: Sequence[str], ids: list[np.ndarray], reach: int | None, limit: str
    ) -> list[np.ndarray]:
        """Raises for what is longer than this, and for ids that the model has not."""
        V = self._vocab_size
        check_ids(texts, ids, V, lambda i: self.tokenizer.decode([i]))
        if not (start := self.own_recipe.start or 0) < V:
            raise ValueError(
                f"the output begins with the id {start}; wanted one below {V}, the model's tokens"
            )
        for text, x in zip(texts, ids, strict=True):
            if reach is not None and len(x) > reach:
                what = f"{text[:30]!r}{'...' * (len(text) > 30)} is {len(x)} tokens long"
                raise ValueError(f"{what}: {limit}; cut the text")
        return ids

    def _positions(self, room: int) -> str:
        output = f", of which {room} are for the output" if room else ""
        return f"the model has learned {self._learned} positions{output}"

    @functools.cached_property
    def own_recipe(self) -> Recipe:
        """How it writes where a call does not say."""
        return Recipe.of(self.tokenizer) if self.recipe is None else self.recipe

    @functools.cached_property
    def _vocab_size(self) -> int:
        return self.model.apply(self.params, method="decoder_stack").config.vocab_size

    @functools.cached_property
    def reads_a_source(self) -> bool:
        """Whether it translates; else it writes prompts on."""
        return self.model.apply(self.params, method="reads_a_source")

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

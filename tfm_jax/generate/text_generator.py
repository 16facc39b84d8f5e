"""A model with its tokenizer: what it reads of a text, and what it cannot read."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_key, as_texts
from tfm_jax.generate.autoregressive import stream
from tfm_jax.generate.batching import Batch, OnlyBelow, Row, Tokenizer, batches, check_ids, compiling, stops
from tfm_jax.generate.beam_search import Penalty, beam_search
from tfm_jax.generate.config import GenerationConfig
from tfm_jax.generate.logits_processors import Processor
from tfm_jax.nn.config import Learned
from tfm_jax.nn.functional import Pure
from tfm_jax.ops import masks
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Key, Params

__all__ = ["InputReader", "TextGenerator"]


@dataclasses.dataclass(frozen=True, eq=False)
class InputReader:
    """What `TextGenerator` knows of its model before it writes anything."""

    model: Pure
    params: Params
    tokenizer: Tokenizer
    recipe: GenerationConfig | None = None

    def encode_prompts(self, prompts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """The ids that ``write`` begins from: int32 [P] each. Raises as it does."""
        if self.is_encoder_decoder:
            raise ValueError("this is an encoder-decoder, which translates: a decoder writes prompts on")
        prompts = as_texts("TextGenerator", "prompts", prompts)
        recipe = self.own_generation_config.updated(max_length=max_length)
        nothing = () if recipe.start_id is None else (recipe.start_id,)
        encoded = ([*recipe.prefix_ids, *x] for x in self.tokenizer.encode_batch(prompts))
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
        if not self.is_encoder_decoder:
            raise ValueError("this is a decoder, which writes prompts on: an encoder-decoder translates")
        recipe = self.own_generation_config
        if recipe.start_id is None or not recipe.eos_ids:
            raise ValueError("to translate, a tokenizer needs a begin and an end token")
        texts = as_texts("TextGenerator", "texts", texts)
        encoded = self.tokenizer.encode_batch(texts)
        ids = [np.array([*x, *recipe.suffix_ids], np.int32) for x in encoded]
        return self._checked(texts, ids, self._reach(0), self._positions(0))

    def _checked(
        self, texts: Sequence[str], ids: list[np.ndarray], reach: int | None, limit: str
    ) -> list[np.ndarray]:
        """Raises for what is longer than this, and for ids that the model has not."""
        V = self._vocab_size
        check_ids(texts, ids, V, lambda i: self.tokenizer.decode([i]))
        if not (start := self.own_generation_config.start_id or 0) < V:
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
    def own_generation_config(self) -> GenerationConfig:
        """How it writes where a call does not say."""
        return GenerationConfig.of(self.tokenizer) if self.recipe is None else self.recipe

    @functools.cached_property
    def _vocab_size(self) -> int:
        return self.model.apply(self.params, method="decoder_stack").config.vocab_size

    @functools.cached_property
    def is_encoder_decoder(self) -> bool:
        """Whether it translates; else it writes prompts on."""
        return self.model.apply(self.params, method="is_encoder_decoder")

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


EVERY = 16
"""Tokens between two looks at who has ended."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextGenerator(InputReader):
    """A model with its tokenizer.

    Lengths are padded to powers of two, at least 16, and a batch is filled up with copies of its last row, so
    that few shapes are compiled. The first call of a shape says how long that took, to the logger
    "tfm_jax.generate" (INFO). A text gives the same text in every batch.

    Args:
      model: from ``nn.functionalize``: an ``nn.Decoder``, which writes prompts on, or an
        ``nn.EncoderDecoder``, which translates.
      params: its parameters.
      tokenizer: with ``encode_batch``, ``decode``, ``vocab_size``, ``pad_id``, ``bos_id`` and ``eos_id``. A
        character that it does not know is what it makes of it, such as ``unk_id``. Ids that only the model
        knows are never chosen, and a text with an id that the model does not have is a ValueError.
      recipe: how it writes where a call does not say; None is ``GenerationConfig.of(tokenizer)``.
    """

    def write(
        self,
        prompts: Sequence[str],
        *,
        key: Key | None,
        max_length: int | None = None,
        processors: Sequence[Processor] | None = None,
        beams: int | None = None,
        stop: Sequence[str] | None = None,
        batch_size: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Writes prompts on.

        Args:
          prompts: texts. The empty one is fine where the tokenizer has a begin token.
          key: consumed: one key, from which each prompt gets its own, or one a prompt [n]; None takes the
            likeliest token, unless the recipe ``do_sample``.
          max_length: tokens to write at most; None is as the recipe says.
          processors: such as ``(Temperature(0.8), TopP(0.95))``; None is as the recipe says.
          beams: 1 is none, and None is as a recipe that was given says, else 1; above 1 the key must be None.
          stop: texts at which a row ends; the one that is complete first counts, and is left out; None is as
            the recipe says.
          batch_size: prompts at once, at least 1.
          on_batch: is told, as each batch ends, how many prompts it had.

        Returns:
          What was written, without the prompts, in their order.

        Raises:
          ValueError: for an encoder-decoder, an empty prompt without a begin token, a prompt that the
            positions of ``nn.Learned`` or the recipe's ``max_total`` do not reach, no ``max_length`` at all,
            an empty stop text, a key beside beams, no key where the recipe ``do_sample``, logits that are not
            numbers, and as ``sample``.
        """
        beams = 1 if beams is None and self.recipe is None else beams
        recipe = self.own_generation_config.updated(max_length=max_length, processors=processors, beams=beams)
        ends, ids = (
            stops(recipe.stop_strings if stop is None else stop),
            self.encode_prompts(prompts, max_length),
        )
        return self._written(ids, ids, key, recipe, ends, batch_size, on_batch)

    def stream(
        self,
        prompt: str,
        *,
        key: Key | None,
        max_length: int | None = None,
        processors: Sequence[Processor] | None = None,
        stop: Sequence[str] | None = None,
        every: int = 4,
    ) -> Iterator[str]:
        """Writes one prompt on, without beams, and gives the text piece by piece.

        Equivalent to::

            iter([self.write([prompt], key=key, beams=1, ...)[0]])            # in pieces

        Args:
          prompt, key, max_length, processors, stop: as ``write`` takes them.
          every: tokens between two pieces.

        Returns:
          An iterator over pieces. No piece ends within a character, or where a stop text may have begun.

        Raises:
          ValueError: as ``write``.
        """
        check_number("TextGenerator", "every", every, SIZE)
        recipe = self.own_generation_config.updated(max_length=max_length, processors=processors, beams=1)
        ends, ids = (
            stops(recipe.stop_strings if stop is None else stop),
            self.encode_prompts([prompt], max_length),
        )
        ((batch, recipe),) = self._batches(ids, 1, recipe)
        keys = _keys(key, 1, recipe)

        def pieces() -> Iterator[str]:
            row, given = Row(self.tokenizer, ids[0], ends, recipe.eos_ids), 0
            for block in self._blocks(batch, keys, recipe, every):
                row.add(block[0])
                text = row.certain()
                if len(text) > given:
                    yield text[given:]
                    given = len(text)
                if row.over:
                    break
            if rest := row.text()[given:]:
                yield rest

        return pieces()

    def translate(
        self,
        texts: Sequence[str],
        *,
        key: Key | None = None,
        beams: int | None = None,
        length_penalty: Penalty | None = None,
        max_length: int | None = None,
        stop: Sequence[str] | None = None,
        batch_size: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Translates, by beam search.

        Args:
          texts: in the source's language.
          key: as ``write`` takes it, and for ``beams=1`` only.
          beams, length_penalty: as ``beam_search`` takes them, but that one beam is greedy; None is as the
            recipe says, and without one 4 and 0.6.
          max_length: tokens of a translation at most; None is as the recipe says, and without one 50 more
            than the source's, padding counted.
          stop, batch_size, on_batch: as ``write`` takes them.

        Returns:
          The translations, in the order of the texts.

        Raises:
          ValueError: for a decoder, a tokenizer without begin and end, a text that the positions of
            ``nn.Learned`` do not reach, logits that are not numbers, and as ``beam_search``.

        Vaswani et al. 2017, section 6.1 (beam 4, alpha 0.6, source length + 50).
        """
        options = {"beams": beams, "length_penalty": length_penalty, "max_length": max_length}
        recipe, ids = self.own_generation_config.updated(**options), self.encode_sources(texts)
        ends = stops(recipe.stop_strings if stop is None else stop)
        return self._written(ids, [()] * len(ids), key, recipe, ends, batch_size, on_batch)

    def _written(
        self,
        ids: Sequence[np.ndarray],
        before: Sequence[Sequence[int]],
        key: Key | None,
        recipe: GenerationConfig,
        stop: Sequence[str],
        batch_size: int,
        on_batch: Callable[[int], None] | None,
    ) -> list[str]:
        """What is written of inputs; ``before`` is what a text goes on from, an input of a decoder's."""
        keys, texts = _keys(key, len(ids), recipe), [""] * len(ids)
        for batch, here in self._batches(ids, batch_size, recipe):
            rows = [Row(self.tokenizer, before[i], stop, here.eos_ids) for i in batch.rows]
            keys_here = None if keys is None else keys[batch.filled]
            for block in self._blocks(batch, keys_here, here, EVERY):
                for row, tokens in zip(rows, block, strict=False):
                    row.add(tokens)
                if all(row.over for row in rows):
                    break
            for i, row in zip(batch.rows, rows, strict=True):
                texts[i] = row.text()
            if on_batch is not None:
                on_batch(len(batch.rows))
        return texts

    def _batches(
        self, ids: Sequence[np.ndarray], batch_size: int, recipe: GenerationConfig
    ) -> Iterator[tuple[Batch, GenerationConfig]]:
        """Batches, each with the recipe of its own lengths."""
        fixed = lambda longest, shortest: dataclasses.replace(
            recipe, max_length=longest, min_length=shortest, max_total=None, min_total=0
        )
        if self.is_encoder_decoder:
            reach, (longest, shortest) = self._reach(0), recipe.limits(1)
            for batch in batches(ids, batch_size, reach, side="right"):
                S = batch.tokens.shape[1]
                default = S + 50 if reach is None else min(S + 50, reach)
                yield batch, fixed(default if longest is None else longest, shortest)
        elif recipe.counts_the_prompt:
            # Rows of one length end at one place.
            for n in sorted({len(x) for x in ids}):
                where = np.array([i for i, x in enumerate(ids) if len(x) == n])
                for batch in batches([ids[i] for i in where], batch_size, n):
                    rows = {"rows": where[batch.rows], "filled": where[batch.filled]}
                    yield batch._replace(**rows), fixed(*recipe.limits(n))
        else:
            longest, shortest = recipe.limits(0)
            for batch in batches(ids, batch_size, self._reach(longest - 1)):
                yield batch, fixed(longest, shortest)

    def _blocks(
        self, batch: Batch, keys: Key | None, recipe: GenerationConfig, every: int
    ) -> Iterator[np.ndarray]:
        """Tokens [B, n] as they are written; by beams, all at once."""
        (B, P), valid = batch.tokens.shape, jnp.asarray(batch.valid)
        options = {
            "max_length": recipe.max_length,
            "min_length": recipe.min_length,
            "eos_id": recipe.eos_ids,
            "pad_id": recipe.pad_id,
            "bos_id": recipe.start_id or 0,
            "processors": (*self._only_known, *recipe.processors),
        }
        options |= {"source_mask": masks.padding(valid)} if self.is_encoder_decoder else {"valid": valid}
        arguments = self.model, self.params, jnp.asarray(batch.tokens)
        what = f"{B} x {P} + {recipe.max_length} tokens"
        if recipe.beams == 1:
            with compiling(f"{'greedy' if keys is None else 'sampling'} for {what}"):
                blocks = stream(*arguments, key=keys, every=every, **options)
                first = next(blocks, None)
            if first is not None:
                yield first
            yield from blocks
            return
        if keys is not None:
            raise ValueError(
                f"beams take the likeliest tokens: with a key, beams must be 1, got {recipe.beams}"
            )
        options |= {"length_penalty": recipe.length_penalty, "stopping": recipe.stopping}
        with compiling(f"beam search for {what}, {recipe.beams} beams"):
            best = beam_search(*arguments, beams=recipe.beams, **options).tokens[:, 0]
        yield np.asarray(best)


def _keys(key: Key | None, n: int, recipe: GenerationConfig) -> Key | None:
    """A key for each of n inputs."""
    if key is None and recipe.do_sample and recipe.beams == 1:
        raise ValueError(
            "TextGenerator: got key=None with a recipe that draws tokens; wanted a key, such as "
            "jax.random.key(0). For the likeliest tokens take a recipe with do_sample=False, of a checkpoint "
            "generation={'do_sample': False}."
        )
    if key is None:
        return None
    keys = as_key("TextGenerator", key, batched=True)
    keys = keys if keys.ndim else jax.random.split(keys, n)
    if keys.shape != (n,):
        raise ValueError(f"key must be one key, or one a prompt [{n}], got {list(keys.shape)}")
    return keys

"""From texts to texts: prompts written on, sources translated, in batches of few shapes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_key
from tfm_jax.generate.beam import Penalty, beam_search
from tfm_jax.generate.decode import stream
from tfm_jax.generate.processors import Processor
from tfm_jax.generate.reader import InputReader
from tfm_jax.generate.recipe import Recipe
from tfm_jax.generate.rows import Batch, Row, batches, compiling, stops
from tfm_jax.ops import masks
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Key

__all__ = ["TextGenerator"]

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
      recipe: how it writes where a call does not say; None is ``Recipe.of(tokenizer)``.
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
            likeliest token, unless the recipe ``draws``.
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
            an empty stop text, a key beside beams, no key where the recipe ``draws``, logits that are not
            numbers, and as ``sample``.
        """
        beams = 1 if beams is None and self.recipe is None else beams
        recipe = self.own_recipe.told(max_length=max_length, processors=processors, beams=beams)
        ends, ids = stops(recipe.stop if stop is None else stop), self.encode_prompts(prompts, max_length)
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
        recipe = self.own_recipe.told(max_length=max_length, processors=processors, beams=1)
        ends, ids = stops(recipe.stop if stop is None else stop), self.encode_prompts([prompt], max_length)
        ((batch, recipe),) = self._batches(ids, 1, recipe)
        keys = _keys(key, 1, recipe)

        def pieces() -> Iterator[str]:
            row, given = Row(self.tokenizer, ids[0], ends, recipe.ends), 0
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
        recipe, ids = self.own_recipe.told(**options), self.encode_sources(texts)
        ends = stops(recipe.stop if stop is None else stop)
        return self._written(ids, [()] * len(ids), key, recipe, ends, batch_size, on_batch)

    def _written(
        self,
        ids: Sequence[np.ndarray],
        before: Sequence[Sequence[int]],
        key: Key | None,
        recipe: Recipe,
        stop: Sequence[str],
        batch_size: int,
        on_batch: Callable[[int], None] | None,
    ) -> list[str]:
        """What is written of inputs; ``before`` is what a text goes on from, an input of a decoder's."""
        keys, texts = _keys(key, len(ids), recipe), [""] * len(ids)
        for batch, here in self._batches(ids, batch_size, recipe):
            rows = [Row(self.tokenizer, before[i], stop, here.ends) for i in batch.rows]
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
        self, ids: Sequence[np.ndarray], batch_size: int, recipe: Recipe
    ) -> Iterator[tuple[Batch, Recipe]]:
        """Batches, each with the recipe of its own lengths."""
        fixed = lambda longest, shortest: dataclasses.replace(
            recipe, max_length=longest, min_length=shortest, max_total=None, min_total=0
        )
        if self.reads_a_source:
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

    def _blocks(self, batch: Batch, keys: Key | None, recipe: Recipe, every: int) -> Iterator[np.ndarray]:
        """Tokens [B, n] as they are written; by beams, all at once."""
        (B, P), valid = batch.tokens.shape, jnp.asarray(batch.valid)
        options = {
            "max_length": recipe.max_length,
            "min_length": recipe.min_length,
            "eos_id": recipe.ends,
            "pad_id": recipe.pad_id,
            "bos_id": recipe.start or 0,
            "processors": (*self._only_known, *recipe.processors),
        }
        options |= {"source_mask": masks.padding(valid)} if self.reads_a_source else {"valid": valid}
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


def _keys(key: Key | None, n: int, recipe: Recipe) -> Key | None:
    """A key for each of n inputs."""
    if key is None and recipe.draws and recipe.beams == 1:
        raise ValueError(
            "TextGenerator: got key=None with a recipe that draws tokens; wanted a key, such as "
            "jax.random.key(0). For the likeliest tokens take a recipe with draws=False, of a checkpoint "
            "generation={'do_sample': False}."
        )
    if key is None:
        return None
    keys = as_key("TextGenerator", key, several=True)
    keys = keys if keys.ndim else jax.random.split(keys, n)
    if keys.shape != (n,):
        raise ValueError(f"key must be one key, or one a prompt [{n}], got {list(keys.shape)}")
    return keys

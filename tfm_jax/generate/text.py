"""From texts to texts: prompts written on, sources translated, in batches of few shapes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.generate.beam import Penalty, beam_search
from tfm_jax.generate.decode import stream
from tfm_jax.generate.processors import Processor
from tfm_jax.generate.reader import Reader
from tfm_jax.generate.rows import Batch, Row, batches, compiling, stops
from tfm_jax.ops import masks
from tfm_jax.types import Key

__all__ = ["TextGenerator"]

EVERY = 16
"""Tokens between two looks at who has ended."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextGenerator(Reader):
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
        knows are never chosen.

    Raises:
      ValueError: for a tokenizer with more ids than the model has.
    """

    def write(
        self,
        prompts: Sequence[str],
        *,
        key: Key | None,
        max_length: int,
        processors: Sequence[Processor] = (),
        stop: Sequence[str] = (),
        batch_size: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Writes prompts on.

        Args:
          prompts: texts. The empty one is fine where the tokenizer has a begin token.
          key: consumed: one key, from which each prompt gets its own, or one a prompt [n]; None takes the
            likeliest token.
          max_length: tokens to write at most.
          processors: such as ``(Temperature(0.8), TopP(0.95))``.
          stop: texts at which a row ends; the one that is complete first counts, and is left out.
          batch_size: prompts at once, at least 1.
          on_batch: is told, as each batch ends, how many prompts it had.

        Returns:
          What was written, without the prompts, in their order.

        Raises:
          ValueError: for an encoder-decoder, an empty prompt without a begin token, a prompt that the
            positions of ``nn.Learned`` do not reach, an empty stop text, logits that are not numbers, and as
            ``sample``.
        """
        ends, ids = stops(stop), self.encode_prompts(prompts, max_length)
        keys = _keys(key, len(ids))
        texts = [""] * len(ids)
        for batch in batches(ids, batch_size, self._reach(max_length - 1)):
            rows = [Row(self.tokenizer, ids[i], ends) for i in batch.rows]
            keys_here = None if keys is None else keys[batch.filled]
            for block in self._blocks(batch, keys_here, max_length, processors, EVERY):
                for row, tokens in zip(rows, block, strict=False):
                    row.add(tokens)
                if all(row.over for row in rows):
                    break
            for i, row in zip(batch.rows, rows, strict=True):
                texts[i] = row.text()
            if on_batch is not None:
                on_batch(len(batch.rows))
        return texts

    def stream(
        self,
        prompt: str,
        *,
        key: Key | None,
        max_length: int,
        processors: Sequence[Processor] = (),
        stop: Sequence[str] = (),
        every: int = 4,
    ) -> Iterator[str]:
        """Writes one prompt on, and gives the text piece by piece.

        Equivalent to::

            iter([self.write([prompt], key=key, ...)[0]])            # in pieces

        Args:
          prompt, key, max_length, processors, stop: as ``write`` takes them.
          every: tokens between two pieces.

        Returns:
          An iterator over pieces. No piece ends within a character, or where a stop text may have begun.

        Raises:
          ValueError: as ``write``.
        """
        ends, ids = stops(stop), self.encode_prompts([prompt], max_length)
        (batch,) = batches(ids, 1, self._reach(max_length - 1))
        keys = _keys(key, 1)

        def pieces() -> Iterator[str]:
            row, given = Row(self.tokenizer, ids[0], ends), 0
            for block in self._blocks(batch, keys, max_length, processors, every):
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
        beams: int = 4,
        length_penalty: Penalty = 0.6,
        max_length: int | None = None,
        batch_size: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Translates, by beam search.

        Args:
          texts: in the source's language.
          beams, length_penalty: as ``beam_search`` takes them.
          max_length: tokens of a translation at most; None is 50 more than the source's, padding counted.
          batch_size, on_batch: as ``write`` takes them.

        Returns:
          The translations, in the order of the texts.

        Raises:
          ValueError: for a decoder, a tokenizer without begin and end, a text that the positions of
            ``nn.Learned`` do not reach, logits that are not numbers, and as ``beam_search``.

        Vaswani et al. 2017, section 6.1 (beam 4, alpha 0.6, source length + 50).
        """
        ids, reach = self.encode_sources(texts), self._reach(0)
        found = [""] * len(ids)
        for batch in batches(ids, batch_size, reach):
            B, S = batch.tokens.shape
            length = max_length
            if length is None:
                length = S + 50 if reach is None else min(S + 50, reach)
            with compiling(f"beam search for {B} x {S} + {length} tokens, {beams} beams"):
                best = beam_search(
                    self.model,
                    self.params,
                    jnp.asarray(batch.tokens),
                    source_mask=masks.padding(jnp.asarray(batch.valid)),
                    beams=beams,
                    length_penalty=length_penalty,
                    max_length=length,
                    processors=self._only_known,
                    **self._special,
                ).tokens[:, 0]
            for i, tokens in zip(batch.rows, np.asarray(best), strict=False):
                row = Row(self.tokenizer, (), ())
                row.add(tokens)
                found[i] = row.text()
            if on_batch is not None:
                on_batch(len(batch.rows))
        return found

    def _blocks(
        self,
        batch: Batch,
        keys: Key | None,
        max_length: int,
        processors: Sequence[Processor],
        every: int,
    ) -> Iterator[np.ndarray]:
        B, P = batch.tokens.shape
        name = "greedy" if keys is None else "sampling"
        with compiling(f"{name} for {B} x {P} + {max_length} tokens"):
            blocks = stream(
                self.model,
                self.params,
                jnp.asarray(batch.tokens),
                key=keys,
                max_length=max_length,
                every=every,
                processors=(*self._only_known, *processors),
                valid=jnp.asarray(batch.valid),
                **self._special,
            )
            first = next(blocks)
        yield first
        yield from blocks


def _keys(key: Key | None, n: int) -> Key | None:
    """A key for each of n prompts."""
    keys = key if key is None or key.ndim else jax.random.split(key, n)
    if keys is not None and keys.shape != (n,):
        raise ValueError(f"key must be one key, or one a prompt [{n}], got {list(keys.shape)}")
    return keys

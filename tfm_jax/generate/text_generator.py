"""Text generation: a model with its tokenizer, from texts to texts."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_key, as_texts, check_shapes
from tfm_jax.generate._beam_search import beam_search
from tfm_jax.generate._limits import LengthLimits, Limits, count_positions
from tfm_jax.generate.autoregressive import stream
from tfm_jax.generate.batching import (
    Batch,
    StopStringBuffer,
    bucketed_batches,
    check_stop_strings,
    check_vocabulary,
    log_compilation,
)
from tfm_jax.generate.config import GenerationConfig, LengthPenalty
from tfm_jax.generate.constraints import SuppressFrom
from tfm_jax.generate.logits_processors import Processor
from tfm_jax.nn.decoding import CachedDecoder
from tfm_jax.nn.functional import Pure, skeleton_of
from tfm_jax.ops.masks import padding
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Key, Params, Tokenizer

__all__ = ["TextGenerator"]

BLOCK = 16
"""Tokens generated between two checks whether every output has ended."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextGenerator:
    """Text generation with a model and its tokenizer.

    Inputs are padded to powers of two, at least 16, and batches are filled with copies of their last input:
    few shapes are compiled. The first call with a shape logs its compilation time (INFO, logger
    "tfm_jax.generate"). The output of a text does not depend on the batch.

    Args:
      model: from ``nn.functionalize``: an ``nn.Decoder``, which continues prompts, or an
        ``nn.EncoderDecoder``, which translates.
      params: its parameters.
      tokenizer: with ``encode_batch``, ``decode``, ``vocab_size``, ``pad_id``, ``bos_id`` and ``eos_id``. Ids
        that only the model has are never generated; a text with an id that the model does not have is a
        ValueError.
      generation_config: the defaults of calls; None is ``GenerationConfig.from_tokenizer(tokenizer)``, with
        beam search for an encoder-decoder only.
    """

    model: Pure[CachedDecoder]
    params: Params
    tokenizer: Tokenizer
    generation_config: GenerationConfig | None = None

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
        """Continues prompts. Arguments that are None are those of ``default_config``.

        Args:
          prompts: texts. An empty one requires a ``start_id`` or a prefix.
          key: a PRNG key, consumed, which is split for the prompts; or one per prompt [n]; None decodes
            greedily.
          max_length: most tokens of an output.
          processors: logits processors, such as ``(Temperature(0.8), TopP(0.95))``.
          beams: number of beams; above 1 the key must be None.
          stop: strings that end an output, and are removed from it.
          batch_size: prompts per batch, at least 1.
          on_batch: called after each batch with its number of prompts.

        Returns:
          The outputs without the prompts, in the order of the prompts.

        Raises:
          ValueError: the model is an encoder-decoder; an empty prompt without a start token; a prompt too
            long for the positions of ``nn.Learned`` or for ``max_total``; no ``max_length``; an empty stop
            string; a key with beams; no key with ``do_sample``; logits that are not finite; and as in
            ``sample``.
        """
        limits = self._prompt_limits(stop, max_length=max_length, processors=processors, beams=beams)
        ids = self._encode_prompts(prompts, limits)
        return self._generate(ids, ids, limits, key=key, batch_size=batch_size, on_batch=on_batch)

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
        """Continues one prompt without beams, and streams the text.

        Equivalent to::

            iter([self.write([prompt], key=key, beams=1, ...)[0]])            # in chunks

        Args:
          prompt, key, max_length, processors, stop: as in ``write``.
          every: tokens per chunk.

        Returns:
          An iterator over chunks of text. A chunk never ends inside a character or a possible stop string.

        Raises:
          ValueError: as in ``write``.
        """
        check_number("TextGenerator", "every", every, SIZE)
        limits = self._prompt_limits(stop, max_length=max_length, processors=processors, beams=1)
        ids = self._encode_prompts([prompt], limits)
        keys = _keys(key, 1, limits.config)
        return self._chunks(ids, limits, keys, every)

    def translate(
        self,
        texts: Sequence[str],
        *,
        key: Key | None = None,
        beams: int | None = None,
        length_penalty: LengthPenalty | None = None,
        max_length: int | None = None,
        stop: Sequence[str] | None = None,
        batch_size: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Translates by beam search. Arguments that are None are those of ``default_config``.

        Args:
          texts: in the source language.
          key: as in ``write``; for ``beams=1`` only.
          beams, length_penalty: as in ``beam_search``; 1 is greedy decoding.
          max_length: most tokens of a translation; None without a default is the padded source's length + 50.
          stop, batch_size, on_batch: as in ``write``.

        Returns:
          The translations, in the order of the texts.

        Raises:
          ValueError: the model is a decoder; no ``start_id`` or EOS; a text too long for the positions of
            ``nn.Learned``; logits that are not finite; and as in ``beam_search``.

        Vaswani et al. 2017, section 6.1 (beam 4, alpha 0.6, source length + 50).
        """
        self._check_model(is_encoder_decoder=True)
        limits = self._limits(stop, beams=beams, length_penalty=length_penalty, max_length=max_length)
        ids = self._encode_sources(texts, limits)
        no_prompts = [()] * len(ids)
        return self._generate(ids, no_prompts, limits, key=key, batch_size=batch_size, on_batch=on_batch)

    def encode_prompts(self, prompts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """The token ids of prompts as the input of ``write``: int32 [P] each. Raises as ``write`` does."""
        return self._encode_prompts(prompts, self._prompt_limits(None, max_length=max_length))

    def encode_sources(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The token ids of texts as the input of ``translate``: int32 [S] each. Raises as it does."""
        self._check_model(is_encoder_decoder=True)
        return self._encode_sources(texts, self._limits(None))

    @functools.cached_property
    def default_config(self) -> GenerationConfig:
        """The generation config of calls without arguments."""
        if self.generation_config is not None:
            return self.generation_config
        config = GenerationConfig.from_tokenizer(self.tokenizer)
        return config if self.is_encoder_decoder else config.updated(beams=1)

    @functools.cached_property
    def is_encoder_decoder(self) -> bool:
        """Whether the model translates; else it continues prompts."""
        return skeleton_of(self.model).is_encoder_decoder()

    def _check_model(self, *, is_encoder_decoder: bool) -> None:
        if self.is_encoder_decoder and not is_encoder_decoder:
            raise ValueError("TextGenerator: got an encoder-decoder; wanted a decoder. Call translate.")
        if is_encoder_decoder and not self.is_encoder_decoder:
            raise ValueError("TextGenerator: got a decoder; wanted an encoder-decoder. Call write.")

    def _prompt_limits(self, stop: Sequence[str] | None, **options) -> LengthLimits:
        self._check_model(is_encoder_decoder=False)
        return self._limits(stop, **options)

    def _limits(self, stop: Sequence[str] | None, **options) -> LengthLimits:
        """The generation config of a call, and the length limits that follow from it."""
        config = self.default_config.updated(**options)
        stop_strings = check_stop_strings(config.stop_strings if stop is None else stop)
        config = dataclasses.replace(config, stop_strings=stop_strings)
        if config.n_best > 1:
            raise ValueError(
                f"TextGenerator: got n_best={config.n_best}; wanted 1, as it returns one text per input. Set "
                "n_best=1, or call beam_search."
            )
        n_positions = count_positions(skeleton_of(self.model))
        return LengthLimits("TextGenerator", config, n_positions, self.is_encoder_decoder)

    def _encode_prompts(self, prompts: Sequence[str], limits: LengthLimits) -> list[np.ndarray]:
        prompts, config = as_texts("TextGenerator", "prompts", prompts), limits.config
        start = () if config.start_id is None else (config.start_id,)
        encoded = ([*config.prefix_ids, *x] for x in self.tokenizer.encode_batch(prompts))
        ids = [np.array(x or start, np.int32) for x in encoded]
        if not all(map(len, ids)):
            raise ValueError(
                "TextGenerator: got an empty prompt with a tokenizer without BOS; wanted some text."
            )
        return self._checked(prompts, ids, limits)

    def _encode_sources(self, texts: Sequence[str], limits: LengthLimits) -> list[np.ndarray]:
        config = limits.config
        if config.start_id is None or not config.eos_ids:
            raise ValueError(
                f"TextGenerator: got start_id={config.start_id}, eos_ids={config.eos_ids}; wanted both to "
                "translate. Use a tokenizer with BOS and EOS, or set generation_config."
            )
        texts = as_texts("TextGenerator", "texts", texts)
        ids = [np.array([*x, *config.suffix_ids], np.int32) for x in self.tokenizer.encode_batch(texts)]
        return self._checked(texts, ids, limits)

    def _checked(self, texts: Sequence[str], ids: list[np.ndarray], limits: LengthLimits) -> list[np.ndarray]:
        """Raises for ids outside the vocabulary, and for texts that are too long."""
        V = self._vocab_size
        check_vocabulary(texts, ids, V, lambda i: self.tokenizer.decode([i]))
        if (start := limits.config.start_id or 0) >= V:
            raise ValueError(
                f"TextGenerator: got start_id={start}; wanted an id below {V}, the model's vocabulary."
            )
        limits.check_inputs(texts, ids)
        return ids

    @functools.cached_property
    def _vocab_size(self) -> int:
        return skeleton_of(self.model).decoder_stack().config.vocab_size

    def _generate(
        self,
        ids: Sequence[np.ndarray],
        prompts: Sequence[Sequence[int] | np.ndarray],
        limits: LengthLimits,
        *,
        key: Key | None,
        batch_size: int,
        on_batch: Callable[[int], None] | None,
    ) -> list[str]:
        """The outputs for input ids; ``prompts`` are the ids that an output continues, none for a source."""
        config = limits.config
        keys, texts = _keys(key, len(ids), config), [""] * len(ids)
        for batch, batch_limits in self._batches(ids, batch_size, limits):
            outputs = [
                StopStringBuffer(self.tokenizer, prompts[i], config.stop_strings, config.eos_ids)
                for i in batch.indices
            ]
            batch_keys = None if keys is None else keys[batch.filled]
            for block in self._blocks(batch, batch_limits, config, batch_keys, BLOCK):
                for output, tokens in zip(outputs, block, strict=False):  # without the filling
                    output.add(tokens)
                if all(output.done for output in outputs):
                    break
            for i, output in zip(batch.indices, outputs, strict=True):
                texts[i] = output.text()
            if on_batch is not None:
                on_batch(len(batch.indices))
        return texts

    def _chunks(
        self, ids: Sequence[np.ndarray], limits: LengthLimits, keys: Key | None, every: int
    ) -> Iterator[str]:
        """The output for one prompt, in chunks."""
        config, sent = limits.config, 0
        ((batch, batch_limits),) = self._batches(ids, 1, limits)
        output = StopStringBuffer(self.tokenizer, ids[0], config.stop_strings, config.eos_ids)
        for block in self._blocks(batch, batch_limits, config, keys, every):
            output.add(block[0])
            text = output.stable_text()
            if len(text) > sent:
                yield text[sent:]
                sent = len(text)
            if output.done:
                break
        if rest := output.text()[sent:]:
            yield rest

    def _batches(
        self, ids: Sequence[np.ndarray], batch_size: int, limits: LengthLimits
    ) -> Iterator[tuple[Batch, Limits]]:
        """Batches with the limits of their outputs."""
        side = "right" if self.is_encoder_decoder else "left"
        for batch in bucketed_batches(
            ids, batch_size, limits.max_input, side=side, exact=limits.depends_on_prompt
        ):
            yield batch, limits.of(batch.tokens.shape[1])

    def _blocks(
        self, batch: Batch, limits: Limits, config: GenerationConfig, keys: Key | None, every: int
    ) -> Iterator[np.ndarray]:
        """Generated tokens [B, n], ``every`` at a time; by beam search, all at once."""
        (B, P), valid = batch.tokens.shape, jnp.asarray(batch.valid)
        source_mask, valid = (padding(valid), None) if self.is_encoder_decoder else (None, valid)
        arguments = self.model, self.params, jnp.asarray(batch.tokens), self._token_config(config, limits)
        shape = f"{B} x {P} + {limits.max_length} tokens"
        if config.beams > 1:
            with log_compilation(f"beam search for {shape}, {config.beams} beams"):
                best = beam_search(*arguments, valid=valid, source_mask=source_mask).tokens[:, 0]
            yield np.asarray(best)
            return
        with log_compilation(f"{'greedy' if keys is None else 'sampling'} for {shape}"):
            blocks = stream(*arguments, key=keys, every=every, valid=valid, source_mask=source_mask)
            first = next(blocks, None)
        if first is not None:
            yield first
        yield from blocks

    def _token_config(self, config: GenerationConfig, limits: Limits) -> GenerationConfig:
        """The config of the functions of token ids: the texts are encoded, and the lengths resolved."""
        n_tokens = self.tokenizer.vocab_size
        unknown = (SuppressFrom(n_tokens),) if n_tokens < self._vocab_size else ()
        return dataclasses.replace(
            config,
            prefix_ids=(),
            suffix_ids=(),
            max_length=limits.max_length,
            max_total=None,
            min_length=limits.min_length,
            min_total=0,
            processors=(*unknown, *config.processors),
            do_sample=False,  # with a key the tokens are sampled in any case
            stop_strings=(),
        )


def _keys(key: Key | None, n: int, config: GenerationConfig) -> Key | None:
    """One key per input."""
    if key is None and config.do_sample and config.beams == 1:
        raise ValueError(
            "TextGenerator: got key=None with do_sample=True; wanted a PRNG key, such as jax.random.key(0). "
            "For the most likely tokens set do_sample=False, of a checkpoint generation={'do_sample': False}."
        )
    if key is None:
        return None
    if config.beams > 1:
        raise ValueError(
            f"TextGenerator: got a key with beams={config.beams}; wanted key=None. To sample, set beams=1."
        )
    keys = as_key("TextGenerator", key, batched=True)
    keys = keys if keys.ndim else jax.random.split(keys, n)
    check_shapes("TextGenerator", key=(keys, "B"), sizes={"B": n}, fix="Pass one key, or one per prompt.")
    return keys

"""Translation with a trained model, metrics of translations, and a picture of the attention."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.translation.config import SearchConfig
from tfm_jax import data, generate, nn, viz
from tfm_jax.ops import masks
from tfm_jax.types import Array, Params

__all__ = ["TextMetrics", "Translate", "draw_attention", "exact_match", "make_translate", "text_metrics"]

Translate = Callable[[Params, Sequence[str]], list[str]]
TextMetrics = Callable[[Sequence[str], Sequence[str]], dict[str, float | str]]


def make_translate(
    model: nn.Pure,
    tokenizer: data.Tokenizer,
    shapes: Sequence[tuple[int, int]],
    sizes: Sequence[int],
    search: SearchConfig,
) -> Translate:
    """Makes ``translate(params, texts) -> texts``: beam search in batches of few shapes, each compiled once.

    Args:
      model: an ``nn.EncoderDecoder``.
      tokenizer: of both languages.
      shapes: (S, T) of batches, smallest first. A source longer than the largest S is truncated. A
        translation has at most S + 50 tokens, as in the paper (section 6.1), and at most the largest T.
      sizes: the batch size of each shape.
      search: the beam search.

    Returns:
      The function; translations are in the order of the texts.
    """
    max_source, max_target = shapes[-1]
    pad_id, bos_id, eos_id = _special_ids(tokenizer)
    config = generate.GenerationConfig(
        (eos_id,), pad_id=pad_id, start_id=bos_id, beams=search.beams, length_penalty=search.length_penalty
    )

    @functools.partial(jax.jit, static_argnames="config")
    def decode(params: Params, source: Array, valid: Array, config: generate.GenerationConfig) -> Array:
        found = generate.beam_search(model, params, source, config, source_mask=masks.padding(valid))
        return found.tokens[:, 0]

    def translate(params: Params, texts: Sequence[str]) -> list[str]:
        sources = [np.append(ids[: max_source - 1], eos_id) for ids in tokenizer.encode_batch(texts)]
        examples = data.TranslationExamples(
            sources,
            [np.zeros(0, np.int32)] * len(sources),
            pad_id=pad_id,
            bos_id=bos_id,
            eos_id=eos_id,
            vocab_size=tokenizer.vocab_size,
        )
        batches = data.BucketBatchSampler(examples.lengths, [(width, 1) for width, _ in shapes], sizes)
        translations = [""] * len(sources)
        for batch in data.Loader(examples, batches):
            assert "index" in batch  # of a loader without a seed
            source = batch["source"]
            longest = config.updated(max_length=min(source.shape[1] + 50, max_target))
            tokens = np.asarray(decode(params, source, batch["valid"], longest))
            for index, ids in zip(batch["index"], tokens, strict=True):
                if index >= 0:  # not padding
                    translations[index] = tokenizer.decode(ids)
        return translations

    return translate


def _special_ids(tokenizer: data.Tokenizer) -> tuple[int, int, int]:
    """The pad, BOS and EOS ids; a ValueError if the tokenizer lacks one."""
    pad_id, bos_id, eos_id = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    if pad_id is None or bos_id is None or eos_id is None:
        raise ValueError(
            f"translation: got a tokenizer with pad_id={pad_id}, bos_id={bos_id}, eos_id={eos_id}; wanted "
            "all three. Make one with these special tokens."
        )
    return pad_id, bos_id, eos_id


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Exact match: the share of translations that equal their reference.

    Args:
      translations: the translations.
      references: one for each; at least one.

    Returns:
      A number in [0, 1].
    """
    return sum(a == b for a, b in zip(translations, references, strict=True)) / len(references)


def text_metrics(language: str | None) -> TextMetrics:
    """sacreBLEU and chrF of a corpus, with their signatures.

    Args:
      language: of the references, such as "zh", which BLEU tokenizes in a special way; None for any.

    Returns:
      ``metrics(translations, references) -> {name: value}``.

    Raises:
      ImportError: sacrebleu is not installed, or a package that it needs for this language.

    Post 2018, "A Call for Clarity in Reporting BLEU Scores"; Popović 2015, "chrF".
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError(
            "text_metrics: got no sacrebleu; wanted it for BLEU and chrF. pip install 'tfm_jax[experiments]'"
        ) from error
    try:
        scorers = {"bleu": sacrebleu.BLEU(trg_lang=language or ""), "chrf": sacrebleu.CHRF()}
    except RuntimeError as error:  # a tokenizer of this language is not installed
        raise ImportError(f"text_metrics: BLEU of {language!r}: {' '.join(str(error).split())}") from error

    def metrics(translations: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
        texts = list(translations), [list(references)]
        scores = {name: scorer.corpus_score(*texts).score for name, scorer in scorers.items()}
        return scores | {f"{name}_signature": str(s.get_signature()) for name, s in scorers.items()}

    return metrics


def draw_attention(
    model: nn.Pure, params: Params, tokenizer: data.Tokenizer, source: str, translation: str, path: Path
) -> str | None:
    """Draws the cross-attention of each head of the last layer.

    Args:
      model: an ``nn.EncoderDecoder``.
      params: its parameters.
      tokenizer: of both languages.
      source: a text.
      translation: the model's translation of it.
      path: the PNG file.

    Returns:
      A note on missing fonts, or None, as `viz.attention_map`.
    """
    _, bos_id, eos_id = _special_ids(tokenizer)
    source_ids, target_ids = tokenizer.encode_batch([source, translation])
    apply = jax.jit(functools.partial(model.apply, return_weights=True))
    inputs = (np.array([[*source_ids, eos_id]], np.int32), np.array([[bos_id, *target_ids]], np.int32))
    _, extras = apply(params, *inputs)
    source_labels, target_labels = (
        [*(tokenizer.decode([int(i)]) for i in ids), "<end>"] for ids in (source_ids, target_ids)
    )
    return viz.attention_map(
        np.asarray(extras["weights"]["cross"])[-1, 0],
        source_labels,
        target_labels,
        path,
        title=f"cross-attention of the last layer: {source}",
    )

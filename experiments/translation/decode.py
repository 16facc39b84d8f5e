"""What is done with a trained model: texts in, texts out; their figures; a picture of its attention."""

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
    """Makes ``translate(params, texts) -> texts``: by beams, in batches of a few shapes, each compiled once.

    Args:
        model: an ``nn.EncoderDecoder``.
        tokenizer: of both languages.
        shapes: (S, T) of batches, smallest first. A longer source is cut to the last S. A translation has at
            most S + 50 tokens, as in the paper (section 6.1), and at most the last T.
        sizes: of batches, for each shape.
        search: the beams.

    Returns:
        The function; what it returns is in the order of its texts.
    """
    longest, most = shapes[-1]

    @functools.partial(jax.jit, static_argnames="length")
    def decode(params: Params, source: Array, length: int) -> Array:
        mask = masks.padding(source != tokenizer.pad_id)
        found = generate.beam_search(
            model,
            params,
            source,
            source_mask=mask,
            max_length=length,
            beams=search.beams,
            length_penalty=search.length_penalty,
        )
        return found.tokens[:, 0]

    def translate(params: Params, texts: Sequence[str]) -> list[str]:
        sources = [np.append(ids[: longest - 1], tokenizer.eos_id) for ids in tokenizer.encode_batch(texts)]
        rows = data.TranslationExamples(
            sources,
            [np.zeros(0, np.int32)] * len(sources),
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
        )
        batches = data.BucketBatchSampler(rows.lengths, [(width, 1) for width, _ in shapes], sizes)
        found = [""] * len(sources)
        for batch in data.Loader(rows, batches):
            source = batch["source"]
            tokens = np.asarray(decode(params, source, length=min(source.shape[1] + 50, most)))
            for row, ids in zip(batch["index"], tokens, strict=True):
                if row >= 0:
                    found[row] = tokenizer.decode(ids)
        return found

    return translate


def exact_match(ours: Sequence[str], references: Sequence[str]) -> float:
    """The share of translations that are their reference, to the letter.

    Args:
        ours: the translations.
        references: one for each; at least one.

    Returns:
        From 0 to 1.
    """
    return sum(a == b for a, b in zip(ours, references, strict=True)) / len(references)


def text_metrics(language: str | None) -> TextMetrics:
    """sacreBLEU and chrF of the corpus, with the signatures that say how they were computed.

    Args:
        language: of the references, such as "zh", whose words BLEU then cuts in its own way; None for any.

    Returns:
        A function of the translations and their references.

    Raises:
        ImportError: sacrebleu is not installed, or not what it needs for this language.

    Post 2018, "A Call for Clarity in Reporting BLEU Scores"; Popović 2015, "chrF".
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError("BLEU and chrF need sacrebleu: pip install 'tfm_jax[experiments]'") from error
    try:
        metrics = {"bleu": sacrebleu.BLEU(trg_lang=language or ""), "chrf": sacrebleu.CHRF()}
    except RuntimeError as error:  # it wants a package that knows the words of this language
        raise ImportError(f"BLEU of {language!r}: {' '.join(str(error).split())}") from error

    def figures(ours: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
        scores = {name: m.corpus_score(list(ours), [list(references)]).score for name, m in metrics.items()}
        return scores | {f"{name}_signature": str(m.get_signature()) for name, m in metrics.items()}

    return figures


def draw_attention(
    model: nn.Pure, params: Params, tokenizer: data.Tokenizer, source: str, ours: str, path: Path
) -> str | None:
    """Draws what each head of the last layer looked at in the source, for each token of the translation.

    Args:
        model: an ``nn.EncoderDecoder``.
        params: its parameters.
        tokenizer: of both languages.
        source: a text.
        ours: the model's translation of it.
        path: the PNG file.

    Returns:
        What `viz.attention_map` returns: None, or a note on missing fonts.
    """
    source_ids, ours_ids = ([*tokenizer.encode(text), tokenizer.eos_id] for text in (source, ours))
    read, written = np.array([source_ids], np.int32), np.array([[tokenizer.bos_id, *ours_ids[:-1]]], np.int32)
    _, weights = jax.jit(functools.partial(model.apply, return_weights=True))(params, read, written)
    labels = ([*(tokenizer.decode([i]) for i in ids[:-1]), "<end>"] for ids in (source_ids, ours_ids))
    return viz.attention_map(
        np.asarray(weights["cross"])[-1, 0],
        *labels,
        path,
        title=f"cross-attention of the last layer: {source}",
    )

"""What a checkpoint asks of decoding, its ``generation_config.json``, as a ``Recipe``."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from tfm_jax import generate
from tfm_jax.generate import Recipe
from tfm_jax.generate.processors import Processor
from tfm_jax.pretrained.config import Config
from tfm_jax.pretrained.generation_settings import read_generation
from tfm_jax.types import Array

__all__ = ["recipe_of"]

_DEFAULTS = {"num_beams": 1, "length_penalty": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
_DEFAULTS |= {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_length": 0, "early_stopping": False}
_DEFAULTS |= {"do_sample": False, "renormalize_logits": False}


def recipe_of(config: Config, **changes: Any) -> Recipe:
    """How a checkpoint says that it writes, for ``generate.TextGenerator``.

    Args:
      config: from ``load``: its ``generation``, or where that is empty what its ``settings`` say of it.
      changes: of those settings, by their names, such as ``num_beams=1`` or ``max_new_tokens=50``; None takes
        one away. Those of drawing, such as ``temperature``, need ``do_sample=True`` said here or there; the
        checkpoint's own do nothing without it.

    Returns:
      The ``Recipe``. Lengths count the prompt where theirs do, and scores are divided by
      ``length ** length_penalty``. A ``top_k`` of 0, or of more than the vocabulary, keeps every token. A
      text ends before the first of ``stop_strings``. Unknown keys of the checkpoint change nothing and are
      named once, as by ``load``.

    Raises:
      ValueError: for settings that would change the output and are not supported, for changes that are
        unknown, and for values that do not fit, such as ids outside the vocabulary: all of them together, by
        name.
    """
    said = read_generation(config, changes)
    whole = _DEFAULTS | said
    ends = _several(said.get("eos_token_id"))
    settings = config.settings
    start = said.get("bos_token_id")
    if settings.get("is_encoder_decoder"):
        start = said.get("decoder_start_token_id", start)
        if start is None:
            raise ValueError(
                "the output of an encoder-decoder needs a decoder_start_token_id or bos_token_id"
            )
    penalty = float(whole["length_penalty"])
    return Recipe(
        ends=ends,
        pad_id=said.get("pad_token_id", ends[0] if ends else 0),
        start=start,
        beams=whole["num_beams"],
        length_penalty=functools.partial(_power, penalty),
        stopping=_STOPPING[whole["early_stopping"]],
        processors=_processors(whole, ends, config.model.vocab_size),
        stop=_texts(said.get("stop_strings", ())),
        draws=whole["do_sample"],
        **_lengths(said, settings),
    )


_STOPPING = {False: "heuristic", True: "first", "never": "exact"}


def _several(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    return () if ids is None else tuple(ids) if isinstance(ids, Sequence) else (ids,)


def _texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _power(exponent: float, lengths: Array) -> Array:
    return lengths.astype(jnp.float32) ** jnp.float32(exponent)


def _lengths(said: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int | None]:
    """Theirs count the prompt, and of an encoder-decoder the start; the newer ones count what is new."""
    found: dict[str, int | None] = {}
    if "max_new_tokens" in said:
        found["max_length"] = said["max_new_tokens"]
    elif "max_length" in said:
        found["max_total"] = said["max_length"]
    else:
        found["max_length"] = 20
        found["max_total"] = settings.get("max_position_embeddings", settings.get("n_positions"))
    if "min_new_tokens" in said:
        found["min_length"] = said["min_new_tokens"] + 1  # ours counts the end
    elif said.get("min_length"):
        found["min_total"] = said["min_length"]
    return found


def _processors(whole: Mapping[str, Any], ends: tuple[int, ...], V: int) -> tuple[Processor, ...]:
    """In their order; of an end alone as a bad word nothing is said."""
    forced = whole.get("forced_bos_token_id")
    words = {tuple(word) for word in whole.get("bad_words_ids", ())} - {(end,) for end in ends}
    closed, first = whole.get("suppress_tokens"), whole.get("begin_suppress_tokens")
    found = [
        (generate.RepetitionPenalty, _unless(1.0, float(whole["repetition_penalty"]))),
        (generate.NoRepeatNgram, _unless(0, whole["no_repeat_ngram_size"])),
        (generate.BadWords, _unless((), tuple(sorted(words)))),
        (generate.ForceFirst, forced),
        (generate.ForceLast, _unless((), _several(whole.get("forced_eos_token_id")))),
        (generate.Suppress, None if closed is None else tuple(closed)),
    ]
    if first is not None:
        found.append(
            (functools.partial(generate.SuppressFirst, after_forced=forced is not None), tuple(first))
        )
    if whole["do_sample"]:
        found += [
            (generate.Temperature, _unless(1.0, float(whole["temperature"]))),
            (generate.TopK, _unless(0, min(whole["top_k"], V))),
            (generate.TopP, _unless(1.0, float(whole["top_p"]))),
            (generate.MinP, _unless(0, whole.get("min_p", 0))),
        ]
    last = (generate.Renormalize(),) if whole["renormalize_logits"] else ()
    return (*(make(value) for make, value in found if value is not None), *last)


def _unless(neutral: Any, value: Any) -> Any:
    """The value, but None where it would do nothing."""
    return None if value == neutral else value

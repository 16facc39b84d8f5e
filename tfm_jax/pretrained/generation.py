"""What a checkpoint asks of decoding, its ``generation_config.json``, as a ``Recipe``."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tfm_jax import generate
from tfm_jax.generate import Recipe
from tfm_jax.generate.processors import Processor
from tfm_jax.pretrained.config import Config
from tfm_jax.types import Array

__all__ = ["recipe_of"]

_DEFAULTS = {"num_beams": 1, "length_penalty": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
_DEFAULTS |= {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_length": 0, "early_stopping": False}
_DEFAULTS |= {"do_sample": False, "renormalize_logits": False}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
_IDS += ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
_LENGTHS = ("max_length", "max_new_tokens", "min_new_tokens")
_KNOWN = {*_DEFAULTS, *_IDS, *_LENGTHS, "min_p"}

# What would change the output, and the values with which it does not.
_NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "sequence_bias": (),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "token_healing": (False,),
    "constraints": (),
    "force_words_ids": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "max_time": (),
    "stop_strings": (),
}
_NOT_SUPPORTED_DRAWING = {"typical_p": (1.0,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": ()}
# How it is computed, what else is returned, or where it comes from: the same tokens.
_IGNORED = {
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"),
    *("low_memory", "compile_config", "disable_compile", "remove_invalid_values", "diversity_penalty"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "num_return_sequences", "continuous_batching_config"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "use_mtp"),
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
    *("assistant_ensemble_weight", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
    *("target_lookbehind", "speculation_type"),
    *("transformers_version", "_from_model_config", "_commit_hash", "_name_or_path", "trust_remote_code"),
}


def recipe_of(config: Config, **changes: Any) -> Recipe:
    """How a checkpoint says that it writes, for ``generate.TextGenerator``.

    Args:
      config: from ``load``: its ``generation``, or where that is empty what its ``settings`` say of it.
      changes: of those settings, by their names, such as ``num_beams=1`` or ``max_new_tokens=50``; None takes
        one away.

    Returns:
      The ``Recipe``. Lengths count the prompt where theirs do, and scores are divided by
      ``length ** length_penalty``.

    Raises:
      ValueError: for a setting that would change the output and is not supported, or is unknown, by name; for
        values that do not fit.
    """
    said = _said(config)
    said = {name: value for name, value in {**said, **changes}.items() if value is not None}
    _check(said)
    whole = _DEFAULTS | said
    if whole["do_sample"] and whole["num_beams"] > 1:
        raise ValueError(
            f"do_sample=True with num_beams={whole['num_beams']} is not supported: say one of both"
        )
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
        draws=whole["do_sample"],
        **_lengths(said, settings),
    )


_STOPPING = {False: "heuristic", True: "first", "never": "exact"}


def _said(config: Config) -> Mapping[str, Any]:
    """Their settings, of which an old checkpoint has some in its ``config.json``."""
    if config.generation:
        return config.generation
    names = {*_KNOWN, *_NOT_SUPPORTED, *_NOT_SUPPORTED_DRAWING}
    said = {name: value for name, value in config.settings.items() if name in names}
    if config.settings.get("force_bos_token_to_be_generated"):
        said["forced_bos_token_id"] = said.get("bos_token_id")
    return said


def _check(said: Mapping[str, Any]) -> None:
    refused = _NOT_SUPPORTED | (_NOT_SUPPORTED_DRAWING if said.get("do_sample") else {})
    wrong = {name: said[name] for name in refused if name in said and said[name] not in refused[name]}
    known = _KNOWN | _IGNORED | _NOT_SUPPORTED.keys() | _NOT_SUPPORTED_DRAWING.keys()
    wrong |= {name: said[name] for name in said if name not in known}
    if wrong:
        listed = ", ".join(f"{name}={value!r}" for name, value in sorted(wrong.items()))
        raise ValueError(
            f"what the checkpoint asks of generation is not supported: {listed}; take it away by "
            f"{', '.join(f'{name}=None' for name in sorted(wrong))}"
        )
    if said.get("early_stopping", False) not in _STOPPING:
        raise ValueError(f"early_stopping must be true, false or 'never', got {said['early_stopping']!r}")


def _several(ids: int | list[int] | None) -> tuple[int, ...]:
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


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

"""The settings of a ``generation_config.json``: which there are, what each may be, which change nothing."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tfm_jax import generate
from tfm_jax.generate import GenerationConfig
from tfm_jax.generate.logits_processors import Processor
from tfm_jax.pretrained.config_keys import warn_ignored
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.types import Array

__all__ = ["SETTINGS", "check_changes", "read_generation", "to_generation_config"]


class _Kind(NamedTuple):
    """What a setting may be, in a vocabulary of size V: in words, and as a test of any value."""

    words: str
    fits: Callable[[Any, int], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_id(value: Any, V: int) -> bool:
    return _is_whole(value) and 0 <= value < V


def _are_ids(value: Any, V: int) -> bool:
    return isinstance(value, list | tuple) and all(_is_id(x, V) for x in value)


def _are_words(value: Any, V: int) -> bool:
    return isinstance(value, list | tuple) and all(_are_ids(x, V) and len(x) > 0 for x in value)


def _are_texts(value: Any, V: int) -> bool:
    texts = value if isinstance(value, list | tuple) else [value]
    return len(texts) > 0 and all(isinstance(text, str) and text for text in texts)


def _whole(least: int) -> _Kind:
    words = f"a whole number of at least {least}, below 2**31"
    return _Kind(words, lambda x, V: _is_whole(x) and least <= x < 2**31)


def _real(words: str, fits: Callable[[Any], bool] = lambda x: True) -> _Kind:
    # Compared and not converted: a whole number of JSON may be beyond all floats.
    largest = float(np.finfo(np.float32).max)
    finite = lambda x: isinstance(x, Real) and not isinstance(x, bool) and abs(x) <= largest
    return _Kind(words, lambda x, V: finite(x) and fits(x))


_FLAG = _Kind("true or false", lambda x, V: isinstance(x, bool))

_NUMBER, _ABOVE_0 = _real("a finite number"), _real("a finite number above 0", lambda x: x > 0)

_ID, _IDS = _Kind("an id from 0 to {last}", _is_id), _Kind("a list of ids from 0 to {last}", _are_ids)

_ID_OR_IDS = _Kind("an id from 0 to {last}, or a list of ids", lambda x, V: _is_id(x, V) or _are_ids(x, V))

_WANTED = {
    "do_sample": _FLAG,
    "renormalize_logits": _FLAG,
    "num_beams": _whole(1),
    "early_stopping": _Kind("true, false or 'never'", lambda x, V: isinstance(x, bool) or x == "never"),
    "length_penalty": _real("a number from -10 to 10", lambda x: abs(x) <= 10),
    "repetition_penalty": _ABOVE_0,
    "no_repeat_ngram_size": _whole(0),
    "max_length": _whole(1),
    "max_new_tokens": _whole(1),
    "min_length": _whole(0),
    "min_new_tokens": _whole(0),
    "bos_token_id": _ID,
    "eos_token_id": _ID_OR_IDS,
    "pad_token_id": _ID,
    "decoder_start_token_id": _ID,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _ID_OR_IDS,
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "bad_words_ids": _Kind("a list of words, each a list of ids from 0 to {last}", _are_words),
    "stop_strings": _Kind("a text, or a list of texts, none of them empty", _are_texts),
    "temperature": _NUMBER,
    "top_k": _Kind("a whole number", lambda x, V: _is_whole(x)),
    "top_p": _NUMBER,
    "min_p": _NUMBER,
}

# Files say them where nothing is drawn, where their ranges matter to nobody: of greedy, temperature 0.
_WANTED_DRAWING = {
    "temperature": _ABOVE_0,
    "top_k": _Kind("a whole number of at least 0", lambda x, V: _is_whole(x) and x >= 0),
    "top_p": _real("a number above 0, at most 1", lambda x: 0 < x <= 1),
    "min_p": _real("a number from 0 to 1", lambda x: 0 <= x <= 1),
}

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

_KNOWN = {*_WANTED, *_NOT_SUPPORTED, *_NOT_SUPPORTED_DRAWING}

SETTINGS = tuple(_WANTED)
"""The settings that are followed, by their names."""


def check_changes(changes: Mapping[str, Any]) -> None:
    """Raises a ValueError for settings that fit no checkpoint, before one is loaded."""
    wrong = []
    for name, value in changes.items():
        if value is None:  # which may take away an unknown key of the file
            continue
        if name not in _KNOWN | _IGNORED:
            wrong.append(f"{name}={value!r} is not known")
        elif name in _WANTED and not _WANTED[name].fits(value, 2**31):
            words = _WANTED[name].words.format(last="the last of the vocabulary")
            wrong.append(f"{name}={value!r}, wanted {words}")
    if wrong:
        raise ValueError(f"generation: got {'; '.join(wrong)}")


def read_generation(config: CheckpointConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint and its user say, without those that are None.

    Args:
      config: from ``load``.
      changes: what the user says in the place of the checkpoint.

    Returns:
      The settings by their names. Unknown keys of the checkpoint, and a negative ``pad_token_id`` (none), are
      left out, and named once, as by ``load``.

    Raises:
      ValueError: for those that cannot be honoured, all of them together: with what is wanted, or that they
        are not supported.
    """
    declared = {name: value for name, value in _said(config).items() if value is not None}
    ignored = {name: value for name, value in declared.items() if _is_ignored(name, value)}
    if ignored := {name: value for name, value in ignored.items() if name not in changes}:
        warn_ignored("generation_config.json", [f"{name}={ignored[name]!r}" for name in sorted(ignored)])
    declared = {name: value for name, value in declared.items() if name not in ignored}
    said = {name: value for name, value in {**declared, **changes}.items() if value is not None}
    wrong = dict(_wrong(said, changes, config.model.vocab_size))
    taken_away = sorted(name for name, value in changes.items() if value is None)
    nowhere = [name for name in taken_away if name not in _KNOWN | _IGNORED | _said(config).keys()]
    wrong |= {name: f"{name}=None is not known" for name in nowhere}
    if wrong:
        raise ValueError(
            f"what is asked of generation cannot be done: {'; '.join(wrong.values())}. Say something else of "
            f"{', '.join(wrong)}, or None, which takes away what the checkpoint says"
        )
    return said


def _said(config: CheckpointConfig) -> Mapping[str, Any]:
    """A checkpoint's settings, of which an old one has some in its ``config.json``."""
    if config.generation:
        return config.generation
    said = {name: value for name, value in config.settings.items() if name in _KNOWN}
    if config.settings.get("force_bos_token_to_be_generated"):
        said["forced_bos_token_id"] = said.get("bos_token_id")
    return said


def _is_ignored(name: str, value: Any) -> bool:
    """Whether a checkpoint's setting is unknown, or a pad token that is none."""
    return name not in _KNOWN | _IGNORED or (name == "pad_token_id" and _is_whole(value) and value < 0)


def _wrong(said: Mapping[str, Any], changes: Mapping[str, Any], V: int) -> Iterator[tuple[str, str]]:
    """The settings that cannot be honoured, in their order: each name, and what is wrong."""
    draws = said.get("do_sample") is True
    wanted = _WANTED | (_WANTED_DRAWING if draws else {})
    # Of drawing, what a file says is nothing where nothing is drawn; what is said here is meant.
    refused = _NOT_SUPPORTED | {
        name: neutral for name, neutral in _NOT_SUPPORTED_DRAWING.items() if draws or name in changes
    }
    for name in sorted(said):
        got = f"{name}={said[name]!r}"
        if name in wanted and not wanted[name].fits(said[name], V):
            yield name, f"{got}, wanted {wanted[name].words.format(last=V - 1)}"
        elif name in _WANTED_DRAWING and name in changes and not draws:
            yield name, f"{got} is of drawing, and nothing is drawn: say do_sample=True too"
        elif name in refused and said[name] not in refused[name]:
            yield name, f"{got} is not supported"
        elif name not in _KNOWN | _IGNORED:
            yield name, f"{got} is not known"
    if draws and wanted["num_beams"].fits(beams := said.get("num_beams", 1), V) and beams > 1:
        yield "do_sample", f"do_sample=True with num_beams={beams} is not supported: say one of both"
    if (
        "stop_strings" in said
        and wanted["num_beams"].fits(beams := said.get("num_beams", 1), V)
        and beams > 1
    ):
        # There a beam that has one is a finished hypothesis beside the others.
        got = f"stop_strings={said['stop_strings']!r}"
        yield "stop_strings", f"{got} with num_beams={beams} is not supported: say one of both"


_DEFAULTS = {"num_beams": 1, "length_penalty": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}

_DEFAULTS |= {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_length": 0, "early_stopping": False}

_DEFAULTS |= {"do_sample": False, "renormalize_logits": False}


def to_generation_config(config: CheckpointConfig, **changes: Any) -> GenerationConfig:
    """How a checkpoint says that it writes, for ``generate.TextGenerator``.

    Args:
      config: from ``load``: its ``generation``, or where that is empty what its ``settings`` say of it.
      changes: of those settings, by their names, such as ``num_beams=1`` or ``max_new_tokens=50``; None takes
        one away. Those of drawing, such as ``temperature``, need ``do_sample=True`` said here or there; the
        checkpoint's own do nothing without it.

    Returns:
      The ``GenerationConfig``. Lengths count the prompt where theirs do, and scores are divided by
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
    return GenerationConfig(
        eos_ids=ends,
        pad_id=said.get("pad_token_id", ends[0] if ends else 0),
        start_id=start,
        beams=whole["num_beams"],
        length_penalty=functools.partial(_power, penalty),
        stopping=_STOPPING[whole["early_stopping"]],
        processors=_processors(whole, ends, config.model.vocab_size),
        stop_strings=_texts(said.get("stop_strings", ())),
        do_sample=whole["do_sample"],
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

"""``GenerationConfig`` from a checkpoint's ``generation_config.json``: the supported settings and values."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import jax.numpy as jnp

from tfm_jax import generate
from tfm_jax.generate import GenerationConfig
from tfm_jax.generate.logits_processors import Processor
from tfm_jax.pretrained.config_keys import FLOAT32, POSITIVE_FLOAT32, warn_ignored
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.ranges import COUNT, SIZE, Range
from tfm_jax.types import Array

__all__ = ["SETTINGS", "check_changes", "read_generation", "to_generation_config"]


def to_generation_config(config: CheckpointConfig, **changes: Any) -> GenerationConfig:
    """The ``GenerationConfig`` of a checkpoint, for ``generate.TextGenerator``.

    Args:
      config: from ``load``; its ``generation`` counts, or where that is empty the generation settings in its
        ``settings``.
      changes: settings that replace the checkpoint's, by name, such as ``num_beams=1`` or
        ``max_new_tokens=50``; None removes one. Sampling settings, such as ``temperature``, need
        ``do_sample=True`` in the changes or the checkpoint; the checkpoint's have no effect without it.

    Returns:
      The ``GenerationConfig``. Lengths include the prompt where those of transformers do. Beam scores are
      divided by ``length ** length_penalty``. A ``top_k`` of 0, or above the vocabulary size, keeps every
      token. A text ends before the first of ``stop_strings``. Unknown settings of the checkpoint have no
      effect and are logged once.

    Raises:
      ValueError: for settings that change the output and are not supported, unknown changes, and invalid
        values such as ids outside the vocabulary: all of them together, by name.
    """
    explicit = read_generation(config, changes)
    settings = _DEFAULTS | explicit
    eos_ids = _as_ids(explicit.get("eos_token_id"))
    start_id = explicit.get("bos_token_id")
    if config.settings.get("is_encoder_decoder"):
        start_id = explicit.get("decoder_start_token_id", start_id)
        if start_id is None:
            raise ValueError(
                "to_generation_config: got neither decoder_start_token_id nor bos_token_id; wanted one, with "
                "which the decoder of an encoder-decoder starts."
            )
    return GenerationConfig(
        eos_ids=eos_ids,
        pad_id=explicit.get("pad_token_id"),
        start_id=start_id,
        beams=settings["num_beams"],
        length_penalty=_Power(float(settings["length_penalty"])),
        stopping=_STOPPING[settings["early_stopping"]],
        processors=_processors(settings, eos_ids, config.model.vocab_size),
        stop_strings=_as_texts(explicit.get("stop_strings", ())),
        do_sample=settings["do_sample"],
        **_lengths(explicit, config.settings),
    )


_DEFAULTS = {
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "renormalize_logits": False,
}
"""The defaults of transformers."""
_STOPPING = {False: "heuristic", True: "first", "never": "exact"}


def _as_ids(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    return () if ids is None else tuple(ids) if isinstance(ids, Sequence) else (ids,)


def _as_texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


@dataclasses.dataclass(frozen=True)
class _Power:
    """The length penalty of transformers. Equal ones hash equal, which a partial function does not."""

    exponent: float

    def __call__(self, lengths: Array) -> Array:
        return lengths.astype(jnp.float32) ** jnp.float32(self.exponent)


def _lengths(explicit: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int | None]:
    """The length limits: ``max_length`` of transformers includes the prompt, ``max_new_tokens`` does not."""
    found: dict[str, int | None] = {}
    if "max_new_tokens" in explicit:
        found["max_length"] = explicit["max_new_tokens"]
    elif "max_length" in explicit:
        found["max_total"] = explicit["max_length"]
    else:
        found["max_length"] = 20
        found["max_total"] = settings.get("max_position_embeddings", settings.get("n_positions"))
    if "min_new_tokens" in explicit:
        found["min_length"] = explicit["min_new_tokens"] + 1  # ours counts the EOS token
    elif explicit.get("min_length"):
        found["min_total"] = explicit["min_length"]
    return found


def _processors(settings: Mapping[str, Any], eos_ids: tuple[int, ...], V: int) -> tuple[Processor, ...]:
    """The logits processors, in the order of transformers."""
    forced = settings.get("forced_bos_token_id")
    # transformers ignores an EOS token alone as a bad word.
    words = {tuple(word) for word in settings.get("bad_words_ids", ())} - {(i,) for i in eos_ids}
    suppressed, first = settings.get("suppress_tokens"), settings.get("begin_suppress_tokens")
    found = [
        (generate.RepetitionPenalty, _unless(1.0, float(settings["repetition_penalty"]))),
        (generate.NoRepeatNgram, _unless(0, settings["no_repeat_ngram_size"])),
        (generate.BadWords, _unless((), tuple(sorted(words)))),
        (generate.ForceFirst, forced),
        (generate.ForceLast, _unless((), _as_ids(settings.get("forced_eos_token_id")))),
        (generate.Suppress, None if suppressed is None else tuple(suppressed)),
    ]
    if first is not None:
        suppress_first = functools.partial(generate.SuppressFirst, after_forced=forced is not None)
        found.append((suppress_first, tuple(first)))
    if settings["do_sample"]:
        found += [
            (generate.Temperature, _unless(1.0, float(settings["temperature"]))),
            (generate.TopK, _unless(0, min(settings["top_k"], V))),
            (generate.TopP, _unless(1.0, float(settings["top_p"]))),
            (generate.MinP, _unless(0, settings.get("min_p", 0))),
        ]
    last = (generate.Renormalize(),) if settings["renormalize_logits"] else ()
    return (*(make(value) for make, value in found if value is not None), *last)


def _unless(neutral: Any, value: Any) -> Any:
    """The value, or None if it has no effect."""
    return None if value == neutral else value


class _Kind(NamedTuple):
    """The values that a setting may have: in words, and as a test of a value and the vocabulary size."""

    words: str
    fits: Callable[[Any, int], bool]


def _in_range(value: Any, wanted: Range) -> bool:
    return isinstance(value, Number) and value in wanted  # not an array


def _number(wanted: Range) -> _Kind:
    return _Kind(wanted.wanted, lambda value, V: _in_range(value, wanted))


def _is_id(value: Any, V: int) -> bool:
    return _in_range(value, COUNT) and value < V


def _is_id_list(value: Any, V: int) -> bool:
    return isinstance(value, list | tuple) and all(_is_id(x, V) for x in value)


def _is_word_list(value: Any, V: int) -> bool:
    return isinstance(value, list | tuple) and all(_is_id_list(x, V) and len(x) > 0 for x in value)


def _is_text_list(value: Any, V: int) -> bool:
    texts = value if isinstance(value, list | tuple) else [value]
    return len(texts) > 0 and all(isinstance(text, str) and text for text in texts)


_INTEGER = Range("an integer", lambda x: True, True)
_FLAG = _Kind("true or false", lambda x, V: isinstance(x, bool))
_ID = _Kind("an id from 0 to {last}", _is_id)
_IDS = _Kind("a list of ids from 0 to {last}", _is_id_list)
_ID_OR_IDS = _Kind("an id from 0 to {last}, or a list of ids", lambda x, V: _is_id(x, V) or _is_id_list(x, V))
_KINDS = {
    "do_sample": _FLAG,
    "renormalize_logits": _FLAG,
    "num_beams": _number(SIZE),
    "early_stopping": _Kind("true, false or 'never'", lambda x, V: isinstance(x, bool) or x == "never"),
    "length_penalty": _number(Range("a number from -10 to 10", lambda x: abs(x) <= 10)),
    "repetition_penalty": _number(POSITIVE_FLOAT32),
    "no_repeat_ngram_size": _number(COUNT),
    "max_length": _number(SIZE),
    "max_new_tokens": _number(SIZE),
    "min_length": _number(COUNT),
    "min_new_tokens": _number(COUNT),
    "bos_token_id": _ID,
    "eos_token_id": _ID_OR_IDS,
    "pad_token_id": _ID,
    "decoder_start_token_id": _ID,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _ID_OR_IDS,
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "bad_words_ids": _Kind("a list of words, each a list of ids from 0 to {last}", _is_word_list),
    "stop_strings": _Kind("a text, or a list of texts, none of them empty", _is_text_list),
    "temperature": _number(FLOAT32),
    "top_k": _number(_INTEGER),
    "top_p": _number(FLOAT32),
    "min_p": _number(FLOAT32),
}
# Files for greedy decoding have values that sampling does not accept, such as temperature 0.
_SAMPLING_KINDS = {
    "temperature": _number(POSITIVE_FLOAT32),
    "top_k": _number(Range("an integer of at least 0", lambda x: x >= 0, True)),
    "top_p": _number(Range("a number above 0, at most 1", lambda x: 0 < x <= 1)),
    "min_p": _number(Range("a number from 0 to 1", lambda x: 0 <= x <= 1)),
}
# Settings that change the output, and the values that do not.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
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
_UNSUPPORTED_SAMPLING = {"typical_p": (1.0,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": ()}
# Settings of the computation, of other outputs, and of the file's origin: they change no token.
_NO_EFFECT = {
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
_KNOWN = {*_KINDS, *_UNSUPPORTED, *_UNSUPPORTED_SAMPLING}
SETTINGS = tuple(_KINDS)
"""The supported settings, by name."""


def check_changes(changes: Mapping[str, Any]) -> None:
    """Raises a ValueError for settings that no checkpoint could have, before one is loaded."""
    problems = []
    for name, value in changes.items():
        if value is None:  # may remove an unknown key of the file
            continue
        if name not in _KNOWN | _NO_EFFECT:
            problems.append(f"got {name}={value!r}; wanted a known setting")
        elif name in _KINDS and not _KINDS[name].fits(value, 2**31):
            words = _KINDS[name].words.format(last="the last of the vocabulary")
            problems.append(f"got {name}={value!r}; wanted {words}")
    if problems:
        raise ValueError(f"generation: {'; '.join(problems)}.")


def read_generation(config: CheckpointConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The generation settings of a checkpoint with a user's changes, without those that are None.

    Args:
      config: from ``load``.
      changes: settings that replace the checkpoint's.

    Returns:
      The settings by name. Unknown keys of the checkpoint, and a negative ``pad_token_id`` (which means
      none), are dropped and logged once.

    Raises:
      ValueError: for invalid values and settings that are not supported, all of them together, by name.
    """
    saved = {name: value for name, value in _saved_settings(config).items() if value is not None}
    ignored = {name: value for name, value in saved.items() if _is_ignored(name, value)}
    saved = {name: value for name, value in saved.items() if name not in ignored}
    if ignored := {name: value for name, value in ignored.items() if name not in changes}:
        warn_ignored("generation_config.json", [f"{name}={ignored[name]!r}" for name in sorted(ignored)])
    settings = {name: value for name, value in {**saved, **changes}.items() if value is not None}
    problems = dict(_problems(settings, changes, config.model.vocab_size))
    known = _KNOWN | _NO_EFFECT | _saved_settings(config).keys()
    removed = sorted(name for name, value in changes.items() if value is None)
    problems |= {name: f"got {name}=None; wanted a known setting" for name in removed if name not in known}
    if problems:
        raise ValueError(
            f"to_generation_config: {'; '.join(problems.values())}. Pass other values of "
            f"{', '.join(problems)}, or None, which removes the checkpoint's."
        )
    return settings


def _saved_settings(config: CheckpointConfig) -> Mapping[str, Any]:
    """The checkpoint's settings; old checkpoints have some of them in ``config.json``."""
    if config.generation:
        return config.generation
    found = {name: value for name, value in config.settings.items() if name in _KNOWN}
    if config.settings.get("force_bos_token_to_be_generated"):
        found["forced_bos_token_id"] = found.get("bos_token_id")
    return found


def _is_ignored(name: str, value: Any) -> bool:
    """Whether a checkpoint's setting is unknown, or a negative pad token."""
    if name not in _KNOWN | _NO_EFFECT:
        return True
    return name == "pad_token_id" and _in_range(value, _INTEGER) and value < 0


def _problems(settings: Mapping[str, Any], changes: Mapping[str, Any], V: int) -> Iterator[tuple[str, str]]:
    """The name of each invalid or unsupported setting, and a message."""
    samples = settings.get("do_sample") is True
    kinds = _KINDS | (_SAMPLING_KINDS if samples else {})
    # Without sampling, sampling settings of a file have no effect; those of a user are a mistake.
    unsupported = _UNSUPPORTED | {
        name: neutral for name, neutral in _UNSUPPORTED_SAMPLING.items() if samples or name in changes
    }
    for name in sorted(settings):
        got = f"got {name}={settings[name]!r}"
        if name in kinds and not kinds[name].fits(settings[name], V):
            yield name, f"{got}; wanted {kinds[name].words.format(last=V - 1)}"
        elif name in _SAMPLING_KINDS and name in changes and not samples:
            yield name, f"{got} without sampling; wanted do_sample=True too"
        elif name in unsupported and settings[name] not in unsupported[name]:
            neutral = " or ".join(map(repr, (*unsupported[name], None)))
            yield name, f"{got}; wanted {neutral}, the supported value"
        elif name not in _KNOWN | _NO_EFFECT:
            yield name, f"{got}; wanted a known setting"
    beams = settings.get("num_beams", 1)
    if not kinds["num_beams"].fits(beams, V) or beams == 1:
        return
    if samples:
        yield "do_sample", f"got do_sample=True with num_beams={beams}; wanted one of the two"
    if "stop_strings" in settings:
        # In transformers, a beam with a stop string is a finished hypothesis beside the others.
        got = f"got stop_strings={settings['stop_strings']!r}"
        yield "stop_strings", f"{got} with num_beams={beams}; wanted one of the two"

"""Keys of a ``config.json``: aliases, keys that every family rejects, and keys that change no output."""

import functools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfm_jax.ranges import Range

__all__ = [
    "FLOAT32",
    "POSITIVE_FLOAT32",
    "Settings",
    "TrackedSettings",
    "check_common",
    "check_only",
    "check_sizes",
    "warn_ignored",
    "warn_once",
    "warn_unknown",
]

Settings = Mapping[str, Any]
"""The parsed JSON object of a ``config.json`` or another file with settings."""
_log = logging.getLogger(__name__)
_LARGEST = float(np.finfo(np.float32).max)
FLOAT32 = Range("a finite number", lambda x: abs(x) <= _LARGEST)
POSITIVE_FLOAT32 = Range("a finite number above 0", lambda x: 0 < x <= _LARGEST)

# Keys that change no output of a forward pass: names, how the model is run and trained, special tokens, and
# the generation settings of older files.
_NO_EFFECT = frozenset(
    """
    architectures model_type transformers_version name_or_path auto_map dtype torch_dtype adapters
    use_cache output_attentions output_hidden_states output_past output_scores return_dict
    return_dict_in_generate torchscript use_bfloat16 gradient_checkpointing attn_implementation
    attention_implementation chunk_size_feed_forward tf_legacy_loss tie_encoder_decoder tie_last_hidden_states
    tie_word_embeddings is_decoder is_encoder_decoder add_cross_attention cross_attention_hidden_size
    pruned_heads pretraining_tp slow_but_exact max_position_embeddings mean_resizing
    static_position_embeddings
    initializer_range initializer_factor init_std layerdrop encoder_layerdrop decoder_layerdrop
    attention_probs_dropout classifier_dropout classif_dropout pooler_dropout
    id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params
    prefix tokenizer_class vocab_type_size unsloth_version unsloth_fixed quantization_config
    max_length max_new_tokens min_length min_new_tokens do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens remove_invalid_values
    force_bos_token_to_be_generated extra_pos_embeddings save_step n_ctx
    """.split()  # noqa: SIM905  - names, nine lines of them
)
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
# Keys that change the output of every family, the value that is supported, and the fix.
_UNSUPPORTED: Mapping[str, tuple[object, str]] = {
    "quantization_config": (None, "Quantized weights are not supported: save the model dequantized."),
    "per_layer_config": (None, "All layers must be alike."),
}


class TrackedSettings(Mapping[str, Any]):
    """A ``config.json`` by its family's key names, with a record of the keys that were read.

    Args:
      settings: the parsed file.
      aliases: other names of keys, and the family's name; where a file has both, the alias counts.
    """

    def __init__(self, settings: Settings, aliases: Mapping[str, str]):
        self._original = {name: value for name, value in settings.items() if name not in aliases}
        self._name_in_file = {aliases[name]: name for name in aliases if name in settings}
        aliased = {aliases[name]: settings[name] for name in aliases if name in settings}
        self._settings = self._original | aliased
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._settings[name]

    def without_alias(self, name: str) -> Any:
        """The value of the key itself; an alias beside it is ignored."""
        self.read.add(name)
        return self._original[name]

    def name_of(self, name: str) -> str:
        """The name that the file uses for a key."""
        return self._name_in_file.get(name, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def check_common(settings: Settings) -> list[str]:
    """One message for each key that changes the output of every family and is not supported."""
    return [
        f"got {name}={settings[name]!r}; wanted {value!r}. {fix}"
        for name, (value, fix) in _UNSUPPORTED.items()
        if settings.get(name) not in (value, {}, [])
    ]


def check_only(settings: Settings, **values: object) -> list[str]:
    """One message for each setting that has another value than the only supported one."""
    return [
        f"got {name}={settings[name]!r}; wanted {value!r}, the only supported value."
        for name, value in values.items()
        if settings.get(name, value) != value
    ]


def check_sizes(settings: TrackedSettings, names: Iterable[str]) -> list[str]:
    """One message for each of these keys that is in the file and is not an integer of at least 1."""
    sizes = {name: settings[name] for name in names if name in settings}
    return [
        f"got {settings.name_of(name)}={value!r}; wanted an integer of at least 1."
        for name, value in sizes.items()
        if type(value) is not int or value < 1
    ]


def warn_unknown(settings: Settings, known: Collection[str], source: object) -> None:
    """Logs one warning with the keys that are neither known nor without effect.

    Args:
      settings: the parsed ``config.json``.
      known: keys that the family reads or writes.
      source: the file, for the message.
    """
    unknown = sorted(
        name
        for name in settings
        if name not in known and name not in _NO_EFFECT and not name.startswith("_") and "_token" not in name
    )
    for parent in ("rope_parameters", "rope_scaling"):
        found = settings.get(parent) if parent in known else None
        unknown += [f"{parent}.{name}" for name in sorted((found or {}).keys() - _ROPE_KEYS)]
    if unknown:
        warn_ignored(source, unknown)


def warn_ignored(source: object, keys: Iterable[str]) -> None:
    """Logs a warning about keys of a file that have no effect: once per process for each file and keys.

    Args:
      source: the file.
      keys: names, or names and values; at least one.

    Returns:
      None. The logger is ``tfm_jax.pretrained.config_keys``.
    """
    warn_once(f"{source}: ignored unknown keys: {', '.join(keys)}")


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning, once per process for each text."""
    _log.warning("%s", text)

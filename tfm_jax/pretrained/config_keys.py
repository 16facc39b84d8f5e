"""Keys of a config.json: aliases, keys that every family refuses, and keys that no family reads."""

import functools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["Reading", "check_common", "check_sizes", "warn_ignored", "warn_once", "warn_unknown"]

_log = logging.getLogger(__name__)

# Keys that change no output of a forward pass: what the model is called, how it is run and trained, which
# tokens are special, and what older files say of how it generates.
_UNREAD = frozenset(
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
_OF_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
# Keys that change the output of every family, and the values that do not.
_REFUSED: Mapping[str, tuple[Any, str]] = {
    "quantization_config": (None, "quantized weights; save the model dequantized"),
    "per_layer_config": (None, "layers that differ"),
}


class Reading(Mapping[str, Any]):
    """The settings of a config.json by their family's names, which remembers those that were read.

    Args:
      settings: as they are in the file.
      aliases: other names, and the family's; where both are there the alias counts.
    """

    def __init__(self, settings: Mapping[str, Any], aliases: Mapping[str, str]):
        own = {name: value for name, value in settings.items() if name not in aliases}
        self._own = own
        self._said_as = {aliases[name]: name for name in aliases if name in settings}
        self._settings = own | {aliases[name]: settings[name] for name in aliases if name in settings}
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._settings[name]

    def own(self, name: str) -> Any:
        """The value of the key itself, whatever an alias has."""
        self.read.add(name)
        return self._own[name]

    def name_of(self, name: str) -> str:
        """The name that the file has for a key."""
        return self._said_as.get(name, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def check_common(settings: Mapping[str, Any]) -> None:
    """Raises a ValueError for a key that changes the output of every family, and that none supports."""
    wrong = [
        f"{name}={settings[name]!r} is not supported, only {value!r}: {what}"
        for name, (value, what) in _REFUSED.items()
        if settings.get(name) not in (value, {}, [])
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def check_sizes(settings: Reading, names: Collection[str]) -> None:
    """Raises a ValueError for each of these keys that is there and is no whole number, at least 1."""
    sizes = {name: settings[name] for name in names if name in settings}
    wrong = [
        f"{settings.name_of(name)} must be a whole number, at least 1, got {value!r}"
        for name, value in sizes.items()
        if type(value) is not int or value < 1
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def warn_unknown(settings: Mapping[str, Any], known: Collection[str], source: object) -> None:
    """Logs the keys that are neither known nor among those that change no output, all of them by name."""
    unknown = sorted(
        name
        for name in settings
        if name not in known and name not in _UNREAD and not name.startswith("_") and "_token" not in name
    )
    for where in ("rope_parameters", "rope_scaling"):
        found = settings.get(where) if where in known else None
        unknown += [f"{where}.{name}" for name in sorted((found or {}).keys() - _OF_ROPE)]
    if unknown:
        warn_ignored(source, unknown)


def warn_ignored(source: object, keys: Iterable[str]) -> None:
    """Warns of keys of a file that change nothing, by name: once in a process for each file and keys.

    Args:
      source: the file.
      keys: names, or names and values; there is at least one.

    Returns:
      None. It is a warning of the logger ``tfm_jax.pretrained.config_keys``.
    """
    warn_once(f"{source}: ignored, since nothing here reads them: {', '.join(keys)}")


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning, once in a process for each text."""
    _log.warning("%s", text)

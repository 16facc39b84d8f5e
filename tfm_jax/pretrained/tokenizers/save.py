"""Writes the files of a tokenizer so that transformers reads it with the same ids."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.extra_files import is_tokenizer_file, write_files
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.pretrained.tokenizers.read import read_tokenizer

__all__ = ["tokenizer_files"]

_USUAL_TOKENS = {
    "bos": ("<s>", "[BOS]", "<|begin_of_text|>"),
    "eos": ("</s>", "[EOS]", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>"),
    "sep": ("[SEP]",),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]",),
    "mask": ("[MASK]", "<mask>"),
}
"""Usual special tokens of each role, where the settings name none."""
_CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_KEPT_SETTINGS = (
    *("chat_template", "model_max_length", "padding_side", "truncation_side", "model_input_names"),
)
"""Settings of tokenizer_config.json that hold for any tokenizer."""


def tokenizer_files(
    tokenizer: tokenizers.Tokenizer, config: CheckpointConfig, settings: Settings
) -> dict[str, bytes]:
    """Makes the files of a tokenizer.

    Args:
      tokenizer: that the files are read back as.
      config: of the model. Its tokenizer ``files`` are reused if they are this tokenizer's; settings alone,
        such as a ``model_max_length``, are kept.
      settings: the model's config.json, on which the tokenizer's class depends.

    Returns:
      Contents by file name: the first of these that is read back as the tokenizer. The loaded files; the
      loaded files with a new ``tokenizer.json``; a new ``tokenizer.json`` with a ``tokenizer_config.json`` by
      which it is used as it is.

    Raises:
      ValueError: the model's class in transformers reads no such tokenizer.
    """
    state = json.loads(tokenizer.to_str()) | {"truncation": None, "padding": None}
    loaded = {name: data for name, data in config.files.items() if is_tokenizer_file(name)}
    # Truncation and padding of the loaded file are not part of the tokenizer, and are kept.
    loaded_state = json.loads(loaded.get("tokenizer.json", b"{}"))
    kept = {name: loaded_state.get(name) for name in ("truncation", "padding")}
    templates = {name: data for name, data in loaded.items() if "chat_template" in name}
    configs = {name: data for name, data in loaded.items() if name in _CONFIG_FILES}
    new_config = {"tokenizer_config.json": _to_json(_new_config(tokenizer, config, loaded))}
    candidates = [templates | new_config | {"tokenizer.json": _to_json(state)}]
    if loaded.keys() - configs.keys() - templates.keys():  # the files of a tokenizer, not settings alone
        candidates = [loaded, templates | configs | {"tokenizer.json": _to_json(state | kept)}, *candidates]
    if settings.get("model_type") == "qwen2" and state["model"]["type"] != "BPE":
        candidates = []  # its class rebuilds a BPE, whatever class the files name
    for files in candidates:
        # To transformers a tokenizer.json without a config is of the model's class.
        has_config = "tokenizer.json" not in files or files.keys() & {*_CONFIG_FILES}
        if has_config and _read_back(files, settings) == _comparable(json.dumps(state)):
            return files
    raise ValueError(
        "save: got a tokenizer that transformers cannot read beside "
        f"model_type={settings.get('model_type')!r}; wanted one of that model's class. Save the model with "
        "tokenizer=None, and the tokenizer elsewhere."
    )


def _comparable(text: str) -> dict:
    """A tokenizer's state without what changes neither ids nor texts.

    Drops the last digits of scores, which a file does not keep, and the offset settings of byte-level steps.
    """
    state = json.loads(text, parse_float=lambda number: float(f"{float(number):.7g}"))
    if (state["decoder"] or {}).get("type") == "ByteLevel":
        state["decoder"] = {"type": "ByteLevel"}
    pre_tokenizer = state["pre_tokenizer"] or {}
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        step.pop("trim_offsets", None)
    return state


def _read_back(files: Mapping[str, bytes], settings: Settings) -> dict | None:
    """The comparable state of the tokenizer that these files give beside a config.json; None for none."""
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), {**files, "config.json": _to_json(settings)})
        try:
            tokenizer = read_tokenizer(Path(name))
        except ValueError:
            return None
    return None if tokenizer is None else _comparable(tokenizer.to_str())


def _new_config(
    tokenizer: tokenizers.Tokenizer, config: CheckpointConfig, loaded: Mapping[str, bytes]
) -> dict[str, object]:
    """A tokenizer_config.json by which transformers uses a tokenizer.json as it is."""
    old = json.loads(loaded.get("tokenizer_config.json", b"{}"))
    model = config.model
    inputs = ["input_ids", *(["token_type_ids"] if model.token_types else []), "attention_mask"]
    new = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    if model.positions is not None and model.positions.max_length is not None:
        new["model_max_length"] = model.positions.max_length
    if config.architecture.endswith(("ForCausalLM", "LMHeadModel")):
        new["padding_side"] = "left"  # generation continues prompts at their right end
    new |= {name: old[name] for name in _KEPT_SETTINGS if old.get(name) is not None}
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    ids = {**config.settings, **config.generation}
    for role, usual in _USUAL_TOKENS.items():
        i = ids.get(f"{role}_token_id")
        i = i[0] if isinstance(i, list) and i else i
        candidates = [tokenizer.id_to_token(i)] if type(i) is int and i >= 0 else []
        candidates += [_text(old.get(f"{role}_token")), *usual]
        token = next((token for token in candidates if token in special), None)
        new |= {} if token is None else {f"{role}_token": token}
    return new


def _text(token: dict | str | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _to_json(value: Settings) -> bytes:
    return (json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n").encode()

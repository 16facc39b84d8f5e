"""The files of a tokenizer by which transformers reads it as ours does."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tfm_jax import nn
from tfm_jax.pretrained.extra_files import is_tokenizer_file, write_files
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.pretrained.tokenizers.read import read_tokenizer

__all__ = ["tokenizer_files"]

_ROLES = {
    "bos": ("<s>", "[BOS]", "<|begin_of_text|>"),
    "eos": ("</s>", "[EOS]", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>"),
    "sep": ("[SEP]",),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]",),
    "mask": ("[MASK]", "<mask>"),
}
"""Special tokens of each role, where the settings do not say which."""
_DECLARE = ("tokenizer_config.json", "special_tokens_map.json")
_KEPT = ("chat_template", "model_max_length", "padding_side", "truncation_side", "model_input_names")
"""What a tokenizer_config.json says of any tokenizer."""


def tokenizer_files(
    tokenizer: tokenizers.Tokenizer, config: CheckpointConfig, settings: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files of a tokenizer.

    Args:
      tokenizer: which they are read back as.
      config: of the model; of its ``files`` those of the tokenizer are taken, where they are this one's.
      settings: the model's config.json, which a tokenizer's class depends on.

    Returns:
      What is in each file, by its name: those that were loaded, as they are; or with another
      ``tokenizer.json``; or that file and a tokenizer_config.json by which it is taken as it is.

    Raises:
      ValueError: where the model's class of transformers takes no such tokenizer.
    """
    wanted = json.loads(tokenizer.to_str()) | {"truncation": None, "padding": None}
    loaded = {name: data for name, data in config.files.items() if is_tokenizer_file(name)}
    # How the loaded file cuts and pads is not the tokenizer's, and stays.
    cut = json.loads(loaded.get("tokenizer.json", b"{}"))
    cut = {name: cut.get(name) for name in ("truncation", "padding")}
    whole = {"tokenizer.json": _as_json(wanted | cut)}
    templates = {name: data for name, data in loaded.items() if "chat_template" in name}
    beside = {name: data for name, data in loaded.items() if name in _DECLARE}
    own = {"tokenizer_config.json": _as_json(_own_settings(tokenizer, config, loaded))}
    candidates = [loaded, templates | beside | whole, templates | own | {"tokenizer.json": _as_json(wanted)}]
    if settings.get("model_type") == "qwen2" and wanted["model"]["type"] != "BPE":
        candidates = []  # whose class takes pairs, whatever is named
    for files in candidates:
        # A tokenizer.json alone is to transformers one of the model's class.
        alone = "tokenizer.json" in files and not files.keys() & {*_DECLARE}
        if not alone and _read_back(files, settings) == _comparable(json.dumps(wanted)):
            return files
    raise ValueError(
        f"transformers reads no such tokenizer beside a model of type {settings.get('model_type')}: it takes "
        "a class of its own there. Save the model without it (tokenizer=None), and the tokenizer elsewhere"
    )


def _comparable(text: str) -> Any:
    """A tokenizer's state without what changes neither ids nor texts: the last digits of scores, which a file
    does not keep, and what its steps on bytes say of offsets."""
    state = json.loads(text, parse_float=lambda number: float(f"{float(number):.7g}"))
    if (state["decoder"] or {}).get("type") == "ByteLevel":
        state["decoder"] = {"type": "ByteLevel"}
    cut = state["pre_tokenizer"] or {}
    for step in cut.get("pretokenizers", [cut]):
        step.pop("trim_offsets", None)
    return state


def _read_back(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> Any:
    """The state of the tokenizer of files beside a config.json; None where there is none."""
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), {**files, "config.json": _as_json(settings)})
        try:
            found = read_tokenizer(Path(name))
        except ValueError:
            return None
    return None if found is None else _comparable(found.to_str())


def _own_settings(
    tokenizer: tokenizers.Tokenizer, config: CheckpointConfig, loaded: Mapping[str, bytes]
) -> dict[str, Any]:
    """A tokenizer_config.json by which a tokenizer.json is taken as it is."""
    declared = json.loads(loaded.get("tokenizer_config.json", b"{}"))
    model = config.model
    names = ["input_ids", *(["token_type_ids"] if model.token_types else []), "attention_mask"]
    found = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    if isinstance(model.positions, nn.Learned):
        found["model_max_length"] = model.positions.max_length
    if config.architecture.endswith(("ForCausalLM", "LMHeadModel")):
        found["padding_side"] = "left"  # a prompt is written on
    found |= {name: declared[name] for name in _KEPT if declared.get(name) is not None}
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    ids = {**config.settings, **config.generation}
    for role, usual in _ROLES.items():
        i = ids.get(f"{role}_token_id")
        i = i[0] if isinstance(i, list) and i else i
        named = [tokenizer.id_to_token(i)] if type(i) is int and i >= 0 else []
        named += [_text(declared.get(f"{role}_token")), *usual]
        token = next((token for token in named if token in special), None)
        found |= {} if token is None else {f"{role}_token": token}
    return found


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n").encode()

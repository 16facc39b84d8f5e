"""Which tokens of a checkpoint's tokenizer are special, and of which kind the tokenizer is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tfm_jax.pretrained.files import read_json

__all__ = ["WITHOUT", "add_declared", "declared", "kind_of", "read_ids", "special_tokens"]

WITHOUT = "load the model without its tokenizer, by tokenizer=False or tfm convert --no-tokenizer"
"""What is left to do where a tokenizer cannot be read."""

# Where tokenizer_config.json does not name a class.
_BY_MODEL = {
    "gpt2": "GPT2",
    "opt": "GPT2",
    "roberta": "Roberta",
    "bart": "Bart",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
    "t5": "T5",
    "marian": "Marian",
    "mbart": "MBart",
    "llama": "Llama",
    "mistral": "Llama",
}


_TEXTS = {f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")} | {"src_lang"}
_FLAGS = {
    *("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"),
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
}
# How an added token is split off.
_SPLIT = ("single_word", "lstrip", "rstrip", "normalized", "special")


def declared(directory: Path) -> dict[str, Any]:
    """What ``special_tokens_map.json`` and ``tokenizer_config.json`` say, the latter first.

    Args:
      directory: of the checkpoint.

    Returns:
      The settings that are not null, a token as its text; none where there are no such files.

    Raises:
      ValueError: for a file that is no JSON object, and one in which what is read here is of another kind.
    """
    said: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file():
            said |= {name: _checked(path, name, value) for name, value in read_json(path).items()}
    return {name: value for name, value in said.items() if value is not None}


def _checked(path: Path, name: str, value: Any) -> Any:
    """A setting as it is, and a token, which may be an object with how it is split off too, as its text."""
    if name in _TEXTS and isinstance(value, dict):
        value = value.get("content")
    words, fits = _KINDS.get(name, ("", lambda value: True))
    if value is not None and not fits(value):
        raise ValueError(f"{path} has {name}={value!r}, wanted {words}")
    return value


def _are_added(tokens: Any) -> bool:
    return isinstance(tokens, dict) and all(i.isdecimal() and _is_added(x) for i, x in tokens.items())


def _is_added(token: Any) -> bool:
    flags = [token.get(flag, False) for flag in _SPLIT] if isinstance(token, dict) else [None]
    return all(isinstance(flag, bool) for flag in flags) and isinstance(token.get("content"), str)


# What is wanted of a setting, in words, and whether a value is that.
_KINDS = {
    **dict.fromkeys(_TEXTS, ("a text", lambda value: isinstance(value, str))),
    **dict.fromkeys(_FLAGS, ("true or false", lambda value: isinstance(value, bool))),
    "extra_ids": ("a whole number", lambda value: type(value) is int and value >= 0),
    "added_tokens_decoder": (
        "an object of ids, each with an object that has the token's content and true or false",
        _are_added,
    ),
}


def kind_of(directory: Path, said: Mapping[str, Any]) -> str | None:
    """The tokenizer's class, such as "GPT2" of GPT2TokenizerFast; None where nothing tells."""
    name = said.get("tokenizer_class")
    if isinstance(name, str) and name.removesuffix("Fast").endswith("Tokenizer"):
        kind = name.removesuffix("Fast").removesuffix("Tokenizer")
        if kind != "PreTrained":
            return kind
    path = directory / "config.json"
    return _BY_MODEL.get(read_json(path).get("model_type")) if path.is_file() else None


def special_tokens(said: Mapping[str, Any], **defaults: str | None) -> dict[str, str | None]:
    """The text of each special token, by its role: as said, or by default."""
    return {role: said.get(f"{role}_token") or token for role, token in defaults.items()}


def read_ids(path: Path) -> dict[str, int]:
    """Texts and their ids, from a JSON object; a ValueError for an id that is no whole number."""
    ids = read_json(path)
    if wrong := {text: i for text, i in ids.items() if type(i) is not int}:
        raise ValueError(f"{path} has ids that are no whole numbers: {dict(list(wrong.items())[:3])}")
    return ids


def add_declared(
    tokenizer: tokenizers.Tokenizer, directory: Path, said: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """Adds the tokens that the checkpoint has beside those of its model, each of which is never cut.

    Args:
      tokenizer: of the model; it is changed.
      directory: which may hold ``added_tokens.json``, texts and their ids.
      said: the settings of ``declared``: ``added_tokens_decoder`` has ids, texts and how they are split off.

    Returns:
      The tokenizer.

    Raises:
      ValueError: for a token that would have another id than the checkpoint says, and an id that is none.
    """
    path = directory / "added_tokens.json"
    ids = read_ids(path) if path.is_file() else {}
    added = {i: AddedToken(text, normalized=False) for text, i in ids.items()}
    for i, token in said.get("added_tokens_decoder", {}).items():
        options = {flag: token[flag] for flag in _SPLIT if flag in token}
        added[int(i)] = AddedToken(token["content"], **options)
    for i, token in sorted(added.items()):
        tokenizer.add_tokens([token])
        if (got := tokenizer.token_to_id(token.content)) != i:
            raise ValueError(
                f"the token {token.content!r} of {directory} has the id {i}, and would be {got} beside the "
                "vocabulary that is there"
            )
    return tokenizer

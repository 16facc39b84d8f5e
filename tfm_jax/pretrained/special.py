"""Which tokens of a checkpoint's tokenizer are special, and of which kind the tokenizer is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tfm_jax.pretrained.files import read_json

__all__ = ["add_declared", "declared", "kind_of", "special_tokens"]

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


def declared(directory: Path) -> dict[str, Any]:
    """What ``special_tokens_map.json`` and ``tokenizer_config.json`` say, the latter first.

    Args:
      directory: of the checkpoint.

    Returns:
      The settings, a token as its text; none where there are no such files.

    Raises:
      ValueError: for a file that is no JSON object.
    """
    said: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            said |= read_json(directory / name)
    return {name: _text(value) if name.endswith("_token") else value for name, value in said.items()}


def _text(token: Any) -> Any:
    """A token may be an object with its text and how it is split off."""
    return token.get("content") if isinstance(token, dict) else token


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
      ValueError: for a token that would have another id than the checkpoint says.
    """
    path = directory / "added_tokens.json"
    ids = read_json(path) if path.is_file() else {}
    added = {i: AddedToken(text, normalized=False) for text, i in ids.items()}
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    for i, token in said.get("added_tokens_decoder", {}).items():
        options = {flag: token[flag] for flag in flags if flag in token}
        added[int(i)] = AddedToken(token["content"], **options)
    for i, token in sorted(added.items()):
        tokenizer.add_tokens([token])
        if (got := tokenizer.token_to_id(token.content)) != i:
            raise ValueError(
                f"the token {token.content!r} of {directory} has the id {i}, and would be {got} beside the "
                "vocabulary that is there"
            )
    return tokenizer

"""Which tokens of a checkpoint's tokenizer are special, and of which kind the tokenizer is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfm_jax.pretrained.files import read_json

__all__ = ["declared", "kind_of", "special_tokens"]

# Where tokenizer_config.json does not name a class.
_BY_MODEL = {
    "gpt2": "GPT2",
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

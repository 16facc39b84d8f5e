"""Special and added tokens: their texts by role, and adding them to a tokenizer with the checkpoint's ids."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.tokenizer_config import ROLES, TOKEN_FLAGS, merge_config_files
from tfm_jax.pretrained.weights.files import Directory, File, read_json

__all__ = ["add_tokens", "mask_with_lstrip", "read_ids", "special_tokens"]

_Text = TypeVar("_Text", str, str | None)


def special_tokens(config: Settings, **defaults: _Text) -> dict[str, str | _Text]:
    """The text of each special token by role: from the config, or the default."""
    return {role: config.get(f"{role}_token") or token for role, token in defaults.items()}


def mask_with_lstrip(special: Mapping[str, str | None]) -> dict[str, str | AddedToken | None]:
    """Special tokens by role, with a mask token that includes the space before it."""
    return {
        role: AddedToken(token, lstrip=True) if role == "mask" and token else token
        for role, token in special.items()
    }


def read_ids(path: File) -> dict[str, int]:
    """Reads a JSON object from tokens to ids.

    Raises:
      ValueError: the file is not such an object.
    """
    ids = read_json(path)
    if wrong := {token: i for token, i in ids.items() if type(i) is not int}:
        raise ValueError(f"{path}: got ids {dict(list(wrong.items())[:3])}; wanted integers.")
    return ids


def add_tokens(
    tokenizer: tokenizers.Tokenizer,
    directory: Directory,
    special: Mapping[str, str | AddedToken | None] | None = None,
    extra: Sequence[str | AddedToken] = (),
    in_file: Mapping[int, AddedToken] | None = None,
) -> tokenizers.Tokenizer:
    """Adds the tokens that a checkpoint has beside its model's vocabulary, in the order of transformers.

    Args:
      tokenizer: of the model; it is changed. A token that it already has keeps its id.
      directory: of the checkpoint. ``added_tokens.json`` and the config files name the tokens: an
        ``added_tokens_decoder``, any key that ends in ``_token``, and lists of special tokens.
      special: tokens by role, where the config names none.
      extra: special tokens, where the config lists none.
      in_file: tokens of a ``tokenizer.json``, by id.

    Returns:
      The tokenizer.

    Raises:
      ValueError: a token would get another id than the checkpoint declares.
    """
    config = merge_config_files(directory)
    named = {f"{role}_token": (special or {}).get(role) for role in ROLES}
    named |= {
        name: _with_flags_of(_to_token(value, special=True), named.get(name))
        for name, value in config.items()
        if _names_token(name, value)
    }
    more = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    if isinstance(more, dict):
        named |= {name: _to_token(token, special=True) for name, token in more.items()}
        more = None
    listed = [_to_token(token) for token in (extra if more is None else more)]
    added = _added_by_id(config, directory, {str(x) for x in [*named.values(), *listed]}, in_file)
    by_text = {token.content: token for token in added.values()}
    named = {name: by_text.get(str(token), token) for name, token in named.items() if token is not None}
    tokens = [added[i] for i in sorted(added)]
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | by_text.keys()
    for token in [*named.values(), *listed]:
        if str(_text(token)) not in present:
            present.add(_text(token))
            tokens.append(token)
    special_texts = {_text(token) for token in named.values()}
    tokenizer.add_tokens([_mark_special(token, special_texts) for token in tokens])
    for i, token in sorted(added.items()):
        if (got := tokenizer.token_to_id(token.content)) != i:
            raise ValueError(
                f"{directory}: got id {i} for the token {token.content!r}; wanted {got}, its id beside the "
                "vocabulary. Correct the declared id or the vocabulary."
            )
    return tokenizer


def _names_token(name: str, value: object) -> bool:
    if not name.endswith("_token"):
        return False
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _added_by_id(
    config: Settings,
    directory: Directory,
    special: set[str],
    in_file: Mapping[int, AddedToken] | None,
) -> dict[int, AddedToken]:
    """The added tokens by id: of all files, or only of tokenizer_config.json where that lists any."""
    listed = {int(i): _to_token(token) for i, token in config.get("added_tokens_decoder", {}).items()}
    if "added_tokens_decoder" in config and in_file is not None:
        return listed
    path = directory / "added_tokens.json"
    added = {}
    for text, i in (read_ids(path) if path.is_file() else {}).items():
        added[i] = AddedToken(text, normalized=text not in special, special=text in special)
    return added | dict(in_file or {}) | listed


def _to_token(token: Any, **defaults: bool) -> Any:
    """A token object of a config as an AddedToken; any other value unchanged."""
    if not isinstance(token, dict):
        return token
    flags = {flag: token[flag] for flag in TOKEN_FLAGS if flag in token}
    return AddedToken(token["content"], **defaults | flags)


def _with_flags_of(token: str | AddedToken, default: str | AddedToken | None) -> str | AddedToken:
    """A plain string with the strip flags of its role's default."""
    if isinstance(token, str) and isinstance(default, AddedToken):
        return AddedToken(token, lstrip=default.lstrip, rstrip=default.rstrip)
    return token


def _text(token: str | AddedToken) -> str:
    return token if isinstance(token, str) else token.content


def _mark_special(token: str | AddedToken, special_texts: set[str]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if not token.special and token.content in special_texts:
        token.special = True
    return token

"""Settings of a checkpoint's tokenizer: its class, its special tokens, and what else is declared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tfm_jax.pretrained.weights.files import read_json

__all__ = [
    "WITHOUT",
    "add_declared",
    "check_declared",
    "class_beside",
    "is_declared",
    "is_taken_as_it_is",
    "kind_of",
    "read_ids",
    "read_tokenizer_config",
    "special_tokens",
    "truncation_side",
]

WITHOUT = "load the model without its tokenizer, by tokenizer=False or tfm convert --no-tokenizer"
"""What is left to do where a tokenizer cannot be read."""

# Where neither tokenizer_config.json nor config.json names a class.
_BY_MODEL = {
    "bert": "Bert",
    "distilbert": "Bert",
    "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX",
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
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_TEXTS = {f"{role}_token" for role in _ROLES} | {"src_lang", "tgt_lang"}
_REFUSED = {"split_special_tokens": False, "fix_mistral_regex": False}
"""Settings that transformers acts on and that are not supported, with the only value that is."""
_REFUSED_OF_MARIAN = {"separate_vocabs": False, "sp_model_kwargs": {}}
"""Those that its class alone acts on."""
_FLAGS = {
    *("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"),
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    *("clean_up_tokenization_spaces", "trim_offsets"),
}
_SIDES = ("left", "right")
# How an added token is split off.
_SPLIT = ("single_word", "lstrip", "rstrip", "normalized", "special")


def is_declared(directory: Path) -> bool:
    """Whether there is a file that declares settings of a tokenizer."""
    return any((directory / name).is_file() for name in ("tokenizer_config.json", "special_tokens_map.json"))


def _merged(directory: Path) -> dict[str, Any]:
    """The settings as they are. ``special_tokens_map.json`` comes before ``tokenizer_config.json``, and is
    not read where that has an ``added_tokens_decoder``; so transformers 5 has it."""
    path = directory / "tokenizer_config.json"
    found = {name: _checked(path, name, x) for name, x in read_json(path).items()} if path.is_file() else {}
    path = directory / "special_tokens_map.json"
    if path.is_file() and found.get("added_tokens_decoder") is None:
        found |= {name: x for name, x in read_json(path).items() if _checked(path, name, x) is not None}
    return {name: value for name, value in found.items() if value is not None}


def read_tokenizer_config(directory: Path) -> dict[str, Any]:
    """Settings in ``special_tokens_map.json`` and ``tokenizer_config.json``.

    Args:
      directory: of the checkpoint.

    Returns:
      The settings that are not null, a token as its text; none where there are no such files.

    Raises:
      ValueError: for a file that is no JSON object, and one in which what is read here is of another kind.
    """
    found = {name: _text(name, value) for name, value in _merged(directory).items()}
    old = {"model_max_length": found["max_len"]} if "max_len" in found else {}
    return old | found


def _text(name: str, value: Any) -> Any:
    """A token, which may be an object with how it is split off too, as its text; another value as it is."""
    return value.get("content") if name.endswith("_token") and isinstance(value, dict) else value


def _checked(path: Path, name: str, value: Any) -> Any:
    words, fits = _KINDS.get(name, ("", lambda value: True))
    if value is not None and not fits(_text(name, value)):
        raise ValueError(f"{path} has {name}={_text(name, value)!r}, wanted {words}")
    return value


def _are_added(tokens: Any) -> bool:
    return isinstance(tokens, dict) and all(i.isdecimal() and _is_added(x) for i, x in tokens.items())


def _is_added(token: Any) -> bool:
    flags = [token.get(flag, False) for flag in _SPLIT] if isinstance(token, dict) else [None]
    return all(isinstance(flag, bool) for flag in flags) and isinstance(token.get("content"), str)


def _are_tokens(value: Any) -> bool:
    tokens = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [None]
    return all(isinstance(token, str) or _is_added(token) for token in tokens)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


# What is wanted of a setting, in words, and whether a value is that.
_KINDS = {
    **dict.fromkeys(_TEXTS, ("a text", lambda value: isinstance(value, str))),
    **dict.fromkeys(_FLAGS, ("true or false", lambda value: isinstance(value, bool))),
    **dict.fromkeys(("truncation_side", "padding_side"), ("'left' or 'right'", _SIDES.__contains__)),
    **dict.fromkeys(
        ("additional_special_tokens", "extra_special_tokens"),
        ("a list of tokens, or an object of them by name", _are_tokens),
    ),
    "model_input_names": ("a list of texts", _are_texts),
    "extra_ids": ("a whole number", lambda value: type(value) is int and value >= 0),
    "added_tokens_decoder": (
        "an object of ids, each with an object that has the token's content and true or false",
        _are_added,
    ),
}


def check_declared(directory: Path, said: Mapping[str, Any], kind: str | None) -> None:
    """Raises a ValueError for settings that change a tokenizer in transformers, and are not supported."""
    refused = _REFUSED | (_REFUSED_OF_MARIAN if kind == "Marian" else {})
    wrong = [f"{name}={said[name]!r}" for name, value in refused.items() if said.get(name, value) != value]
    files = said.get("fast_tokenizer_files", [])
    if files not in ([], ["tokenizer.json"]):
        wrong.append(f"fast_tokenizer_files={files!r}")
    if wrong:
        raise ValueError(
            f"{directory / 'tokenizer_config.json'}: got {', '.join(wrong)}, which is not supported. Take it "
            f"out if the model was trained without it, or {WITHOUT}"
        )


def truncation_side(directory: Path, said: Mapping[str, Any]) -> str:
    """The side from which a long text is cut: of the settings, or of ``tokenizer.json``, or the right one."""
    path = directory / "tokenizer.json"
    if "truncation_side" in said or not path.is_file():
        return said.get("truncation_side", "right")
    cut = read_json(path).get("truncation") or {}
    return str(cut.get("direction", "right")).lower()


def kind_of(directory: Path, said: Mapping[str, Any]) -> str | None:
    """The tokenizer's class, such as "GPT2" of GPT2TokenizerFast; None where nothing tells."""
    path = directory / "config.json"
    settings = read_json(path) if path.is_file() else {}
    kind = _class_in(said) or _class_in(settings)
    return kind if kind not in (None, "") else _BY_MODEL.get(settings.get("model_type"))


def _class_in(settings: Mapping[str, Any]) -> str | None:
    """The class that is named; "" for one that takes a ``tokenizer.json`` as it is, None where none is."""
    name = settings.get("tokenizer_class")
    if not isinstance(name, str):
        return None
    kind = name.removesuffix("Fast").removesuffix("Tokenizer")
    known = name.removesuffix("Fast").endswith("Tokenizer") and kind not in ("PreTrained", "Bloom")
    return kind if known else ""


def is_taken_as_it_is(said: Mapping[str, Any]) -> bool:
    """Whether the class that is named takes a ``tokenizer.json`` as it is: PreTrainedTokenizerFast."""
    return _class_in(said) == ""


def class_beside(directory: Path, said: Mapping[str, Any], is_byte_level: bool) -> str | None:
    """The class by which transformers 5 rebuilds a ``tokenizer.json``; None takes the file as it is.

    Args:
      directory: of the checkpoint. Where it declares nothing of a tokenizer, the file is all that there is.
      said: the settings of ``declared``.
      is_byte_level: whether the file's tokenizer works on bytes: no Llama's does.

    Returns:
      The class, as ``kind_of`` has it.
    """
    path = directory / "config.json"
    settings = read_json(path) if path.is_file() else {}
    model_type = settings.get("model_type")
    kind = _class_in(said)
    kind = _class_in(settings) if kind is None else kind
    if not is_declared(directory) or model_type == "mistral":
        return None
    if model_type == "qwen2":  # whose checkpoints name others
        return "Qwen2"
    if kind is None:
        return None if model_type == "llama" else _BY_MODEL.get(model_type)
    return None if kind == "" or (kind == "Llama" and is_byte_level) else kind


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
    tokenizer: tokenizers.Tokenizer,
    directory: Path,
    special: Mapping[str, str | AddedToken | None] | None = None,
    extra: Sequence[str | AddedToken] = (),
    in_file: Mapping[int, AddedToken] | None = None,
) -> tokenizers.Tokenizer:
    """Adds the tokens that the checkpoint has beside those of its model, in the order of transformers.

    Args:
      tokenizer: of the model; it is changed. A token that it has gets no other id.
      directory: which may hold ``added_tokens.json``, and settings with an ``added_tokens_decoder``, special
        tokens of any name that ends in ``_token``, and lists of them.
      special: tokens by role, where the settings name none.
      extra: special tokens, where the settings list none.
      in_file: those of a ``tokenizer.json``, by their ids.

    Returns:
      The tokenizer.

    Raises:
      ValueError: for a token that would have another id than the checkpoint says, and an id that is none.
    """
    merged = _merged(directory)
    named = {f"{role}_token": (special or {}).get(role) for role in _ROLES}
    named |= {
        name: _as_default(_token(x, special=True), named.get(name))
        for name, x in merged.items()
        if _is_named(name, x)
    }
    more = merged.get("extra_special_tokens") or merged.get("additional_special_tokens")
    if isinstance(more, dict):
        named |= {name: _token(token, special=True) for name, token in more.items()}
        more = None
    listed = [_token(token) for token in (extra if more is None else more)]
    added = _added(merged, directory, {str(x) for x in [*named.values(), *listed]}, in_file)
    by_text = {token.content: token for token in added.values()}
    named = {name: by_text.get(str(token), token) for name, token in named.items() if token is not None}
    tokens = [added[i] for i in sorted(added)]
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | by_text.keys()
    for token in [*named.values(), *listed]:
        if str(_text_of(token)) not in there:
            there.add(_text_of(token))
            tokens.append(token)
    roles = {_text_of(token) for token in named.values()}
    tokenizer.add_tokens([_special(token, roles) for token in tokens])
    for i, token in sorted(added.items()):
        if (got := tokenizer.token_to_id(token.content)) != i:
            raise ValueError(
                f"the token {token.content!r} of {directory} has the id {i}, and would be {got} beside the "
                "vocabulary that is there"
            )
    return tokenizer


def _is_named(name: str, value: Any) -> bool:
    if not name.endswith("_token"):
        return False
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _added(
    merged: Mapping[str, Any], directory: Path, special: set[str], in_file: Mapping[int, AddedToken] | None
) -> dict[int, AddedToken]:
    """The added tokens by their ids: of the files, or of tokenizer_config.json alone where it lists any."""
    listed = {int(i): _token(token) for i, token in merged.get("added_tokens_decoder", {}).items()}
    if "added_tokens_decoder" in merged and in_file is not None:
        return listed
    path = directory / "added_tokens.json"
    found = {}
    for text, i in (read_ids(path) if path.is_file() else {}).items():
        found[i] = AddedToken(text, normalized=text not in special, special=text in special)
    return found | dict(in_file or {}) | listed


def _token(token: Any, **default: bool) -> Any:
    """A token as it is, and one that is an object as the library's."""
    if not isinstance(token, dict):
        return token
    return AddedToken(token["content"], **default | {flag: token[flag] for flag in _SPLIT if flag in token})


def _as_default(token: str | AddedToken, default: str | AddedToken | None) -> str | AddedToken:
    """A token that is a text alone, split off as the default of its role is."""
    if isinstance(token, str) and isinstance(default, AddedToken):
        return AddedToken(token, lstrip=default.lstrip, rstrip=default.rstrip)
    return token


def _text_of(token: str | AddedToken) -> str:
    return token if isinstance(token, str) else token.content


def _special(token: str | AddedToken, roles: set[str]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if not token.special and token.content in roles:
        token.special = True
    return token

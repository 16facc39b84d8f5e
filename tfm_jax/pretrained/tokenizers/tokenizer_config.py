"""``tokenizer_config.json`` and the files beside it: settings, their checks, and the tokenizer's class."""

from collections.abc import Callable
from typing import Any, TypeVar

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.weights.files import Directory, File, read_json

__all__ = [
    "ROLES",
    "TOKEN_FLAGS",
    "WITHOUT_TOKENIZER",
    "check_supported",
    "has_tokenizer_config",
    "merge_config_files",
    "read_tokenizer_config",
    "rebuilding_class",
    "tokenizer_class",
    "truncation_side",
    "uses_file_as_is",
]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Roles of special tokens; ``tokenizer_config.json`` names them as ``bos_token`` and so on."""
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""Flags of an added token, as ``tokenizers.AddedToken`` has them."""
WITHOUT_TOKENIZER = "load the model without its tokenizer (tokenizer=False, or tfm convert --no-tokenizer)"
"""The last way out where a tokenizer cannot be read, for error messages."""

# The class by model type, where neither tokenizer_config.json nor config.json names one.
_CLASS_OF_MODEL = {
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
# Settings that change a tokenizer in transformers and of which one value alone is supported.
_SUPPORTED = {"split_special_tokens": False, "fix_mistral_regex": False}
_SUPPORTED_BY_MARIAN = {"separate_vocabs": False, "sp_model_kwargs": {}}
_Value = TypeVar("_Value")
_STRINGS = {f"{role}_token" for role in ROLES} | {"src_lang", "tgt_lang"}
_BOOLS = {
    *("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"),
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    *("clean_up_tokenization_spaces", "trim_offsets"),
}


def has_tokenizer_config(directory: Directory) -> bool:
    """Whether a checkpoint has a file with settings of its tokenizer."""
    return any((directory / name).is_file() for name in ("tokenizer_config.json", "special_tokens_map.json"))


def merge_config_files(directory: Directory) -> dict[str, Any]:
    """Merges ``tokenizer_config.json`` and ``special_tokens_map.json`` as transformers 5 does.

    The second file takes precedence, and is ignored where the first has an ``added_tokens_decoder``.

    Returns:
      The settings that are not null; special tokens may be objects.

    Raises:
      ValueError: a file that is not a JSON object, or a setting of another type.
    """
    path = directory / "tokenizer_config.json"
    merged = {name: _checked(path, name, x) for name, x in read_json(path).items()} if path.is_file() else {}
    path = directory / "special_tokens_map.json"
    if path.is_file() and merged.get("added_tokens_decoder") is None:
        merged |= {name: x for name, x in read_json(path).items() if _checked(path, name, x) is not None}
    return {name: value for name, value in merged.items() if value is not None}


def read_tokenizer_config(directory: Directory) -> dict[str, Any]:
    """Reads the settings of a checkpoint's tokenizer.

    Args:
      directory: of the checkpoint.

    Returns:
      The settings of ``merge_config_files``, special tokens as strings; empty without such files.

    Raises:
      ValueError: a file that is not a JSON object, or a setting of another type.
    """
    config = {name: _token_text(name, value) for name, value in merge_config_files(directory).items()}
    old = {"model_max_length": config["max_len"]} if "max_len" in config else {}
    return old | config


def _token_text(name: str, value: Any) -> Any:
    """The text of a special token that is an object; any other value unchanged."""
    return value.get("content") if name.endswith("_token") and isinstance(value, dict) else value


def _checked(path: File, name: str, value: _Value) -> _Value:
    wanted, is_valid = _TYPES.get(name, ("", lambda value: True))
    if value is not None and not is_valid(_token_text(name, value)):
        raise ValueError(f"{path}: got {name}={_token_text(name, value)!r}; wanted {wanted}.")
    return value


def _is_added_tokens(value: object) -> bool:
    return isinstance(value, dict) and all(i.isdecimal() and _is_added_token(x) for i, x in value.items())


def _is_added_token(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        return False
    return all(isinstance(value.get(flag, False), bool) for flag in TOKEN_FLAGS)


def _is_tokens(value: object) -> bool:
    tokens = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [None]
    return all(isinstance(token, str) or _is_added_token(token) for token in tokens)


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


# For each checked setting: its type in words, and a predicate.
_TYPES: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(_STRINGS, ("a string", lambda value: isinstance(value, str))),
    **dict.fromkeys(_BOOLS, ("true or false", lambda value: isinstance(value, bool))),
    **dict.fromkeys(
        ("truncation_side", "padding_side"), ("'left' or 'right'", ("left", "right").__contains__)
    ),
    **dict.fromkeys(
        ("additional_special_tokens", "extra_special_tokens"),
        ("a list of tokens, or an object of tokens by name", _is_tokens),
    ),
    "model_input_names": ("a list of strings", _is_strings),
    "extra_ids": ("an integer of at least 0", lambda value: type(value) is int and value >= 0),
    "added_tokens_decoder": (
        "an object from ids to objects with the token's content and flags that are true or false",
        _is_added_tokens,
    ),
}


def check_supported(directory: Directory, config: Settings, class_name: str | None) -> None:
    """Raises a ValueError for settings that change a tokenizer in transformers and are not supported."""
    supported = _SUPPORTED | (_SUPPORTED_BY_MARIAN if class_name == "Marian" else {})
    wrong = [
        f"{name}={config[name]!r}" for name, value in supported.items() if config.get(name, value) != value
    ]
    files = config.get("fast_tokenizer_files", [])
    if files not in ([], ["tokenizer.json"]):
        wrong.append(f"fast_tokenizer_files={files!r}")
    if wrong:
        raise ValueError(
            f"{directory / 'tokenizer_config.json'}: got {', '.join(wrong)}; wanted the default, as no other "
            f"value is supported. Remove it if the model was trained without it, or {WITHOUT_TOKENIZER}."
        )


def truncation_side(directory: Directory, config: Settings) -> str:
    """The side from which a long text is truncated: from the config, ``tokenizer.json``, or "right"."""
    path = directory / "tokenizer.json"
    if "truncation_side" in config or not path.is_file():
        return config.get("truncation_side", "right")
    truncation = read_json(path).get("truncation") or {}
    return str(truncation.get("direction", "right")).lower()


def tokenizer_class(directory: Directory, config: Settings) -> str | None:
    """The tokenizer's class, such as "GPT2" for GPT2TokenizerFast; None if no file implies one."""
    path = directory / "config.json"
    model_config = read_json(path) if path.is_file() else {}
    class_name = _named_class(config) or _named_class(model_config)
    return (
        class_name
        if class_name not in (None, "")
        else _CLASS_OF_MODEL.get(str(model_config.get("model_type")))
    )


def _named_class(config: Settings) -> str | None:
    """The class that a config names; "" for one that uses ``tokenizer.json`` as it is, None for no name."""
    name = config.get("tokenizer_class")
    if not isinstance(name, str):
        return None
    class_name = name.removesuffix("Fast").removesuffix("Tokenizer")
    rebuilds = name.removesuffix("Fast").endswith("Tokenizer") and class_name not in ("PreTrained", "Bloom")
    return class_name if rebuilds else ""


def uses_file_as_is(config: Settings) -> bool:
    """Whether the named class uses ``tokenizer.json`` as it is, as PreTrainedTokenizerFast does."""
    return _named_class(config) == ""


def rebuilding_class(directory: Directory, config: Settings, *, is_byte_level: bool) -> str | None:
    """The class by which transformers 5 rebuilds a ``tokenizer.json``; None where it uses the file as it is.

    Args:
      directory: of the checkpoint. Without a tokenizer config the file is used as it is.
      config: from ``read_tokenizer_config``.
      is_byte_level: whether the file's tokenizer is byte-level, which no Llama tokenizer is.

    Returns:
      The class, as in ``tokenizer_class``.
    """
    path = directory / "config.json"
    model_config = read_json(path) if path.is_file() else {}
    model_type = model_config.get("model_type")
    class_name = _named_class(config)
    class_name = _named_class(model_config) if class_name is None else class_name
    if not has_tokenizer_config(directory) or model_type == "mistral":
        return None
    if model_type == "qwen2":  # whatever class its checkpoints name
        return "Qwen2"
    if class_name is None:
        return None if model_type == "llama" else _CLASS_OF_MODEL.get(str(model_type))
    return None if class_name == "" or (class_name == "Llama" and is_byte_level) else class_name

"""Reads the tokenizer of a checkpoint, from whichever of the usual files it has."""

import base64
import json

import tokenizers
from tokenizers import AddedToken, decoders, processors

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.byte_pair import read_byte_pair
from tfm_jax.pretrained.tokenizers.classes import CLASS_SETTINGS, CLASSES, Vocabulary, token_of
from tfm_jax.pretrained.tokenizers.sentencepiece import MODEL_FILES, read_sentencepiece
from tfm_jax.pretrained.tokenizers.special_tokens import add_tokens, special_tokens
from tfm_jax.pretrained.tokenizers.tokenizer_config import (
    WITHOUT_TOKENIZER,
    check_supported,
    has_tokenizer_config,
    read_tokenizer_config,
    rebuilding_class,
    tokenizer_class,
    uses_file_as_is,
)
from tfm_jax.pretrained.tokenizers.wordpiece import read_wordpiece
from tfm_jax.pretrained.weights.files import Directory, File, read_json

__all__ = ["read_tokenizer"]

_ALIASES = {"DistilBert": "Bert", "Electra": "Bert", "Bart": "Roberta"}
"""Classes that are another one under a second name."""
_KEEPS_POST_PROCESSOR = ("GPT2", "Llama", "Qwen2")
"""Classes that keep the post-processor of a tokenizer.json."""
# Replacements of clean_up_tokenization_spaces, applied to decoded text in this order.
_CLEAN_UP = {
    **{f" {mark}": mark for mark in ".?!,"},
    " ' ": "'",
    **{f" {contraction}": contraction for contraction in ("n't", "'m", "'s", "'ve", "'re")},
}


def read_tokenizer(directory: Directory) -> tokenizers.Tokenizer | None:
    """Reads the tokenizer of a checkpoint.

    Args:
      directory: of the checkpoint, with ``tokenizer.json``, a SentencePiece model, ``vocab.json`` and
        ``merges.txt``, or ``vocab.txt``; ``tokenizer_config.json``, ``special_tokens_map.json`` and
        ``added_tokens.json`` beside them are read too.

    Returns:
      The tokenizer, with the ids of transformers 5; None if there is none. The declared class rebuilds a
      ``tokenizer.json`` from its vocabulary and the settings. Without a declared class, or with one such as
      PreTrainedTokenizerFast, the file is used as it is. A post-processor in the file takes precedence over
      ``add_bos_token`` and ``add_eos_token``. Marian's SentencePiece models take precedence over its
      ``tokenizer.json``.

    Raises:
      ImportError: a SentencePiece model, without the extra ``sentencepiece``.
      ValueError: a file that is no tokenizer, an unknown tokenizer class, an unsupported setting that
        transformers uses, or a special token to add to each text that is not named or not in the vocabulary.
    """
    config = read_tokenizer_config(directory)
    class_name = tokenizer_class(directory, config)
    check_supported(directory, config, class_name)

    def has_files(*names: str) -> bool:
        return all((directory / name).is_file() for name in names)

    is_marian = class_name == "Marian" and has_files("source.spm", "vocab.json")
    if has_files("tokenizer.json") and not is_marian:
        tokenizer = _read_tokenizer_json(directory, class_name, config)
    elif any(map(has_files, MODEL_FILES)):
        tokenizer = read_sentencepiece(directory, class_name, config)
    elif has_files("vocab.json", "merges.txt"):
        tokenizer = read_byte_pair(directory, class_name, config)
        if class_name in (*_KEEPS_POST_PROCESSOR, "GPTNeoX"):
            _add_bos_and_eos(tokenizer, directory, class_name, config)
    elif has_files("vocab.txt"):
        tokenizer = read_wordpiece(directory, _ALIASES.get(class_name or "", class_name), config)
    else:
        return None
    return _clean_up_spaces(tokenizer, directory) if config.get("clean_up_tokenization_spaces") else tokenizer


def _read_tokenizer_json(
    directory: Directory, class_name: str | None, config: Settings
) -> tokenizers.Tokenizer:
    path = directory / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises a bare Exception
        raise ValueError(f"{path}: got {error}; wanted a tokenizer.json.") from error
    # Truncation and padding in the file belong to the run that wrote it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    state = read_json(path)
    steps = json.dumps([state.get(name) for name in ("pre_tokenizer", "decoder")])
    rebuilder = rebuilding_class(directory, config, is_byte_level='"ByteLevel"' in steps)
    rebuilder = _ALIASES.get(rebuilder or "", rebuilder)
    class_name = None if uses_file_as_is(config) else class_name
    rebuilds = rebuilder in CLASSES and CLASSES[rebuilder].model == type(tokenizer.model).__name__
    if tokenizer.post_processor is None and (rebuilder in _KEEPS_POST_PROCESSOR or not rebuilds):
        _add_bos_and_eos(tokenizer, directory, class_name, config)
    if rebuilder is not None and rebuilds:
        return _rebuild(tokenizer, directory, rebuilder, config, state)
    if rebuilder is not None:
        _check_settings_agree(path, rebuilder, config, state)
    if not has_tokenizer_config(directory):
        return tokenizer
    return add_tokens(tokenizer, directory, _pad_token(state), in_file=tokenizer.get_added_tokens_decoder())


def _pad_token(state: dict) -> dict[str, str]:
    """The pad token of a file's padding, which is special where the class names none."""
    token = (state.get("padding") or {}).get("pad_token")
    return {"pad": token} if token else {}


def _rebuild(
    tokenizer: tokenizers.Tokenizer,
    directory: Directory,
    class_name: str,
    config: Settings,
    state: dict,
) -> tokenizers.Tokenizer:
    """Rebuilds a tokenizer with its class, from the vocabulary of its file."""
    made, model = CLASSES[class_name], state["model"]
    special = special_tokens(config, **_pad_token(state) | dict(made.special_tokens))
    vocabulary = _vocabulary(model, made.model)._replace(charsmap=_find_charsmap(state.get("normalizer")))
    rebuilt = made.build(vocabulary, config, special)
    if class_name in _KEEPS_POST_PROCESSOR and tokenizer.post_processor is not None:
        rebuilt.post_processor = tokenizer.post_processor
    is_mbart = class_name.startswith("MBart")
    mask = {"mask": AddedToken(token_of(special, "mask"), lstrip=True)} if is_mbart else {}
    in_file = tokenizer.get_added_tokens_decoder()
    add_tokens(rebuilt, directory, special | mask, made.extra_tokens(config), in_file)
    made.set_post_processor(rebuilt, config, special)
    return rebuilt


def _vocabulary(model: Settings, kind: str) -> Vocabulary:
    """The vocabulary of the model in a tokenizer.json."""
    if kind == "Unigram":
        return Vocabulary(scores=[(text, score) for text, score in model["vocab"]])
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", ()))
    return Vocabulary(model["vocab"], merges=[(left, right) for left, right in pairs])


def _find_charsmap(normalizer: dict | None) -> bytes | None:
    """The charsmap of the first normalizer that has one."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    charsmaps = (step["precompiled_charsmap"] for step in steps if "precompiled_charsmap" in step)
    text = next(charsmaps, None)
    return base64.b64decode(text) if text else None


def _check_settings_agree(path: File, class_name: str, config: Settings, state: dict) -> None:
    """Raises for settings that the class would apply and that differ from a file that is used as it is."""
    normalizer = state.get("normalizer") or {}
    bert = normalizer if normalizer.get("type") == "BertNormalizer" else {}
    in_file = {"do_lower_case": bert.get("lowercase"), "strip_accents": bert.get("strip_accents")}
    in_file["tokenize_chinese_chars"] = bert.get("handle_chinese_chars")
    steps = json.dumps(state.get("pre_tokenizer"))
    in_file["add_prefix_space"] = '"add_prefix_space": true' in steps or '"prepend_scheme": "always"' in steps
    for name in CLASS_SETTINGS:
        if name in in_file and name in config and config[name] != in_file[name]:
            raise ValueError(
                f"{path}: got a tokenizer of class {class_name}, and {name}={config[name]} in "
                "tokenizer_config.json; wanted the value that the file has. Name PreTrainedTokenizerFast as "
                f"tokenizer_class there to use the file as it is, or {WITHOUT_TOKENIZER}."
            )


def _add_bos_and_eos(
    tokenizer: tokenizers.Tokenizer, directory: Directory, class_name: str | None, config: Settings
) -> None:
    """Sets a post-processor that adds BOS and EOS as the config or the class wants."""
    made = CLASSES.get(_ALIASES.get(class_name or "", class_name or ""))
    special = special_tokens(config, **{"bos": None, "eos": None} | dict(made.special_tokens if made else {}))
    # Only T5's class implies EOS; its default may not be in the vocabulary.
    adds_eos = class_name == "T5" and (
        "eos_token" in config or tokenizer.token_to_id(token_of(special, "eos")) is not None
    )
    wanted = {"bos": config.get("add_bos_token", False), "eos": config.get("add_eos_token", adds_eos)}
    ids = {role: _special_id(tokenizer, directory, role, special[role]) for role in wanted if wanted[role]}
    if ids:
        bos, eos = ([special[role]] if role in ids else [] for role in ("bos", "eos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*bos, "$A", *eos], special_tokens=[(special[role], i) for role, i in ids.items()]
        )


def _special_id(tokenizer: tokenizers.Tokenizer, directory: Directory, role: str, token: str | None) -> int:
    if token is None:
        raise ValueError(
            f"{directory}: got add_{role}_token=true and no {role}_token; wanted one. Name it in "
            f"tokenizer_config.json, or set add_{role}_token=false there."
        )
    if (found := tokenizer.token_to_id(token)) is None:
        raise ValueError(
            f"{directory}: got {role}_token={token!r} to add to each text; wanted a token of the vocabulary. "
            f"Name another in tokenizer_config.json, or {WITHOUT_TOKENIZER}."
        )
    return found


def _clean_up_spaces(tokenizer: tokenizers.Tokenizer, directory: Directory) -> tokenizers.Tokenizer:
    """Adds the replacements of clean_up_tokenization_spaces to the decoder; transformers has none for BPE."""
    state = json.loads(tokenizer.to_str())
    steps = (state["decoder"] or {}).get("decoders", [])
    has_replacements = steps and steps[-1].get("pattern") == {"String": list(_CLEAN_UP)[-1]}
    if state["model"]["type"] == "BPE" or has_replacements:
        return tokenizer
    if tokenizer.decoder is None:
        raise ValueError(
            f"{directory / 'tokenizer_config.json'}: got clean_up_tokenization_spaces=true; wanted false, as "
            "tokenizer.json has no decoder. Set it to false, or add a decoder."
        )
    replacements = [decoders.Replace(old, new) for old, new in _CLEAN_UP.items()]
    tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *replacements])
    return tokenizer

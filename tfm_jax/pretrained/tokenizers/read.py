"""The tokenizer of a checkpoint, by the ``tokenizers`` library."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, processors

from tfm_jax.pretrained.tokenizers.byte_pair import byte_pairs
from tfm_jax.pretrained.tokenizers.classes import CLASSES, SETTINGS_OF, Vocabulary
from tfm_jax.pretrained.tokenizers.sentencepiece import MODELS, sentence_pieces
from tfm_jax.pretrained.tokenizers.special_tokens import (
    WITHOUT,
    add_declared,
    check_declared,
    class_beside,
    is_declared,
    is_taken_as_it_is,
    kind_of,
    read_tokenizer_config,
    special_tokens,
)
from tfm_jax.pretrained.tokenizers.wordpiece import word_pieces
from tfm_jax.pretrained.weights.files import read_json

__all__ = ["read_tokenizer"]

_SAME = {"DistilBert": "Bert", "Electra": "Bert", "Bart": "Roberta"}
"""Classes by another name."""
_KEEP = ("GPT2", "Llama", "Qwen2")
"""Classes that put around a text what a tokenizer.json says."""
# What decoding takes the space from before, where the settings want it cleaned up.
_CLEANED = {
    **{f" {mark}": mark for mark in ".?!,"},
    " ' ": "'",
    **{f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")},
}


def read_tokenizer(directory: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of a checkpoint, whichever of the usual files it has.

    Args:
      directory: of the checkpoint, with ``tokenizer.json``, or a model of sentencepiece, or ``vocab.json``
        and ``merges.txt``, or ``vocab.txt``; what ``tokenizer_config.json``, ``special_tokens_map.json`` and
        ``added_tokens.json`` say beside them is read too.

    Returns:
      The tokenizer, which gives the ids of transformers 5; None where there is none. Of a ``tokenizer.json``
      the class that is declared takes the vocabulary, and follows the settings; the file is taken as it is
      where nothing is declared beside it, or a class that does so (PreTrainedTokenizerFast). What it puts
      around a text is what stands there, whatever ``add_bos_token`` and ``add_eos_token`` say; they are
      asked where it puts nothing. A Marian's models of sentencepiece come before its ``tokenizer.json``.

    Raises:
      ValueError: for a file that is no tokenizer, a class of tokenizer that is not known, a setting that
        transformers acts on and is not supported, and a token that is to stand around each text and is not
        named or not in the vocabulary.
    """
    said, there = read_tokenizer_config(directory), lambda name: (directory / name).is_file()
    kind = kind_of(directory, said)
    check_declared(directory, said, kind)
    of_marian = kind == "Marian" and there("source.spm") and there("vocab.json")
    if there("tokenizer.json") and not of_marian:
        tokenizer = _of_json(directory, kind, said)
    elif any(map(there, MODELS)):
        tokenizer = sentence_pieces(directory, kind, said)
    elif there("vocab.json") and there("merges.txt"):
        tokenizer = byte_pairs(directory, kind, said)
        if kind in (*_KEEP, "GPTNeoX"):
            _complete(tokenizer, directory, kind, said)
    elif there("vocab.txt"):
        tokenizer = word_pieces(directory, _SAME.get(kind or "", kind), said)
    else:
        return None
    return _cleaned(tokenizer, directory) if said.get("clean_up_tokenization_spaces") else tokenizer


def _of_json(directory: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    path = directory / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    # How the file asks for texts to be cut and padded is of the run that made it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    state = read_json(path)
    steps = [state.get(name) for name in ("pre_tokenizer", "decoder")]
    made_by = class_beside(directory, said, '"ByteLevel"' in json.dumps(steps))
    made_by = _SAME.get(made_by or "", made_by)
    kind = None if is_taken_as_it_is(said) else kind
    rebuilt = made_by in CLASSES and CLASSES[made_by].model == type(tokenizer.model).__name__
    if tokenizer.post_processor is None and (made_by in _KEEP or not rebuilt):
        _complete(tokenizer, directory, kind, said)
    if rebuilt:
        return _rebuilt(tokenizer, directory, made_by, said, state)
    if made_by is not None:
        _check_as_it_is(path, made_by, said, state)
    if not is_declared(directory):
        return tokenizer
    return add_declared(tokenizer, directory, _pad_in(state), in_file=tokenizer.get_added_tokens_decoder())


def _pad_in(state: dict) -> dict[str, str]:
    """The token that a file pads with, which is special where a class names none."""
    token = (state.get("padding") or {}).get("pad_token")
    return {"pad": token} if token else {}


def _rebuilt(
    tokenizer: tokenizers.Tokenizer, directory: Path, kind: str, said: Mapping[str, Any], state: dict
) -> tokenizers.Tokenizer:
    """The tokenizer that a class makes of a file's vocabulary."""
    made, model = CLASSES[kind], state["model"]
    tokens = [(text, score) for text, score in model["vocab"]] if made.model == "Unigram" else model["vocab"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges", ())]
    special = special_tokens(said, **_pad_in(state) | dict(made.special))
    found = made.build(Vocabulary(tokens, merges, _charsmap(state.get("normalizer"))), said, special)
    if kind in _KEEP and tokenizer.post_processor is not None:
        found.post_processor = tokenizer.post_processor
    mbart = {"mask": AddedToken(special["mask"], lstrip=True)} if kind.startswith("MBart") else {}
    in_file = tokenizer.get_added_tokens_decoder()
    add_declared(found, directory, special | mbart, made.extra(said), in_file)
    if made.around:
        made.around(found, said, special)
    return found


def _charsmap(normalizer: dict | None) -> bytes | None:
    """Of the first normalizer that has one."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    found = (step["precompiled_charsmap"] for step in steps if "precompiled_charsmap" in step)
    text = next(found, None)
    return base64.b64decode(text) if text else None


def _check_as_it_is(path: Path, kind: str, said: Mapping[str, Any], state: dict) -> None:
    """Raises for settings that a class would act on, where its ``tokenizer.json`` is taken as it is."""
    normalizer = state.get("normalizer") or {}
    of_bert = normalizer if normalizer.get("type") == "BertNormalizer" else {}
    agrees = {"do_lower_case": of_bert.get("lowercase"), "strip_accents": of_bert.get("strip_accents")}
    agrees["tokenize_chinese_chars"] = of_bert.get("handle_chinese_chars")
    cut = json.dumps(state.get("pre_tokenizer"))
    agrees["add_prefix_space"] = '"add_prefix_space": true' in cut or '"prepend_scheme": "always"' in cut
    for name in SETTINGS_OF:
        if name in agrees and name in said and said[name] != agrees[name]:
            raise ValueError(
                f"{path} has a tokenizer of class {kind}, and tokenizer_config.json has {name}={said[name]}, "
                "which the file itself does not do: name PreTrainedTokenizerFast as tokenizer_class there to "
                f"take the file as it is, or {WITHOUT}"
            )


def _complete(
    tokenizer: tokenizers.Tokenizer, directory: Path, kind: str | None, said: Mapping[str, Any]
) -> None:
    """Puts around a text what its class does, where the file says nothing of it."""
    made = CLASSES.get(_SAME.get(kind or "", kind or ""))
    special = special_tokens(said, **{"bos": None, "eos": None} | dict(made.special if made else {}))
    # T5's end is asked for by its class alone, and another's tokenizer may have none.
    ends = kind == "T5" and ("eos_token" in said or tokenizer.token_to_id(special["eos"]) is not None)
    asked = {"bos": said.get("add_bos_token", False), "eos": said.get("add_eos_token", ends)}
    ids = {role: _id_around(tokenizer, directory, role, special[role]) for role in asked if asked[role]}
    if ids:
        begin, end = ([special[role]] if role in ids else [] for role in ("bos", "eos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end], special_tokens=[(special[role], i) for role, i in ids.items()]
        )


def _id_around(tokenizer: tokenizers.Tokenizer, directory: Path, role: str, token: str | None) -> int:
    if token is None:
        raise ValueError(
            f"the tokenizer in {directory} is asked for add_{role}_token, and no {role}_token is named: name "
            f"it, or say that add_{role}_token is false, in tokenizer_config.json"
        )
    if (found := tokenizer.token_to_id(token)) is None:
        raise ValueError(
            f"the tokenizer in {directory} is to put the {role}_token {token!r} around texts, which its "
            f"vocabulary has not: name another in tokenizer_config.json, or {WITHOUT}"
        )
    return found


def _cleaned(tokenizer: tokenizers.Tokenizer, directory: Path) -> tokenizers.Tokenizer:
    """With no space before marks in what is decoded, which transformers leaves as it is for pairs (BPE)."""
    state = json.loads(tokenizer.to_str())
    steps = (state["decoder"] or {}).get("decoders", [])
    cleaned = steps and steps[-1].get("pattern") == {"String": list(_CLEANED)[-1]}
    if state["model"]["type"] == "BPE" or cleaned:
        return tokenizer
    if tokenizer.decoder is None:
        raise ValueError(
            f"{directory / 'tokenizer_config.json'} has clean_up_tokenization_spaces=True, which is not "
            "supported beside a tokenizer.json without a decoder: say false, or give it one"
        )
    clean = [decoders.Replace(old, new) for old, new in _CLEANED.items()]
    tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *clean])
    return tokenizer

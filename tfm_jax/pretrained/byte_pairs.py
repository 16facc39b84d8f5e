"""Byte-level byte-pair encodings without a tokenizer.json: GPT-2, RoBERTa, BART, Qwen2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tfm_jax.pretrained.files import read_json
from tfm_jax.pretrained.special import WITHOUT, add_declared, special_tokens

__all__ = ["SPECIAL", "byte_pairs"]

_END = "<|endoftext|>"
SPECIAL: dict[str, dict[str, str | None]] = {
    "GPT2": {"unk": _END, "bos": _END, "eos": _END, "pad": None},
    "Qwen2": {"unk": _END, "bos": None, "eos": _END, "pad": _END},
    "Roberta": {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"},
}
SPECIAL["Roberta"] |= {"cls": "<s>", "sep": "</s>"}
SPECIAL["Bart"] = SPECIAL["Roberta"]
"""The special tokens of each class, where a checkpoint does not name them."""
# How Qwen2 cuts a text: contractions, letters, single digits, punctuation, white space.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_pairs(directory: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of ``vocab.json`` and ``merges.txt``.

    Args:
      directory: that holds them.
      kind: of ``special.kind_of``: how a text is cut, and what stands around it.
      said: the settings of ``special.declared``.

    Returns:
      The tokenizer.

    Raises:
      ValueError: for another kind, for files that do not fit together, and as ``add_declared``.
    """
    if kind not in SPECIAL:
        raise ValueError(
            f"{directory} has vocab.json and merges.txt of a tokenizer of class {kind}; known are "
            f"{', '.join(sorted(SPECIAL))}: name one as tokenizer_class in tokenizer_config.json, or "
            f"{WITHOUT}"
        )
    model = _model(directory)
    tokenizer = tokenizers.Tokenizer(model)
    space = bool(said.get("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    cut = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=kind != "Qwen2")
    if kind == "Qwen2":
        tokenizer.normalizer = normalizers.NFC()
        cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_QWEN2), "isolated"), cut])
    tokenizer.pre_tokenizer = cut
    special = special_tokens(said, **SPECIAL[kind])
    # Those that the checkpoint numbers come first: the roles below are in no order of their ids.
    tokenizer = add_declared(tokenizer, directory, said)
    # The mask takes the space before it.
    added = {token: AddedToken(token, lstrip=role == "mask") for role, token in special.items() if token}
    tokenizer.add_special_tokens(list(added.values()))
    if kind in ("Roberta", "Bart"):
        at = lambda role: (special[role], tokenizer.token_to_id(special[role]))
        tokenizer.post_processor = processors.RobertaProcessing(at("sep"), at("cls"), True, space)
    return tokenizer


def _model(directory: Path) -> models.BPE:
    vocabulary = read_json(directory / "vocab.json")
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise ValueError(f"{directory / 'merges.txt'} has lines that are no two tokens: {wrong[:3]}")
    try:
        return models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"vocab.json and merges.txt in {directory} do not fit together: {error}") from error

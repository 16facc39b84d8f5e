"""The file of a model of sentencepiece: what is in it, and nothing of it believed unchecked."""

import collections
import math
from pathlib import Path
from typing import Any, NamedTuple

from tfm_jax.pretrained.tokenizers.charsmap import check_charsmap
from tfm_jax.pretrained.tokenizers.protobuf import fields

__all__ = ["CONTROL", "NORMAL", "UNKNOWN", "USER_DEFINED", "SentenceModel", "read_sentence_model"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of pieces; 5 is not used, 6 a byte."""
_KINDS = range(1, 7)
_UNIGRAM, _BPE = 1, 2
# The fields that are read, by the names that they have here.
_MODEL = {1: bytes, 2: bytes, 3: bytes}
_PIECE = {1: str, 2: float, 3: int}
_TRAINER = {3: ("kind", int), 35: ("byte_fallback", bool), 40: ("unk", int)}
_NORMALIZER = {
    2: ("charsmap", bytes),
    3: ("add_dummy_prefix", bool),
    4: ("remove_extra_whitespaces", bool),
}


class SentenceModel(NamedTuple):
    """What is in a model's file.

    Args:
      path: of the file.
      pieces: texts, no two alike, and their scores.
      kinds: of the pieces.
      is_unigram: else it is BPE.
      unk: the id of the piece for what is unknown.
      byte_fallback: whether what is unknown is written in bytes.
      charsmap: how letters are made alike, or nothing.
      add_dummy_prefix: whether a space is put before a text.
      remove_extra_whitespaces: whether spaces are taken from a text's ends, and all but one of those between.
    """

    path: Path
    pieces: list[tuple[str, float]]
    kinds: list[int]
    is_unigram: bool
    unk: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read_sentence_model(path: Path) -> SentenceModel:
    """Reads a model of sentencepiece.

    Args:
      path: of its file.

    Returns:
      The SentenceModel.

    Raises:
      ValueError: for a file that is no such model, or would not work: without pieces, with one twice or a
        score that is no number, an unknown piece that is not there, a charsmap that leads nowhere.
    """
    try:
        return _read(path)
    except ValueError as error:
        raise ValueError(f"{path} is no model of sentencepiece: {error}") from error


def _read(path: Path) -> SentenceModel:
    pieces, kinds = [], []
    trainer: dict[str, Any] = {"kind": _UNIGRAM, "byte_fallback": False, "unk": 0}
    normalizer: dict[str, Any] = {
        "charsmap": b"",
        "add_dummy_prefix": True,
        "remove_extra_whitespaces": True,
    }
    for number, value in fields(path.read_bytes(), _MODEL):
        if number == 1:
            piece = {1: "", 2: 0.0, 3: NORMAL} | dict(fields(value, _PIECE))
            pieces.append((piece[1], piece[2]))
            kinds.append(piece[3])
        elif number == 2:
            trainer |= _named(value, _TRAINER)
        else:
            normalizer |= _named(value, _NORMALIZER)
    _check_pieces(pieces, kinds)
    if (kind := trainer.pop("kind")) not in (_UNIGRAM, _BPE):
        raise ValueError(f"it is of kind {kind}, such as of words or characters, wanted unigram or BPE")
    if not 0 <= trainer["unk"] < len(pieces):
        raise ValueError(f"the id of what is unknown is {trainer['unk']}, and it has {len(pieces)} pieces")
    if normalizer["charsmap"]:
        check_charsmap(normalizer["charsmap"])
    return SentenceModel(path, pieces, kinds, is_unigram=kind == _UNIGRAM, **trainer, **normalizer)


def _named(message: bytes, names: dict[int, tuple[str, type]]) -> dict[str, Any]:
    kinds = {number: kind for number, (_, kind) in names.items()}
    return {names[number][0]: value for number, value in fields(message, kinds)}


def _check_pieces(pieces: list[tuple[str, float]], kinds: list[int]) -> None:
    if not pieces:
        raise ValueError("it has no pieces")
    counts = collections.Counter(text for text, _ in pieces)
    if twice := [text for text, count in counts.items() if count > 1]:
        raise ValueError(f"it has pieces twice: {twice[:3]}")
    if "" in counts:
        raise ValueError("it has an empty piece")
    if wrong := [piece for piece in pieces if not math.isfinite(piece[1])]:
        raise ValueError(f"it has scores that are no numbers: {wrong[:3]}")
    if wrong := sorted(set(kinds).difference(_KINDS)):
        raise ValueError(f"it has pieces of kinds that are not known: {wrong[:3]}")

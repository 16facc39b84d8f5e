"""Entities of tagged sentences, and their F1 score."""

import re
from collections.abc import Sequence

__all__ = ["are_entity_tags", "entities", "entity_f1"]

_PREFIXED = re.compile(r"[BIESLU]-.+")


def are_entity_tags(names: Sequence[str]) -> bool:
    """Whether tags mark entities: "O", and some with a prefix, such as "B-PER" and "I-PER"."""
    others = [name for name in names if name != "O"]
    return bool(others) and all(map(_PREFIXED.fullmatch, others))


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of a sentence: type, first word, and the word after the last one.

    The prefixes are those of IOB (``B-``, ``I-``), BIOES and BILOU (``E-`` and ``L-`` end an entity, ``S-``
    and ``U-`` are one word). As in the evaluation script of CoNLL-2000, an ``I-`` after another type or after
    "O" begins an entity.

    Equivalent to::

        {(type, start, end) for all spans of one type, with a beginning at start alone, which ends at end}

    Args:
      tags: of the words; what has no prefix is no entity.
    """
    found, start, kind = set(), 0, ""  # kind: of the open entity; "" is none
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-") if _PREFIXED.fullmatch(tag) else ("O", "", "")
        if kind and (prefix in "OBSU" or name != kind):
            found.add((kind, start, i))
            kind = ""
        if prefix != "O" and not kind:
            start, kind = i, name
        if prefix in "ELSU" and kind:
            found.add((kind, start, i + 1))
            kind = ""
    return found


def entity_f1(tagged: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 score of the predicted entities: each counts if its type and both ends are right.

    Equivalent to::

        2 * correct / (entities + predicted entities)

    Args:
      tagged: the tags of each sentence.
      predicted: those of a model.

    Returns:
      From 0 to 1; 0 if there are no entities at all.

    Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", section 2.3.
    """
    pairs = [(entities(a), entities(b)) for a, b in zip(tagged, predicted, strict=True)]
    total = sum(len(a) + len(b) for a, b in pairs)
    return 2 * sum(len(a & b) for a, b in pairs) / total if total else 0.0

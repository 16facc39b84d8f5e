"""Models of sentencepiece as tokenizers of the ``tokenizers`` library: T5, Marian, mBART, Llama."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tfm_jax.pretrained.tokenizers.classes import CLASSES, LANGUAGES, SPACE, Vocabulary
from tfm_jax.pretrained.tokenizers.sentencepiece_model import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SentenceModel,
    read_sentence_model,
)
from tfm_jax.pretrained.tokenizers.special_tokens import WITHOUT, add_declared, read_ids, special_tokens

__all__ = ["MODELS", "sentence_pieces"]

MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm")
"""The names of their files."""
_HIDDEN = "\x00"  # before pieces that no text has: of the target's language alone


def sentence_pieces(directory: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a checkpoint's model of sentencepiece, with the ids and special tokens of its family.

    Args:
      directory: that holds one of ``MODELS``; of Marian ``vocab.json`` too.
      kind: of ``special.kind_of``: T5, Marian, MBart, MBart50 or Llama.
      said: the settings of ``special.declared``; of mBART ``src_lang`` is the language of the texts, English
        where it is not said; of Llama ``add_prefix_space=False`` puts no space before a text, and ``legacy``
        one before what follows each special token or piece of the user's.

    Returns:
      The tokenizer, which gives the ids of transformers 5. Of Marian it reads the source's language, and
      writes both. Of Llama a text that begins with a space gets no other, where sentencepiece and version 4
      put one before it too, and nothing is normalized, whatever the model says.

    Raises:
      ValueError: for another kind, and for a file that is no such model, or not one of its family: of another
        algorithm, without the three pieces that mBART replaces, with a ``vocab.json`` of other pieces.
    """
    path = next(directory / name for name in MODELS if (directory / name).is_file())
    if kind not in _FAMILIES:
        raise ValueError(
            f"{path} is of a tokenizer of class {kind}; known are {', '.join(sorted(_FAMILIES))}: name one "
            f"as tokenizer_class in tokenizer_config.json, or {WITHOUT}"
        )
    return _FAMILIES[kind](read_sentence_model(path), said)


def _t5(model: SentenceModel, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The pieces, and behind them what stands for gaps, the last one first."""
    gaps = reversed(CLASSES["T5"].extra(said))
    tokens = [*model.pieces, *((gap, 0.0) for gap in gaps)]
    return _of_class("T5", model, Vocabulary(tokens, unk=model.unk), said)


def _of_class(
    kind: str, model: SentenceModel, vocabulary: Vocabulary, said: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """The tokenizer of a unigram model's pieces, as its class in transformers makes it."""
    if not model.is_unigram:
        raise ValueError(f"{model.path} is BPE, wanted unigram")
    made = CLASSES[kind]
    special = special_tokens(said, **made.special)
    tokenizer = made.build(vocabulary._replace(charsmap=model.charsmap or None), said, special)
    # The mask takes the space before it.
    tokens = {role: AddedToken(x, lstrip=True) if role == "mask" and x else x for role, x in special.items()}
    add_declared(tokenizer, model.path.parent, tokens, made.extra(said))
    made.around(tokenizer, said, special)
    return tokenizer


def _marian(model: SentenceModel, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Both languages share ids, which ``vocab.json`` gives; the source's model cuts the text."""
    path = model.path.with_name("vocab.json")
    ids = _ids(path)
    special = special_tokens(said, eos="</s>", unk="<unk>", pad="<pad>")
    if missing := [token for token in special.values() if token not in ids]:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    scores = dict(model.pieces)
    if not scores.keys() & (ids.keys() - special.values()):
        raise ValueError(f"{path} has none of the pieces of {model.path}: they do not belong together")
    lowest = min(scores.values())
    codes = [token for token in ids if re.fullmatch(r">>.+<<", token)]
    seen = {*scores, *special.values(), *codes}
    ordered = sorted(ids, key=ids.__getitem__)
    vocabulary = [(x if x in seen else _HIDDEN + x, scores.get(x, lowest)) for x in ordered]
    tokenizer = _unigram(model, vocabulary, ids[special["unk"]])
    _add(tokenizer, special.values())
    tokenizer.add_tokens([AddedToken(code, normalized=False) for code in codes])
    add_declared(tokenizer, path.parent, special)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_HIDDEN, ""), tokenizer.decoder])
    return _around(tokenizer, f"$A {special['eos']}")


def _ids(path: Path) -> dict[str, int]:
    ids = read_ids(path)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"{path} has ids with gaps")
    return ids


def _mbart(kind: str, model: SentenceModel, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Special tokens of its own in the place of the model's first three; languages and the mask behind."""
    if model.kinds[:3] != [UNKNOWN, CONTROL, CONTROL]:
        raise ValueError(
            f"{model.path} begins with {[text for text, _ in model.pieces[:3]]}, wanted an unknown piece and "
            "two that stand around texts, which mBART has its own for"
        )
    special = special_tokens(said, **CLASSES["MBart"].special)
    first = [(special[role], 0.0) for role in ("bos", "pad", "eos", "unk")]
    last = [(token, 0.0) for token in (*LANGUAGES[kind], special["mask"])]
    return _of_class(kind, model, Vocabulary([*first, *model.pieces[3:], *last]), said)


def _llama(model: SentenceModel, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Pairs merged in the order of what they become, and bytes for what has no piece."""
    special = special_tokens(said, unk="<unk>", bos="<s>", eos="</s>")
    if model.is_unigram:
        raise ValueError(f"{model.path} is unigram, wanted BPE")
    vocabulary = {piece: i for i, (piece, _) in enumerate(model.pieces)}
    options = {
        "unk_token": model.pieces[model.unk][0],
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
    }
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, _merges(model), **options))
    # Of the model's own normalizer transformers takes nothing.
    scheme = _spaces_of_llama(said)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    decode = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([*decode, *strip])
    own = [(piece, kind) for (piece, _), kind in zip(model.pieces, model.kinds, strict=True)]
    _add(tokenizer, [*special.values(), *(piece for piece, kind in own if kind == CONTROL)])
    whole = [AddedToken(piece, normalized=False) for piece, kind in own if kind == USER_DEFINED]
    tokenizer.add_tokens(whole)
    add_declared(tokenizer, model.path.parent, special)
    begin = f"{special['bos']} " if said.get("add_bos_token", True) else ""
    end = f" {special['eos']}" if said.get("add_eos_token", False) else ""
    return _around(tokenizer, f"{begin}$A{end}")


def _spaces_of_llama(said: Mapping[str, Any]) -> str:
    """Where a space is put before what has none: the text, or (as versions did at first) each part of it."""
    if said.get("add_prefix_space") is False:
        return "never"
    return "always" if said.get("legacy") else "first"


_FAMILIES = {"T5": _t5, "Marian": _marian, "Llama": _llama}
_FAMILIES |= {kind: functools.partial(_mbart, kind) for kind in ("MBart", "MBart50")}


def _merges(model: SentenceModel) -> list[tuple[str, str]]:
    normal = {
        piece: (score, i)
        for i, ((piece, score), kind) in enumerate(zip(model.pieces, model.kinds, strict=True))
        if kind in (NORMAL, USER_DEFINED)
    }
    found = [
        (-score, i, piece[:cut], piece[cut:])
        for piece, (score, i) in normal.items()
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    return [(left, right) for _, _, left, right in sorted(found)]


def _unigram(model: SentenceModel, vocabulary: list[tuple[str, float]], unk: int) -> tokenizers.Tokenizer:
    if not model.is_unigram:
        raise ValueError(f"{model.path} is BPE, wanted unigram")
    tokenizer = tokenizers.Tokenizer(
        models.Unigram(vocabulary, unk_id=unk, byte_fallback=model.byte_fallback)
    )
    if normal := _normalizers(model):
        tokenizer.normalizer = normalizers.Sequence(normal)
    scheme = "always" if model.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=True)
    tokenizer.decoder = decoders.Metaspace(SPACE, scheme, split=True)
    return tokenizer


def _normalizers(model: SentenceModel) -> list[normalizers.Normalizer]:
    found: list[normalizers.Normalizer] = []
    if model.charsmap:
        found.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        found += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return found


def _add(tokenizer: tokenizers.Tokenizer, tokens: Sequence[str | AddedToken]) -> None:
    tokenizer.add_special_tokens(list(dict.fromkeys(tokens)))


def _around(tokenizer: tokenizers.Tokenizer, template: str) -> tokenizers.Tokenizer:
    """With special tokens around a text, or around two that stand as one."""
    special = [token for token in template.split() if token != "$A"]
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(special)]
    pair = template.replace("$A", "$A $B")
    tokenizer.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=ids)
    return tokenizer

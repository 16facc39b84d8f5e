"""SentencePiece models, checked and converted to ``tokenizers``: T5, Marian, mBART, Llama."""

import collections
import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.charsmap import check_charsmap
from tfm_jax.pretrained.tokenizers.classes import (
    CLASSES,
    LANGUAGES,
    SPACE,
    Vocabulary,
    set_llama_spaces,
    token_of,
)
from tfm_jax.pretrained.tokenizers.special_tokens import (
    add_tokens,
    mask_with_lstrip,
    read_ids,
    special_tokens,
)
from tfm_jax.pretrained.tokenizers.tokenizer_config import WITHOUT_TOKENIZER
from tfm_jax.pretrained.weights.files import Directory, File

__all__ = ["MODEL_FILES", "SentencePieceModel", "parse_model", "read_sentencepiece"]

MODEL_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm")
"""Names of SentencePiece model files, in order of precedence."""
# Values of the enums of sentencepiece_model.proto.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_UNIGRAM, _BPE = 1, 2
_UNREACHABLE = "\x00"  # prefix of a piece that no text contains: one of Marian's target language only


class SentencePieceModel(NamedTuple):
    """Contents of a SentencePiece model file.

    Args:
      path: of the file.
      pieces: (text, score) in the order of ids; texts are unique.
      types: of the pieces, as in ``ModelProto.SentencePiece.Type``.
      is_unigram: whether the model is Unigram; else BPE.
      unk_id: id of the unknown piece.
      byte_fallback: whether unknown characters become bytes.
      charsmap: normalization table; empty for none.
      add_dummy_prefix: whether a space is added before a text.
      remove_extra_whitespaces: whether texts are stripped and runs of spaces become one.
    """

    path: File
    pieces: list[tuple[str, float]]
    types: list[int]
    is_unigram: bool
    unk_id: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read_sentencepiece(
    directory: Directory, class_name: str | None, config: Settings
) -> tokenizers.Tokenizer:
    """Builds the tokenizer of a checkpoint from its SentencePiece model.

    Args:
      directory: with one of ``MODEL_FILES``; for Marian with ``vocab.json`` too.
      class_name: from ``tokenizer_class``: T5, Marian, MBart, MBart50 or Llama.
      config: from ``read_tokenizer_config``. For mBART ``src_lang`` is the language of the texts ("en_XX" by
        default). For Llama see ``set_llama_spaces``.

    Returns:
      The tokenizer, with the ids of transformers 5. Marian's encodes the source language and decodes both.
      Llama's adds no space before a text that starts with one (SentencePiece and transformers 4 do), and
      ignores the model's normalizer.

    Raises:
      ImportError: the extra ``sentencepiece`` is not installed.
      ValueError: another class, a damaged file, or a model that does not fit its class: of another algorithm,
        without the three pieces that mBART replaces, with a ``vocab.json`` of other pieces.
    """
    path = next(directory / name for name in MODEL_FILES if (directory / name).is_file())
    if class_name not in _BUILDERS:
        raise ValueError(
            f"{path}: got a SentencePiece model of tokenizer class {class_name}; wanted one of "
            f"{', '.join(sorted(_BUILDERS))}. Name it as tokenizer_class in tokenizer_config.json, or "
            f"{WITHOUT_TOKENIZER}."
        )
    return _BUILDERS[class_name](parse_model(path), config)


def parse_model(path: File) -> SentencePieceModel:
    """Parses and checks a SentencePiece model file.

    Raises:
      ImportError: the extra ``sentencepiece`` is not installed.
      ValueError: a file that is no such model, or one that cannot work: no pieces, a duplicate or empty
        piece, a score that is not finite, no unknown piece, a charsmap that leads outside itself.
    """
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise ImportError(
            f"{path}: got a SentencePiece model; wanted the packages sentencepiece and protobuf, which read "
            "it. pip install 'tfm_jax[sentencepiece]'"
        ) from error
    # protobuf makes the class at import.
    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        proto.ParseFromString(path.read_bytes())
        _check_fields(proto)
        return _checked_model(path, proto)
    except DecodeError as error:
        raise ValueError(
            f"{path}: got a damaged or truncated file ({error}); wanted a SentencePiece model."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: got {error}; wanted a SentencePiece model.") from error


def _checked_model(path: File, proto: Any) -> SentencePieceModel:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if not pieces:
        raise ValueError("a model without pieces")
    # protobuf returns a string that is not UTF-8 as bytes.
    if wrong := [text for text, _ in pieces if not isinstance(text, str)]:
        raise ValueError(f"pieces that are not UTF-8 {wrong[:3]}")
    counts = collections.Counter(text for text, _ in pieces)
    if duplicates := [text for text, count in counts.items() if count > 1]:
        raise ValueError(f"duplicate pieces {duplicates[:3]}")
    if "" in counts:
        raise ValueError("an empty piece")
    if wrong := [piece for piece in pieces if not math.isfinite(piece[1])]:
        raise ValueError(f"scores that are not finite {wrong[:3]}")
    if trainer.model_type not in (_UNIGRAM, _BPE):
        raise ValueError(f"model type {trainer.model_type} (words or characters), not Unigram or BPE")
    if not 0 <= trainer.unk_id < len(pieces):
        raise ValueError(f"unk_id {trainer.unk_id} with {len(pieces)} pieces")
    if normalizer.precompiled_charsmap:
        check_charsmap(normalizer.precompiled_charsmap)
    return SentencePieceModel(
        path,
        pieces,
        [piece.type for piece in proto.pieces],
        is_unigram=trainer.model_type == _UNIGRAM,
        unk_id=trainer.unk_id,
        byte_fallback=trainer.byte_fallback,
        charsmap=normalizer.precompiled_charsmap,
        add_dummy_prefix=normalizer.add_dummy_prefix,
        remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
    )


def _check_fields(proto: Any) -> None:
    """Raises for known fields with another wire type or enum value, which protobuf silently ignores."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    known = type(proto)()
    known.CopyFrom(proto)
    known.DiscardUnknownFields()
    if known.ByteSize() == proto.ByteSize():  # the usual case; a model has up to 256,000 pieces
        return
    for message in (proto, proto.trainer_spec, proto.normalizer_spec, *proto.pieces):
        names = message.DESCRIPTOR.fields_by_number
        for field in UnknownFieldSet(message):
            if field.field_number in names:
                name = f"{message.DESCRIPTOR.name}.{names[field.field_number].name}"
                raise ValueError(f"an invalid value of {name}: {str(field.data)[:20]}")


def _build_t5(model: SentencePieceModel, config: Settings) -> tokenizers.Tokenizer:
    """The pieces, followed by the sentinel tokens in reverse order."""
    sentinels = reversed(CLASSES["T5"].extra_tokens(config))
    tokens = [*model.pieces, *((sentinel, 0.0) for sentinel in sentinels)]
    return _build_of_class("T5", model, Vocabulary(scores=tokens, unk_id=model.unk_id), config)


def _build_mbart(class_name: str, model: SentencePieceModel, config: Settings) -> tokenizers.Tokenizer:
    """The pieces, with the first three replaced by special tokens, followed by the languages and the mask."""
    if model.types[:3] != [_UNKNOWN, _CONTROL, _CONTROL]:
        raise ValueError(
            f"{model.path}: got first pieces {[text for text, _ in model.pieces[:3]]}; wanted an unknown "
            "piece and two control pieces, which mBART replaces."
        )
    special = special_tokens(config, **CLASSES["MBart"].special_tokens)
    first = [(token_of(special, role), 0.0) for role in ("bos", "pad", "eos", "unk")]
    last = [(token, 0.0) for token in (*LANGUAGES[class_name], token_of(special, "mask"))]
    return _build_of_class(class_name, model, Vocabulary(scores=[*first, *model.pieces[3:], *last]), config)


def _build_of_class(
    class_name: str, model: SentencePieceModel, vocabulary: Vocabulary, config: Settings
) -> tokenizers.Tokenizer:
    """The tokenizer that the class in transformers builds from a Unigram model's pieces."""
    _check_algorithm(model, wants_unigram=True)
    made = CLASSES[class_name]
    special = special_tokens(config, **made.special_tokens)
    tokenizer = made.build(vocabulary._replace(charsmap=model.charsmap or None), config, special)
    add_tokens(tokenizer, model.path.parent, mask_with_lstrip(special), made.extra_tokens(config))
    made.set_post_processor(tokenizer, config, special)
    return tokenizer


def _check_algorithm(model: SentencePieceModel, *, wants_unigram: bool) -> None:
    if model.is_unigram != wants_unigram:
        got, wanted = ("BPE", "Unigram") if wants_unigram else ("Unigram", "BPE")
        raise ValueError(f"{model.path}: got a {got} model; wanted {wanted}. Correct tokenizer_class.")


def _build_marian(model: SentencePieceModel, config: Settings) -> tokenizers.Tokenizer:
    """Unigram model of the source language; both languages share the ids of ``vocab.json``."""
    path = model.path.with_name("vocab.json")
    ids = read_ids(path)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"{path}: got ids with gaps or duplicates; wanted 0 to {len(ids) - 1}.")
    special = special_tokens(config, eos="</s>", unk="<unk>", pad="<pad>")
    if missing := [token for token in special.values() if token not in ids]:
        raise ValueError(f"{path}: got no {', '.join(missing)}; wanted all special tokens.")
    scores = dict(model.pieces)
    if not scores.keys() & (ids.keys() - special.values()):
        raise ValueError(f"{path}: got none of the pieces of {model.path}; wanted files of one tokenizer.")
    lowest = min(scores.values())
    language_codes = [token for token in ids if re.fullmatch(r">>.+<<", token)]
    source_tokens = {*scores, *special.values(), *language_codes}
    vocabulary = [
        (token if token in source_tokens else _UNREACHABLE + token, scores.get(token, lowest))
        for token in sorted(ids, key=ids.__getitem__)
    ]
    _check_algorithm(model, wants_unigram=True)
    tokenizer = tokenizers.Tokenizer(
        models.Unigram(vocabulary, unk_id=ids[special["unk"]], byte_fallback=model.byte_fallback)
    )
    if steps := _normalizers(model):
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if model.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_UNREACHABLE, ""), decoders.Metaspace(SPACE, scheme, split=True)]
    )
    _add_special(tokenizer, special.values())
    tokenizer.add_tokens([AddedToken(code, normalized=False) for code in language_codes])
    add_tokens(tokenizer, path.parent, special)
    _set_template(tokenizer, f"$A {special['eos']}")
    return tokenizer


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps


def _build_llama(model: SentencePieceModel, config: Settings) -> tokenizers.Tokenizer:
    """BPE with byte fallback; the model's normalizer is ignored, as in transformers."""
    special = special_tokens(config, unk="<unk>", bos="<s>", eos="</s>")
    _check_algorithm(model, wants_unigram=False)
    vocabulary = {piece: i for i, (piece, _) in enumerate(model.pieces)}
    bpe = models.BPE(
        vocabulary,
        _merges(model),
        unk_token=model.pieces[model.unk_id][0],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    set_llama_spaces(tokenizer, config)
    control, user_defined = (
        [piece for (piece, _), x in zip(model.pieces, model.types, strict=True) if x == wanted]
        for wanted in (_CONTROL, _USER_DEFINED)
    )
    _add_special(tokenizer, [*special.values(), *control])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in user_defined])
    add_tokens(tokenizer, model.path.parent, special)
    bos = f"{special['bos']} " if config.get("add_bos_token", True) else ""
    eos = f" {special['eos']}" if config.get("add_eos_token", False) else ""
    _set_template(tokenizer, f"{bos}$A{eos}")
    return tokenizer


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """BPE merges, by descending score of the merged piece: every split of a piece into two pieces."""
    mergeable = {
        piece: (score, i)
        for i, ((piece, score), type_) in enumerate(zip(model.pieces, model.types, strict=True))
        if type_ in (_NORMAL, _USER_DEFINED)
    }
    found = [
        (-score, i, piece[:cut], piece[cut:])
        for piece, (score, i) in mergeable.items()
        for cut in range(1, len(piece))
        if piece[:cut] in mergeable and piece[cut:] in mergeable
    ]
    return [(left, right) for _, _, left, right in sorted(found)]


def _add_special(tokenizer: tokenizers.Tokenizer, tokens: Iterable[str]) -> None:
    tokenizer.add_special_tokens(list(dict.fromkeys(tokens)))


def _set_template(tokenizer: tokenizers.Tokenizer, template: str) -> None:
    """Sets the post-processor to a template of special tokens and ``$A``; a pair is one text to it."""
    special = [token for token in template.split() if token != "$A"]
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(special)]
    pair = template.replace("$A", "$A $B")
    tokenizer.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=ids)


_BUILDERS: dict[str, Callable[[SentencePieceModel, Settings], tokenizers.Tokenizer]] = {
    "T5": _build_t5,
    "Marian": _build_marian,
    "Llama": _build_llama,
    "MBart": functools.partial(_build_mbart, "MBart"),
    "MBart50": functools.partial(_build_mbart, "MBart50"),
}

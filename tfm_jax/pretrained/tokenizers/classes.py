"""Tokenizer classes of transformers 5: how each makes a tokenizer of a vocabulary and its settings."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

__all__ = ["ACTED_ON", "CLASSES", "LANGUAGES", "SETTINGS_OF", "SPACE", "TokenizerClass", "Vocabulary"]

SPACE = "▁"
_END = "<|endoftext|>"
# How Qwen2 cuts a text: contractions, letters, single digits, punctuation, white space.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# fmt: off
_LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN",
    "hi_IN", "it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP",
    "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN",
)
_LANGUAGES_50 = (
    *_LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH",
    "mk_MK", "ml_IN", "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE",
    "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
)
# fmt: on
LANGUAGES = {"MBart": _LANGUAGES, "MBart50": _LANGUAGES_50}
"""The languages of each class that has a token for them."""

SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "do_lower_case": ("Bert",),
    "strip_accents": ("Bert",),
    "tokenize_chinese_chars": ("Bert",),
    "add_prefix_space": ("GPT2", "GPTNeoX", "Llama", "Qwen2", "Roberta", "XLMRoberta"),
    "trim_offsets": ("Roberta",),
    "legacy": ("Llama",),
    "extra_ids": ("T5",),
    "src_lang": ("MBart", "MBart50"),
}
"""The keys of tokenizer_config.json that some classes act on, and which."""
ACTED_ON = (
    *(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")),
    *("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"),
    *("model_max_length", "truncation_side", "model_input_names", "clean_up_tokenization_spaces"),
)
"""Those that every class acts on; so it does on a token by any other name that ends in ``_token``."""


class Vocabulary(NamedTuple):
    """What a class makes a tokenizer of.

    Args:
      tokens: with ids (WordPiece, BPE), or in their order with scores (Unigram).
      merges: of BPE.
      charsmap: how a model of sentencepiece makes letters alike; None is not at all.
      unk: the id of what is unknown; None is that of the class.
    """

    tokens: dict[str, int] | list[tuple[str, float]]
    merges: Sequence[tuple[str, str]] = ()
    charsmap: bytes | None = None
    unk: int | None = None


Settings = Mapping[str, Any]
Special = Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """A tokenizer class of transformers.

    Args:
      model: of the ``tokenizers`` library that it builds.
      special: its special tokens by their roles, where a checkpoint does not name them.
      build: the tokenizer of a vocabulary, settings and special tokens, without added tokens.
      extra: more special tokens, of the settings.
      around: sets what is put around a text; None leaves what a tokenizer.json has.
    """

    model: str
    special: Mapping[str, str | None]
    build: Callable[[Vocabulary, Settings, Special], tokenizers.Tokenizer]
    extra: Callable[[Settings], Sequence[str | AddedToken]] = lambda settings: ()
    around: Callable[[tokenizers.Tokenizer, Settings, Special], None] | None = None


def _bert(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    """Words cut into pieces, in lower case unless the settings differ."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary.tokens, unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _around_bert(tokenizer: tokenizers.Tokenizer, settings: Settings, special: Special) -> None:
    at = lambda role: (special[role], tokenizer.token_to_id(special[role]))
    tokenizer.post_processor = processors.BertProcessing(at("sep"), at("cls"))


def _bytes(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    """Byte-level pairs, merged in their order."""
    model = models.BPE(
        vocabulary.tokens, list(vocabulary.merges), continuing_subword_prefix="", end_of_word_suffix=""
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.ByteLevel()
    space = settings.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    return tokenizer


def _gpt_neox(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    tokenizer = _bytes(vocabulary, settings, special)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _qwen2(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    tokenizer = _gpt_neox(vocabulary, settings, special)
    space = settings.get("add_prefix_space", False)
    cut = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    split = pre_tokenizers.Split(Regex(_QWEN2), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, cut])
    return tokenizer


def _around_roberta(tokenizer: tokenizers.Tokenizer, settings: Settings, special: Special) -> None:
    at = lambda role: (special[role], tokenizer.token_to_id(special[role]))
    trims, space = settings.get("trim_offsets", True), settings.get("add_prefix_space", False)
    tokenizer.post_processor = processors.RobertaProcessing(at("sep"), at("cls"), trims, space)


def _llama(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    """Pairs merged in their order, and bytes for what has no piece."""
    model = models.BPE(vocabulary.tokens, list(vocabulary.merges), fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    # Where a space is put before what has none: the text, or (as versions did at first) each part of it.
    scheme = "always" if settings.get("legacy") else "first"
    scheme = "never" if settings.get("add_prefix_space") is False else scheme
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    decode = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([*decode, *strip])
    return tokenizer


def _unigram(vocabulary: Vocabulary, unk: int, scheme: str = "always") -> tokenizers.Tokenizer:
    unk = unk if vocabulary.unk is None else vocabulary.unk
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocabulary.tokens, unk_id=unk))
    cut = pre_tokenizers.Metaspace(SPACE, scheme, split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), cut])
    tokenizer.decoder = decoders.Metaspace(SPACE, scheme, split=True)
    return tokenizer


def _t5(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    tokenizer = _unigram(vocabulary, 2)
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    return tokenizer


def _xlm_roberta(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    tokenizer = _unigram(vocabulary, 3, "always" if settings.get("add_prefix_space", True) else "never")
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    return tokenizer


def _mbart(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    return _unigram(vocabulary, 3)


def _mbart50(vocabulary: Vocabulary, settings: Settings, special: Special) -> tokenizers.Tokenizer:
    tokenizer = _unigram(vocabulary, 3)
    alike = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*alike, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always", split=True)
    return tokenizer


def _gaps(settings: Settings) -> list[str]:
    return [f"<extra_id_{i}>" for i in range(settings.get("extra_ids", 100))]


def _template(single: str, pair: str) -> Callable[[tokenizers.Tokenizer, Settings, Special], None]:
    """Sets the templates of one text and of two, in which ``{eos}`` is the token of that role."""

    def around(tokenizer: tokenizers.Tokenizer, settings: Settings, special: Special) -> None:
        one, two = (x.format(**special, language=settings.get("src_lang", "en_XX")) for x in (single, pair))
        names = dict.fromkeys(x for x in two.split() if not x.startswith("$"))
        ids = [(name, tokenizer.token_to_id(name)) for name in names]
        tokenizer.post_processor = processors.TemplateProcessing(single=one, pair=two, special_tokens=ids)

    return around


def _in_language(kind: str, single: str, pair: str) -> Callable[..., None]:
    """As ``_template``, where the language of the texts is one of the class's."""
    around = _template(single, pair)

    def checked(tokenizer: tokenizers.Tokenizer, settings: Settings, special: Special) -> None:
        if (language := settings.get("src_lang", "en_XX")) not in LANGUAGES[kind]:
            raise ValueError(f"src_lang={language!r} is not one of {', '.join(LANGUAGES[kind])}")
        around(tokenizer, settings, special)

    return checked


_WORDS = {role: f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
_GPT2: dict[str, str | None] = {"bos": _END, "eos": _END, "unk": _END, "pad": None}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
_ROBERTA |= {"mask": "<mask>"}

CLASSES: dict[str, TokenizerClass] = {
    "Bert": TokenizerClass("WordPiece", _WORDS, _bert, around=_around_bert),
    "GPT2": TokenizerClass("BPE", _GPT2, _bytes),
    "GPTNeoX": TokenizerClass(
        "BPE", _GPT2 | {"pad": "<|padding|>"}, _gpt_neox, around=_template("$A", "$A $B:1")
    ),
    "Qwen2": TokenizerClass("BPE", {"bos": None, "eos": _END, "unk": _END, "pad": _END}, _qwen2),
    "Roberta": TokenizerClass("BPE", _ROBERTA, _bytes, around=_around_roberta),
    "Llama": TokenizerClass("BPE", _LLAMA, _llama),
    "T5": TokenizerClass(
        "Unigram",
        {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
        _t5,
        extra=_gaps,
        around=_template("$A {eos}", "$A {eos} $B {eos}"),
    ),
    "XLMRoberta": TokenizerClass(
        "Unigram", _ROBERTA, _xlm_roberta, around=_template("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}")
    ),
    "MBart": TokenizerClass(
        "Unigram",
        _ROBERTA,
        _mbart,
        extra=lambda settings: _LANGUAGES,
        around=_in_language("MBart", "$A {eos} {language}", "$A $B {eos} {language}"),
    ),
    "MBart50": TokenizerClass(
        "Unigram",
        {role: token for role, token in _ROBERTA.items() if role != "bos"},
        _mbart50,
        extra=lambda settings: _LANGUAGES_50,
        around=_in_language("MBart50", "{language} $A {eos}", "{language} $A $B {eos}"),
    ),
}
"""By their names without "Tokenizer" and "Fast"."""

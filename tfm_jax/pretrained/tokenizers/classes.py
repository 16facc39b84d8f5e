"""Tokenizer classes of transformers 5: how each builds a tokenizer from a vocabulary and its config."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.tokenizer_config import ROLES

__all__ = [
    "CLASSES",
    "CLASS_SETTINGS",
    "COMMON_SETTINGS",
    "LANGUAGES",
    "SPACE",
    "TokenizerClass",
    "Vocabulary",
    "set_llama_spaces",
    "token_of",
]

SPACE = "▁"
"""SentencePiece's symbol for a space."""
_END = "<|endoftext|>"
# Qwen2's pre-tokenizer: contractions, letters, single digits, punctuation, white space.
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
"""Language codes of each multilingual class; each is a special token."""

CLASS_SETTINGS: dict[str, tuple[str, ...]] = {
    "do_lower_case": ("Bert",),
    "strip_accents": ("Bert",),
    "tokenize_chinese_chars": ("Bert",),
    "add_prefix_space": ("GPT2", "GPTNeoX", "Llama", "Qwen2", "Roberta", "XLMRoberta"),
    "trim_offsets": ("Roberta",),
    "legacy": ("Llama",),
    "extra_ids": ("T5",),
    "src_lang": ("MBart", "MBart50"),
}
"""Keys of tokenizer_config.json that only some classes use, with those classes."""
COMMON_SETTINGS = (
    *(f"{role}_token" for role in ROLES),
    *("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"),
    *("model_max_length", "truncation_side", "model_input_names", "clean_up_tokenization_spaces"),
)
"""Keys of tokenizer_config.json that every class uses, besides any other that ends in ``_token``."""

SpecialTokens = Mapping[str, str | None]  # texts by role


class Vocabulary(NamedTuple):
    """Vocabulary from which a class builds a tokenizer.

    Args:
      ids: token to id, of WordPiece and BPE.
      scores: (token, score) in the order of ids, of Unigram.
      merges: of BPE.
      charsmap: normalization table of a SentencePiece model; None for no normalization.
      unk_id: id of the unknown token; None for the class's own.
    """

    ids: dict[str, int] | None = None
    scores: Sequence[tuple[str, float]] = ()
    merges: Sequence[tuple[str, str]] = ()
    charsmap: bytes | None = None
    unk_id: int | None = None


def _no_tokens(config: Settings) -> Sequence[str | AddedToken]:
    return ()


def _keep_post_processor(tokenizer: tokenizers.Tokenizer, config: Settings, special: SpecialTokens) -> None:
    """Keeps the post-processor of a tokenizer.json."""


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """A tokenizer class of transformers.

    Args:
      model: the class of its model in ``tokenizers.models``.
      special_tokens: by role, where a checkpoint names none.
      build: ``build(vocabulary, config, special tokens)``, a tokenizer without added tokens.
      extra_tokens: further special tokens, from the config.
      set_post_processor: sets the post-processor, which adds special tokens to a text; the default keeps that
        of a tokenizer.json.
    """

    model: str
    special_tokens: SpecialTokens
    build: Callable[[Vocabulary, Settings, SpecialTokens], tokenizers.Tokenizer]
    extra_tokens: Callable[[Settings], Sequence[str | AddedToken]] = _no_tokens
    set_post_processor: Callable[[tokenizers.Tokenizer, Settings, SpecialTokens], None] = _keep_post_processor


def _build_bert(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary.ids, unk_token=token_of(special, "unk")))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _build_byte_level(
    vocabulary: Vocabulary, config: Settings, special: SpecialTokens
) -> tokenizers.Tokenizer:
    model = models.BPE(
        vocabulary.ids, list(vocabulary.merges), continuing_subword_prefix="", end_of_word_suffix=""
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.ByteLevel()
    prefix_space = config.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return tokenizer


def _build_gpt_neox(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    tokenizer = _build_byte_level(vocabulary, config, special)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _build_qwen2(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    tokenizer = _build_gpt_neox(vocabulary, config, special)
    prefix_space = config.get("add_prefix_space", False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
    split = pre_tokenizers.Split(Regex(_QWEN2), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return tokenizer


def _build_llama(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    model = models.BPE(vocabulary.ids, list(vocabulary.merges), fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    set_llama_spaces(tokenizer, config)
    return tokenizer


def set_llama_spaces(tokenizer: tokenizers.Tokenizer, config: Settings) -> None:
    """Sets Llama's pre-tokenizer and decoder, which write spaces as ``SPACE``.

    A space is added before the text or, with ``legacy``, before each part of it between special tokens;
    ``add_prefix_space=False`` adds none.
    """
    scheme = "always" if config.get("legacy") else "first"
    scheme = "never" if config.get("add_prefix_space") is False else scheme
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([*steps, *strip])


def _build_unigram(vocabulary: Vocabulary, unk_id: int, scheme: str = "always") -> tokenizers.Tokenizer:
    unk_id = unk_id if vocabulary.unk_id is None else vocabulary.unk_id
    tokenizer = tokenizers.Tokenizer(models.Unigram(list(vocabulary.scores), unk_id=unk_id))
    metaspace = pre_tokenizers.Metaspace(SPACE, scheme, split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(SPACE, scheme, split=True)
    return tokenizer


def _build_t5(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    tokenizer = _build_unigram(vocabulary, 2)
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    return tokenizer


def _build_xlm_roberta(
    vocabulary: Vocabulary, config: Settings, special: SpecialTokens
) -> tokenizers.Tokenizer:
    tokenizer = _build_unigram(vocabulary, 3, "always" if config.get("add_prefix_space", True) else "never")
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    return tokenizer


def _build_mbart(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    return _build_unigram(vocabulary, 3)


def _build_mbart50(vocabulary: Vocabulary, config: Settings, special: SpecialTokens) -> tokenizers.Tokenizer:
    tokenizer = _build_unigram(vocabulary, 3)
    charsmap = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always", split=True)
    return tokenizer


def token_of(special: SpecialTokens, role: str) -> str:
    """The text of a special token that a class needs; a ValueError where the role has none."""
    if (token := special[role]) is None:
        raise ValueError(f"tokenizer_config.json: got no {role}_token; wanted one. Name it there.")
    return token


def _token_and_id(tokenizer: tokenizers.Tokenizer, token: str) -> tuple[str, int]:
    if (i := tokenizer.token_to_id(token)) is None:
        raise ValueError(f"tokenizer: got no {token!r} in the vocabulary; wanted all special tokens in it.")
    return token, i


def _set_bert(tokenizer: tokenizers.Tokenizer, config: Settings, special: SpecialTokens) -> None:
    sep, cls = (_token_and_id(tokenizer, token_of(special, role)) for role in ("sep", "cls"))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)


def _set_roberta(tokenizer: tokenizers.Tokenizer, config: Settings, special: SpecialTokens) -> None:
    sep, cls = (_token_and_id(tokenizer, token_of(special, role)) for role in ("sep", "cls"))
    trim_offsets, prefix_space = config.get("trim_offsets", True), config.get("add_prefix_space", False)
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets, prefix_space)


def _template(single: str, pair: str) -> Callable[[tokenizers.Tokenizer, Settings, SpecialTokens], None]:
    """A setter of templates for one text and for a pair; ``{eos}`` is the token of that role."""

    def set_template(tokenizer: tokenizers.Tokenizer, config: Settings, special: SpecialTokens) -> None:
        language = config.get("src_lang", "en_XX")
        templates = [x.format(**special, language=language) for x in (single, pair)]
        names = dict.fromkeys(x for x in templates[1].split() if not x.startswith("$"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=templates[0],
            pair=templates[1],
            special_tokens=[_token_and_id(tokenizer, name) for name in names],
        )

    return set_template


def _language_template(class_name: str, single: str, pair: str) -> Callable[..., None]:
    """``_template``, with a check that ``src_lang`` is one of the class's languages."""
    set_template = _template(single, pair)

    def set_checked(tokenizer: tokenizers.Tokenizer, config: Settings, special: SpecialTokens) -> None:
        languages = LANGUAGES[class_name]
        if (language := config.get("src_lang", "en_XX")) not in languages:
            raise ValueError(
                f"tokenizer_config.json: got src_lang={language!r}; wanted one of {', '.join(languages)}."
            )
        set_template(tokenizer, config, special)

    return set_checked


def _sentinel_tokens(config: Settings) -> list[str]:
    """T5's sentinels, which mark masked spans."""
    return [f"<extra_id_{i}>" for i in range(config.get("extra_ids", 100))]


def _mbart_languages(config: Settings) -> Sequence[str]:
    return _LANGUAGES


def _mbart50_languages(config: Settings) -> Sequence[str]:
    return _LANGUAGES_50


_BERT = {role: f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
_GPT2: dict[str, str | None] = {"bos": _END, "eos": _END, "unk": _END, "pad": None}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
_ROBERTA |= {"mask": "<mask>"}

CLASSES: dict[str, TokenizerClass] = {
    "Bert": TokenizerClass("WordPiece", _BERT, _build_bert, set_post_processor=_set_bert),
    "GPT2": TokenizerClass("BPE", _GPT2, _build_byte_level),
    "GPTNeoX": TokenizerClass(
        "BPE",
        _GPT2 | {"pad": "<|padding|>"},
        _build_gpt_neox,
        set_post_processor=_template("$A", "$A $B:1"),
    ),
    "Qwen2": TokenizerClass("BPE", {"bos": None, "eos": _END, "unk": _END, "pad": _END}, _build_qwen2),
    "Roberta": TokenizerClass("BPE", _ROBERTA, _build_byte_level, set_post_processor=_set_roberta),
    "Llama": TokenizerClass("BPE", _LLAMA, _build_llama),
    "T5": TokenizerClass(
        "Unigram",
        {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
        _build_t5,
        extra_tokens=_sentinel_tokens,
        set_post_processor=_template("$A {eos}", "$A {eos} $B {eos}"),
    ),
    "XLMRoberta": TokenizerClass(
        "Unigram",
        _ROBERTA,
        _build_xlm_roberta,
        set_post_processor=_template("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}"),
    ),
    "MBart": TokenizerClass(
        "Unigram",
        _ROBERTA,
        _build_mbart,
        extra_tokens=_mbart_languages,
        set_post_processor=_language_template("MBart", "$A {eos} {language}", "$A $B {eos} {language}"),
    ),
    "MBart50": TokenizerClass(
        "Unigram",
        {role: token for role, token in _ROBERTA.items() if role != "bos"},
        _build_mbart50,
        extra_tokens=_mbart50_languages,
        set_post_processor=_language_template("MBart50", "{language} $A {eos}", "{language} $A $B {eos}"),
    ),
}
"""By name without "Tokenizer" and "Fast"."""

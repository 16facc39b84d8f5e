"""Texts and labels equal those of transformers: tokenizer, model and decoding from one directory.

transformers writes the model to each directory. The files of its tokenizer are those of the class
(``found``), or the ``tokenizer.json`` that transformers writes after it reads them (``written``).
"""

import functools
import json
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tests.pretrained import cases, transformers_models
from tests.pretrained.tokenizers.test_byte_pair import CORPUS, train_byte_pair
from tests.pretrained.tokenizers.test_sentencepiece import trained  # noqa: F401  - a fixture
from tfm_jax import pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")]

TEXTS = ["the quick dog", "a fox  jumps.", " I've 12 dogs, 3 cats", "日本 the Ünïcode", "quick-brown"]
PLACES = 64


class Kind(NamedTuple):
    """A model, and a function that writes its tokenizer files, given SentencePiece models."""

    case: cases.Case
    write: Callable[..., Any]
    settings: dict[str, Any]
    draw: dict[str, Any]


def decoder(case, write, **settings):
    return Kind(case, write, settings, {"std": 1.5, "seed": 5})


def pair(case, write, **settings):
    return Kind(case, write, settings, {"std": 0.8, "seed": 5})


def pairs(kind):
    return lambda directory, spm: train_byte_pair(directory, kind)


def pieces(which, name):
    return lambda directory, spm: (directory / name).write_bytes(spm[which])


def marian(directory, spm):
    for name in ("source.spm", "target.spm"):
        pieces("plain", name)(directory, spm)
    library = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=spm["plain"])
    known = [library.id_to_piece(i) for i in reversed(range(3, library.get_piece_size()))]
    vocabulary = {piece: i for i, piece in enumerate(["</s>", "<unk>", *known, "<pad>"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))


def tokenizers_file(directory, spm):
    """BLOOM's tokenizer: only a tokenizer.json."""
    it = tokenizers.Tokenizer(models.BPE())
    it.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r" ?[^(\s|[.,!?…])]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    it.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<unk>", "<s>", "</s>", "<pad>"]
    it.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=340, initial_alphabet=alphabet, special_tokens=special, show_progress=False
        ),
    )
    it.save(str(directory / "tokenizer.json"))


END = "<|endoftext|>"
KINDS = {
    "gpt2": decoder(cases.GPT2["tied"], pairs("GPT2"), tokenizer_class="GPT2Tokenizer"),
    "gpt2, begun": decoder(
        cases.GPT2["untied, relu"], pairs("GPT2"), tokenizer_class="GPT2Tokenizer", add_bos_token=True
    ),
    "opt": decoder(
        cases.OPT["tied"],
        pairs("Roberta"),
        tokenizer_class="GPT2Tokenizer",
        add_bos_token=True,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),
        pad_token="<pad>",
    ),
    "bloom": decoder(
        cases.BLOOM["tied"],
        tokenizers_file,
        tokenizer_class="TokenizersBackend",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        add_prefix_space=False,
    ),
    "gpt_neox": decoder(
        cases.GPT_NEOX["untied"], tokenizers_file, tokenizer_class="TokenizersBackend", eos_token="</s>"
    ),
    "llama": decoder(
        cases.LLAMA["grouped"],
        pieces("llama", "tokenizer.model"),
        tokenizer_class="LlamaTokenizer",
        add_bos_token=True,
    ),
    "llama, ended": decoder(
        cases.LLAMA["gelu"],
        pieces("llama", "tokenizer.model"),
        tokenizer_class="LlamaTokenizer",
        add_bos_token=False,
        add_eos_token=True,
    ),
    "mistral": decoder(
        cases.MISTRAL["grouped, window"],
        pieces("llama", "tokenizer.model"),
        tokenizer_class="LlamaTokenizer",
        add_bos_token=True,
    ),
    "qwen2": decoder(
        cases.QWEN2["grouped, window"], pairs("Qwen2"), tokenizer_class="Qwen2Tokenizer", eos_token=END
    ),
    "qwen3": decoder(
        cases.QWEN3["tied, biased"], pairs("Qwen2"), tokenizer_class="Qwen2Tokenizer", pad_token=END
    ),
    "t5": pair(cases.T5["tied"], pieces("t5", "spiece.model"), tokenizer_class="T5Tokenizer"),
    "bart": pair(cases.BART["tied"], pairs("Bart"), tokenizer_class="BartTokenizer"),
    "mbart": pair(
        cases.MBART["tied"],
        pieces("plain", "sentencepiece.bpe.model"),
        tokenizer_class="MBartTokenizer",
        src_lang="ro_RO",
        tgt_lang="de_DE",
    ),
    "mbart50": pair(
        cases.MBART["scaled, relu"],
        pieces("plain", "sentencepiece.bpe.model"),
        tokenizer_class="MBart50Tokenizer",
        src_lang="sl_SI",
        tgt_lang="de_DE",
    ),
    "marian": pair(cases.MARIAN["tied"], marian, tokenizer_class="MarianTokenizer"),
}


def sized(case, vocab_size):
    fields = case.fields | {"vocab_size": vocab_size}
    longer = {name: PLACES for name in ("n_positions", "max_position_embeddings") if name in fields}
    return case._replace(fields=fields | longer)


def files(directory, kind, spm, layout):
    """The tokenizer as transformers reads it, and its directory."""
    (directory / "found").mkdir()
    kind.write(directory / "found", spm)
    (directory / "found" / "tokenizer_config.json").write_text(json.dumps(kind.settings))
    name = kind.settings["tokenizer_class"]
    of = getattr(transformers, {"BartTokenizer": "RobertaTokenizer"}.get(name, name))  # the two are one class
    tokenizer = of.from_pretrained(directory / "found")
    if layout == "written":
        tokenizer.save_pretrained(directory / "written")
        assert (directory / "written" / "tokenizer.json").exists() == (name != "MarianTokenizer")
        tokenizer = of.from_pretrained(directory / "written")
    return tokenizer, directory / layout


def writer(tokenizer, directory, kind):
    """The model as transformers reads its directory."""
    model = transformers_models.random(sized(kind.case, len(tokenizer)), **kind.draw)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    settings: dict[str, Any] = ids | {"max_new_tokens": 12}
    if ids["pad_token_id"] is None:
        settings["pad_token_id"] = ids["eos_token_id"]
    if model.config.is_encoder_decoder:
        settings |= {"decoder_start_token_id": settings["pad_token_id"], "num_beams": 3}
    if "tgt_lang" in kind.settings:
        settings["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(kind.settings["tgt_lang"])
    model.generation_config = transformers.GenerationConfig(**settings)
    model.save_pretrained(directory)
    return model


def reference_text(tokenizer, model, text, **options):
    """The new text from a pipeline of transformers."""
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(**inputs, **options, tokenizer=tokenizer)[0]

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)

    if model.config.is_encoder_decoder:
        return decode(out)
    return decode(out)[len(decode(inputs["input_ids"][0])) :]


LAYOUTS = pytest.mark.parametrize("layout", ["found", "written"])


@LAYOUTS
@pytest.mark.parametrize("name", KINDS)
def test_texts(tmp_path, trained, name, layout):  # noqa: F811
    tokenizer, directory = files(tmp_path, KINDS[name], trained, layout)
    model = writer(tokenizer, directory, KINDS[name])
    generator = pretrained.load_text_generator(directory)
    for text, got in zip(TEXTS, generator.tokenizer.encode_batch(TEXTS), strict=True):
        assert got.tolist() == tokenizer(text)["input_ids"], text
    write = (
        generator.translate if generator.is_encoder_decoder else functools.partial(generator.write, key=None)
    )
    wanted = [reference_text(tokenizer, model, text) for text in TEXTS]
    assert write(TEXTS) == wanted
    assert len(set(wanted)) > 2


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart"])
def test_stop_strings(tmp_path, trained, name):  # noqa: F811
    """transformers keeps the stop string and the rest of its last token."""
    tokenizer, directory = files(tmp_path, KINDS[name], trained, "written")
    model = writer(tokenizer, directory, KINDS[name])
    settings = {"num_beams": 1}
    model.generation_config.update(**settings)
    complete = {text: reference_text(tokenizer, model, text) for text in TEXTS}
    stops = [*dict.fromkeys(re.findall("[a-z]{2}", " ".join(complete.values())))][:2]
    generator = pretrained.load_text_generator(directory, generation=settings | {"stop_strings": stops})
    write = (
        generator.translate if generator.is_encoder_decoder else functools.partial(generator.write, key=None)
    )
    ended = 0
    for text, got in zip(TEXTS, write(TEXTS), strict=True):
        wanted = reference_text(tokenizer, model, text, stop_strings=stops)
        at = min((i for stop in stops if (i := wanted.find(stop)) >= 0), default=None)
        assert got == wanted[:at]
        ended += at is not None and wanted != complete[text]
    assert ended


def word_pieces(directory, spm):
    """BERT's vocab.txt."""
    it = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    it.normalizer, it.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    it.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    vocabulary = it.get_vocab()
    (directory / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")


def encoder(case, write, **settings):
    return Kind(case, write, settings, {})


# The default of version 4; in version 5 every tokenizer.json has it.
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False}
MASK |= {"normalized": False, "single_word": False, "special": True}
ENCODERS = {
    "bert: sequences": encoder(cases.BERT["sequences"], word_pieces, tokenizer_class="BertTokenizer"),
    "bert: tokens": encoder(
        cases.BERT["tokens"], word_pieces, tokenizer_class="BertTokenizer", do_lower_case=False
    ),
    "bert: masked": encoder(
        cases.BERT["masked"], word_pieces, tokenizer_class="BertTokenizer", strip_accents=False
    ),
    "distilbert: sequences": encoder(
        cases.DISTILBERT["sequences"], word_pieces, tokenizer_class="DistilBertTokenizer"
    ),
    "distilbert: tokens": encoder(
        cases.DISTILBERT["tokens"], word_pieces, tokenizer_class="DistilBertTokenizer"
    ),
    "distilbert: masked": encoder(
        cases.DISTILBERT["masked"], word_pieces, tokenizer_class="DistilBertTokenizer"
    ),
    "roberta: sequences": encoder(
        cases.ROBERTA["sequences"], pairs("Roberta"), tokenizer_class="RobertaTokenizer"
    ),
    "roberta: tokens": encoder(
        cases.ROBERTA["tokens"],
        pairs("Roberta"),
        tokenizer_class="RobertaTokenizer",
        add_prefix_space=True,
    ),
    "roberta: masked": encoder(
        cases.ROBERTA["masked"], pairs("Roberta"), tokenizer_class="RobertaTokenizer", mask_token=MASK
    ),
}


def classified(directory, texts):
    """The scores of each text, or of its tokens for a token classifier."""
    found = pretrained.load_text_classifier(directory)(texts)
    return [np.stack([x.scores for x in (it if isinstance(it, list) else [it])]) for it in found]


def filled(directory, texts):
    """The logits at all positions of each text."""
    model, params, _, tokenizer = pretrained.load(directory)
    ids = [np.array(found.ids) for found in tokenizer.encode_batch(texts)]
    return [np.asarray(model.apply(params, x)) for x in ids]


def reference_scores(tokenizer, model, text, kind):
    inputs = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
    special = inputs.pop("special_tokens_mask")[0].bool()
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    if kind == "masked":
        return logits.numpy()
    scores = logits.softmax(-1).numpy()
    return scores[~special.numpy()] if kind == "tokens" else scores[None]


@LAYOUTS
@pytest.mark.parametrize("name", ENCODERS)
def test_labels_and_masked_tokens(tmp_path, trained, name, layout):  # noqa: F811
    tokenizer, directory = files(tmp_path, ENCODERS[name], trained, layout)
    model = transformers_models.random(sized(ENCODERS[name].case, len(tokenizer)))
    model.save_pretrained(directory)
    kind = name.split(": ")[1]
    texts = TEXTS
    if kind == "masked":
        texts = [f"{text} {tokenizer.mask_token} dog" for text in TEXTS]
    got = (filled if kind == "masked" else classified)(directory, texts)
    for text, found in zip(texts, got, strict=True):
        wanted = reference_scores(tokenizer, model, text, kind)
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0, err_msg=text)
    assert np.ptp([found.max() for found in got]) > 0.005


@pytest.mark.parametrize("name", ["bert: masked", "distilbert: sequences", "roberta: tokens"])
def test_vectors_of_an_encoder_without_modules(tmp_path, trained, name):  # noqa: F811
    """As in sentence-transformers: the mean over the output of the body."""
    tokenizer, directory = files(tmp_path, ENCODERS[name], trained, "found")
    transformers_models.random(sized(ENCODERS[name].case, len(tokenizer))).save_pretrained(directory)
    body = transformers.AutoModel.from_pretrained(directory).eval()
    got = pretrained.load_sentence_encoder(directory)(TEXTS)
    for text, vector in zip(TEXTS, got, strict=True):
        with torch.no_grad():
            wanted = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5, rtol=0, err_msg=text)

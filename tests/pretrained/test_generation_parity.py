"""The same ``generation_config.json`` gives the same tokens here and in transformers.

There each prompt is alone: its limits count the padding of a batch as tokens of the prompt.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pretrained import transformers_models
from tests.pretrained.cases import (
    BART,
    BLOOM,
    GPT2,
    GPT_NEOX,
    LLAMA,
    MARIAN,
    MBART,
    MISTRAL,
    OPT,
    QWEN2,
    QWEN3,
    T5,
)
from tfm_jax import generate, pretrained
from tfm_jax.generate.logits_processors import Context, apply_processors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

FAMILIES = {
    "gpt2": (GPT2["tied"], {"std": 1.5, "seed": 3}),
    "opt": (OPT["tied"], {"std": 1.5, "seed": 3}),
    "bloom": (BLOOM["tied"], {"std": 1.5, "seed": 3}),
    "gpt_neox": (GPT_NEOX["untied"], {"std": 1.5, "seed": 3}),
    "llama": (LLAMA["grouped"], {"std": 1.5, "seed": 3}),
    "mistral": (MISTRAL["grouped, window"], {"std": 1.5, "seed": 3}),
    "qwen2": (QWEN2["grouped, window"], {"std": 1.5, "seed": 3}),
    "qwen3": (QWEN3["tied, biased"], {"std": 1.5, "seed": 3}),
    "t5": (T5["tied"], {"std": 0.8}),
    "bart": (BART["tied"], {"std": 0.8}),
    "mbart": (MBART["tied"], {"std": 1.5, "seed": 3}),
    "marian": (MARIAN["tied"], {"std": 0.8}),
}
PROMPTS = ["3 5 4 7 6 9", "8", "11 4 12 10 3 9", "5 14 13"]


class Numbers:
    """The text of token 5 is "5", special or not."""

    pad_id = bos_id = eos_id = None

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def encode_batch(self, texts):
        return [np.array(text.split(), np.int32) for text in texts]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    directory = tmp_path_factory.mktemp

    def make(name):
        case, draw = FAMILIES[name]
        return transformers_models.pair(directory("saved"), transformers_models.random(case, **draw))

    return functools.cache(make)


def reference_tokens(found, text, settings):
    ids = torch.tensor([list(map(int, text.split()))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.reference.generation_config = transformers.GenerationConfig(**settings)
        out = found.reference.generate(ids, attention_mask=torch.ones_like(ids))[0].tolist()
    out = out[1 if found.config.settings.get("is_encoder_decoder") else ids.shape[1] :]
    ends = settings["eos_token_id"]
    ends = {ends} if isinstance(ends, int) else set(ends)
    n = next((i for i, token in enumerate(out) if token in ends), len(out))
    return out[:n]


def our_tokens(found, texts, settings):
    config = pretrained.CheckpointConfig(
        found.config.architecture, found.config.model, found.config.settings, settings
    )
    tokenizer = Numbers(found.config.model.vocab_size)
    generator = generate.TextGenerator(
        found.model, found.params, tokenizer, pretrained.to_generation_config(config)
    )
    written = generator.translate(texts) if generator.is_encoder_decoder else generator.write(texts, key=None)
    return [list(map(int, text.split())) for text in written]


DECODER = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 2}
ENCODER_DECODER = {**DECODER, "pad_token_id": 1, "decoder_start_token_id": 2}
T5_IDS = {"eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
BEAMS = {"num_beams": 3, "max_length": 10}
SETTINGS = {
    "gpt2: new tokens": ("gpt2", DECODER | {"max_new_tokens": 9, "min_new_tokens": 4}),
    "gpt2: no EOS": ("gpt2", DECODER | {"max_new_tokens": 9, "min_new_tokens": 9}),
    "gpt2: lengths with the prompt": ("gpt2", DECODER | {"max_length": 12, "min_length": 9}),
    "gpt2: by default": ("gpt2", DECODER),
    "gpt2: first and last": (
        "gpt2",
        DECODER
        | {"max_length": 11, "forced_bos_token_id": 6, "forced_eos_token_id": 2}
        | {"begin_suppress_tokens": [4, 7, 15, 17], "suppress_tokens": [8, 16]},
    ),
    "llama: several ends": ("llama", DECODER | {"eos_token_id": [2, 5, 7], "max_new_tokens": 9}),
    "llama: beams, penalty": (
        "llama",
        DECODER | BEAMS | {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "length_penalty": 0.5},
    ),
    "llama: bad words": (
        "llama",
        DECODER | {"max_new_tokens": 9, "bad_words_ids": [[2], [12], [3, 9], [1, 4]]},
    ),
    "t5: beams": ("t5", T5_IDS | BEAMS | {"length_penalty": 2.0}),
    "t5: beams that end early": ("t5", T5_IDS | BEAMS | {"early_stopping": True, "length_penalty": 2.0}),
    "t5: bad words, lengths": (
        "t5",
        T5_IDS | {"max_length": 8, "min_length": 4, "bad_words_ids": [[13], [2]]},
    ),
    "bart: as in summaries": (
        "bart",
        ENCODER_DECODER
        | {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "num_beams": 4, "early_stopping": True}
        | {"length_penalty": 2.0, "max_length": 12, "min_length": 6, "no_repeat_ngram_size": 2},
    ),
    "bart: greedy": (
        "bart",
        ENCODER_DECODER | {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "max_length": 9},
    ),
    "bart: beams never end early": (
        "bart",
        ENCODER_DECODER
        | BEAMS
        | {"early_stopping": "never", "begin_suppress_tokens": [4, 5, 9], "length_penalty": 1.5},
    ),
    "mbart: a language first": (
        "mbart",
        ENCODER_DECODER | BEAMS | {"forced_bos_token_id": 7, "min_new_tokens": 3},
    ),
    "marian: renormalized": (
        "marian",
        ENCODER_DECODER
        | {"bad_words_ids": [[1], [9]], "num_beams": 4, "max_length": 11, "renormalize_logits": True}
        | {"forced_eos_token_id": 2},
    ),
    "marian: negative penalty": (
        "marian",
        ENCODER_DECODER | BEAMS | {"length_penalty": -1.0, "min_new_tokens": 4},
    ),
}  # fmt: skip
# And each generating family without other settings.
PLAIN = {"greedy": {"max_new_tokens": 9}, "beams": {"max_new_tokens": 9, "num_beams": 3}}
IDS = {"t5": T5_IDS, **dict.fromkeys(("bart", "mbart", "marian"), ENCODER_DECODER)}
SETTINGS |= {
    f"{family}: plain {how}": (family, IDS.get(family, DECODER) | more)
    for family in FAMILIES
    for how, more in PLAIN.items()
}


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens(build, name):
    family, settings = SETTINGS[name]
    found = build(family)
    wanted = [reference_tokens(found, text, settings) for text in PROMPTS]
    assert our_tokens(found, PROMPTS, settings) == wanted
    assert len({tuple(x) for x in wanted}) > 1


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_early_stopping_of_beam_search(build, early_stopping):
    """Many sources, since most stop alike under every setting."""
    found = build("bart")
    settings = ENCODER_DECODER | {"num_beams": 3, "max_length": 13, "length_penalty": 3.0}
    rng = np.random.default_rng(5)
    texts = [" ".join(map(str, rng.integers(3, 18, n))) for n in rng.integers(2, 12, 24)]
    answers = {}
    for kind in (False, True, "never"):
        answers[kind] = our_tokens(found, texts, settings | {"early_stopping": kind})
    wanted = [reference_tokens(found, text, settings | {"early_stopping": early_stopping}) for text in texts]
    assert answers[early_stopping] == wanted
    assert all(answers[kind] != wanted for kind in answers if kind != early_stopping)


def test_sampling_distribution(build):
    """The random number generators differ, so distributions are compared."""
    settings = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 9,
        "top_p": 0.8,
        "min_p": 0.05,
        "repetition_penalty": 1.4,
    }
    config = pretrained.CheckpointConfig("GPT2LMHeadModel", build("gpt2").config.model, {}, settings)
    generation_config = pretrained.to_generation_config(config)
    assert generation_config.do_sample
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(6, 19)).astype(np.float32) * 3, rng.integers(0, 19, (6, 4))
    wanted = build("gpt2").reference._get_logits_processor(
        transformers.GenerationConfig(**settings), input_ids_seq_length=4, model_kwargs={}
    )(torch.tensor(tokens), torch.tensor(logits))
    room = np.concatenate([tokens, np.full((6, 3), -1)], 1).astype(np.int32)
    context = Context(jnp.asarray(room), jnp.int32(4), jnp.int32(0))
    got = apply_processors(generation_config.processors, jnp.asarray(logits), context)
    np.testing.assert_allclose(jax.nn.softmax(got), wanted.softmax(-1).numpy(), atol=1e-6)
    assert 1 < (np.asarray(got) > -np.inf).sum(-1).mean() < 9

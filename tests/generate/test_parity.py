"""Parity with Hugging Face ``transformers``: the same weights and prompts give the same tokens and scores.

Two differences of its ``generate``: it fills finished beams with EOS if pad is token 0 (``pad_after_eos``
removes that), and its processors treat the padding of prompts as tokens, so that padded prompts are compared
with the same prompts alone.
"""

import functools
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import generate, nn, pretrained
from tfm_jax.ops import masks

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

B, P, LENGTH = 5, 6, 9
LENGTHS = (6, 1, 4, 2, 5)  # of the prompts, where they are padded


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """torch: more threads only wait for each other at these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Family(NamedTuple):
    theirs: Any
    model: nn.Pure
    params: dict
    vocabulary: int
    eos_ids: tuple[int, ...]
    pad: int
    is_encoder_decoder: bool


def numpy(tensor):
    return tensor.detach().numpy()


def random(build, config, *, seed, std, table_std):
    """A random model without norm scales of 1 or biases of 0. Large parameters make the tokens vary."""
    torch.manual_seed(seed)
    theirs = build(config).eval()
    for name, parameter in theirs.named_parameters():
        if "embed_positions" in name:  # Marian's sines and cosines
            continue
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
        else:
            is_table = any(part in name for part in ("embed_tokens", "shared", "wte"))
            torch.nn.init.normal_(parameter, 0.0, table_std if is_table else std)
    return theirs


def load_ours(theirs, vocabulary: int, *, eos_ids: tuple[int, ...], pad: int) -> Family:
    """Loads our model from the saved checkpoint of theirs."""
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        model, params, _, _ = pretrained.load(directory)
    is_encoder_decoder = model.bind(params).is_encoder_decoder()
    return Family(theirs, model, params, vocabulary, eos_ids, pad, is_encoder_decoder)


def llama():
    D, N, K, H, F, L, V = 12, 6, 3, 4, 10, 2, 17
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        num_attention_heads=N,
        num_key_value_heads=K,
        head_dim=H,
        intermediate_size=F,
        num_hidden_layers=L,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    theirs = random(transformers.LlamaForCausalLM, config, seed=3, std=0.6, table_std=0.6)
    return load_ours(theirs, V, eos_ids=(7, 8), pad=0)


def gpt2():
    D, N, L, V = 15, 3, 2, 19
    n_positions = P + LENGTH - 1  # the last token is not read
    config = transformers.GPT2Config(
        vocab_size=V,
        n_embd=D,
        n_head=N,
        n_layer=L,
        n_inner=22,
        n_positions=n_positions,
        bos_token_id=0,
        eos_token_id=2,
        attn_implementation="eager",
    )
    theirs = random(transformers.GPT2LMHeadModel, config, seed=3, std=0.8, table_std=0.2)
    return load_ours(theirs, V, eos_ids=(2,), pad=2)


def t5():
    # The cache of T5 in transformers has as many layers as the encoder.
    D, N, H, F, L, L_decoder, V = 12, 3, 5, 14, 2, 1, 16
    config = transformers.T5Config(
        vocab_size=V,
        d_model=D,
        num_heads=N,
        d_kv=H,
        d_ff=F,
        num_layers=L,
        num_decoder_layers=L_decoder,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=7,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    theirs = random(transformers.T5ForConditionalGeneration, config, seed=7, std=0.8, table_std=0.6)
    return load_ours(theirs, V, eos_ids=(13,), pad=0)


def marian():
    D, N, F, L, L_decoder, V = 12, 3, 16, 1, 2, 18
    config = transformers.MarianConfig(
        vocab_size=V,
        d_model=D,
        encoder_layers=L,
        decoder_layers=L_decoder,
        encoder_attention_heads=N,
        decoder_attention_heads=N,
        encoder_ffn_dim=F,
        decoder_ffn_dim=F,
        activation_function="swish",
        scale_embedding=True,
        max_position_embeddings=P + LENGTH,
        pad_token_id=V - 1,
        decoder_start_token_id=V - 1,
        eos_token_id=8,
        forced_eos_token_id=None,  # by default the last token is forced to be EOS
        attn_implementation="eager",
    )
    theirs = random(transformers.MarianMTModel, config, seed=9, std=0.4, table_std=0.4)
    return load_ours(theirs, V, eos_ids=(8,), pad=V - 1)


build = functools.cache(lambda make: make())
families = pytest.mark.parametrize("make", [llama, gpt2, t5, marian])
paddings = pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])


def inputs(family: Family, padded: bool):
    """Prompts (left-padded) or sources (right-padded) [B, P], and their valid tokens."""
    rng = np.random.default_rng(1)
    words = [i for i in range(family.vocabulary) if i not in (*family.eos_ids, family.pad)]
    tokens = rng.choice(words, (B, P))
    if not padded:
        return tokens, np.ones_like(tokens, bool)
    valid = np.arange(P) < np.array(LENGTHS)[:, None]
    valid = valid if family.is_encoder_decoder else np.fliplr(valid).copy()
    return np.where(valid, tokens, family.pad), valid


def our_options(family: Family, valid):
    mask = masks.padding(jnp.asarray(valid)) if family.is_encoder_decoder else jnp.asarray(valid)
    return {
        ("source_mask" if family.is_encoder_decoder else "valid"): mask,
        "max_length": LENGTH,
        "eos_id": family.eos_ids,
        "pad_id": family.pad,
        "bos_id": family.pad,
    }


def run_theirs(family: Family, tokens, valid, **options):
    """Their output, and its tokens [n, LENGTH] without the prompt."""
    output = family.theirs.generate(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(valid, dtype=torch.long),
        max_new_tokens=LENGTH,
        do_sample=False,
        eos_token_id=list(family.eos_ids),
        pad_token_id=family.pad,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    prompt = 1 if family.is_encoder_decoder else tokens.shape[1]
    return output, pad_after_eos(output.sequences[:, prompt:].numpy(), family)


def pad_after_eos(tokens, family: Family):
    """Tokens [n, LENGTH], padded after EOS."""
    full = np.full((len(tokens), LENGTH), family.pad)
    for output, out in zip(tokens, full, strict=True):
        eos_at = np.flatnonzero(np.isin(output, family.eos_ids))
        n = eos_at[0] + 1 if len(eos_at) else len(output)
        assert len(eos_at) or n == LENGTH
        out[:n] = output[:n]
    return full


def check_varied(tokens, family: Family):
    """The outputs differ, and some end early while others do not end."""
    ended = np.isin(tokens, family.eos_ids)
    assert ended[:, :-1].any() and not ended.any(-1).all()
    assert len(np.unique(tokens, axis=0)) > 2


@families
def test_logits(make):
    family = build(make)
    tokens, valid = inputs(family, family.is_encoder_decoder)
    ids = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(valid, dtype=torch.long)}
    if family.is_encoder_decoder:
        target = np.random.default_rng(2).integers(0, family.vocabulary, (B, 4))
        wanted = family.theirs(**ids, decoder_input_ids=torch.tensor(target)).logits
        mask = masks.padding(jnp.asarray(valid))
        got = jax.jit(family.model.apply)(family.params, tokens, target, source_mask=mask)
    else:
        wanted = family.theirs(**ids).logits
        got = jax.jit(family.model.apply)(family.params, tokens)
    assert np.ptp(numpy(wanted)) > 1
    np.testing.assert_allclose(got, numpy(wanted), rtol=1e-4, atol=1e-4)


@families
@paddings
def test_greedy(make, padded):
    family = build(make)
    tokens, valid = inputs(family, padded)
    _, wanted = run_theirs(family, tokens, valid)
    got = generate.greedy(family.model, family.params, jnp.asarray(tokens), **our_options(family, valid))
    np.testing.assert_array_equal(got.tokens, wanted)
    check_varied(wanted, family)


def no_penalty(lengths):
    return jnp.ones(lengths.shape)


def by_length(lengths):
    return lengths.astype(jnp.float32)


def both_beams(family: Family, tokens, valid, penalty: float, ours: dict, theirs: dict):
    """Compares tokens and scores of the four best outputs; returns the tokens."""
    output, wanted = run_theirs(
        family,
        tokens,
        valid,
        num_beams=4,
        num_return_sequences=4,
        early_stopping="never",
        length_penalty=penalty,
        **theirs,
    )
    got = generate.beam_search(
        family.model,
        family.params,
        jnp.asarray(tokens),
        beams=4,
        n_best=4,
        length_penalty={0.0: no_penalty, 1.0: by_length}[penalty],
        **our_options(family, valid),
        **ours,
    )
    scores = output.sequences_scores.numpy()
    np.testing.assert_allclose(got.scores.ravel(), scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got.tokens.reshape(-1, LENGTH), wanted)
    return wanted


@families
@paddings
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams(make, padded, penalty):
    family = build(make)
    check_varied(both_beams(family, *inputs(family, padded), penalty, {}, {}), family)


# Theirs, ours, and our min_length: theirs counts the tokens before EOS, ours counts EOS too.
REPETITION = {"repetition_penalty": 1.7}, (generate.RepetitionPenalty(1.7),), 0
NGRAM = {"no_repeat_ngram_size": 2}, (generate.NoRepeatNgram(2),), 0
MIN_LENGTH = {"min_new_tokens": 6}, (), 7
ALL = (
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
    (generate.RepetitionPenalty(1.2), generate.NoRepeatNgram(2)),
    7,
)


@pytest.mark.parametrize(
    ("make", "options"),
    [(llama, REPETITION), (gpt2, NGRAM), (t5, MIN_LENGTH), (gpt2, ALL), (marian, ALL)],
)
def test_processors(make, options):
    theirs, ours, min_length = options
    family = build(make)
    tokens, valid = inputs(family, True)
    # Each prompt alone and without its padding, which theirs would treat as tokens.
    pairs = zip(tokens, valid, strict=True)
    alone = [run_theirs(family, x[ok][None], ok[ok][None], **theirs)[1][0] for x, ok in pairs]
    got = generate.greedy(
        family.model,
        family.params,
        jnp.asarray(tokens),
        min_length=min_length,
        processors=ours,
        **our_options(family, valid),
    )
    np.testing.assert_array_equal(got.tokens, alone)
    _, plain = run_theirs(family, tokens, valid)
    assert (plain != np.array(alone)).any()


def test_processors_in_beams():
    theirs, ours, min_length = ALL
    family = build(t5)
    tokens, valid = inputs(family, True)
    plain = both_beams(family, tokens, valid, 1.0, {}, {})
    changed = both_beams(family, tokens, valid, 1.0, {"processors": ours, "min_length": min_length}, theirs)
    assert (plain != changed).any()

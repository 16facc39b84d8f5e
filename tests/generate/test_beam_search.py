"""Beam search against exhaustive search and a reference loop."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.generate.models import V, build, config, count_compilations, log_probs, tokens
from tests.marks import slow, slow_but
from tfm_jax import generate, nn
from tfm_jax.ops import masks

M, EOS = 3, 2
PROMPT = tokens(2, 4)


def beam_config(max_length, beams, **fields):
    return config(max_length, beams=beams, **{"length_penalty": 0.6, **fields})


def penalty(alpha, n):
    return ((5 + n) / 6) ** alpha


@functools.cache
def every_output(b, eos_ids=(EOS,)):
    """All outputs of at most M tokens after a prompt, with their log-probabilities."""
    model, params = build(nn.Decoder)
    outputs = np.array(list(itertools.product(range(V), repeat=M)))
    found = {}
    for output, scores in zip(outputs, log_probs(model, params, PROMPT[b], outputs), strict=True):
        n = next((i + 1 for i, token in enumerate(output) if token in eos_ids), M)
        found[tuple(output[:n].tolist())] = float(scores[:n].sum())
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.6, *slow(2.0, -1.0)])
def test_exhaustive_beams_find_the_best_of_all_outputs(alpha):
    model, params = build(nn.Decoder)
    wide = beam_config(M, V**M, n_best=5, length_penalty=alpha)
    got = generate.beam_search(model, params, PROMPT, wide)
    for b in range(2):
        outputs = every_output(b)

        def score(y, outputs=outputs):
            return outputs[y] / penalty(alpha, len(y))

        best = sorted(outputs, key=score, reverse=True)[:5]
        for i, output in enumerate(best):
            n = len(output)
            assert got.lengths[b, i] == n
            np.testing.assert_array_equal(got.tokens[b, i], [*output, *[0] * (M - n)])
            np.testing.assert_allclose(got.scores[b, i], score(output), rtol=1e-4)
            np.testing.assert_allclose(got.log_probs[b, i], outputs[output], rtol=1e-4)
    lengths_differ = len({int(n) for n in np.ravel(got.lengths)}) > 1
    assert lengths_differ or alpha == 2.0, "outputs of one length do not test the penalty"


def test_several_eos_ids():
    model, params = build(nn.Decoder)
    wide = beam_config(M, V**M, n_best=4, length_penalty=0.0, eos_ids=(2, 5))
    got = generate.beam_search(model, params, PROMPT[:1], wide)
    outputs = every_output(0, (2, 5))
    best = sorted(outputs, key=outputs.get, reverse=True)[:4]
    np.testing.assert_allclose(got.scores[0], [outputs[y] for y in best], rtol=1e-4)


def reference_beam_search(prompt, beams, length, alpha, eos_ids=(EOS,)):
    """The loop of the docstring for one prompt, without early stopping."""
    model, params = build(nn.Decoder)
    live, finished = {(): 0.0}, {}
    for n in range(1, length + 1):
        outputs = [[*y, token] for y in live for token in range(V)]
        last = log_probs(model, params, prompt, outputs)[:, -1]
        grown = {tuple(y): live[tuple(y[:-1])] + float(p) for y, p in zip(outputs, last, strict=True)}
        best = sorted(grown, key=grown.get, reverse=True)
        finished |= {y: grown[y] / penalty(alpha, n) for y in best[:beams] if y[-1] in eos_ids}
        live = {y: grown[y] for y in [y for y in best if y[-1] not in eos_ids][:beams]}
    finished |= {y: p / penalty(alpha, length) for y, p in live.items()}
    return sorted(finished.items(), key=lambda item: item[1], reverse=True)


@pytest.mark.parametrize(
    ("beams", "alpha", "eos_ids"),
    [
        (1, 0.6, (2,)),
        (3, 0.6, (2, 5, 7)),
        (4, 1.5, (2, 5, 7)),
        (3, 2.5, (2, 4, 5, 7, 8)),
        (3, -2.0, (2, 4, 5)),
    ],
)
def test_narrow_beams_equal_the_reference_loop(beams, alpha, eos_ids):
    model, params = build(nn.Decoder)
    prompts = tokens(10, 3, seed=5)
    narrow = beam_config(5, beams, n_best=beams, length_penalty=alpha, eos_ids=eos_ids)
    got = generate.beam_search(model, params, prompts, narrow)
    for b, prompt in enumerate(prompts):
        wanted = reference_beam_search(prompt, beams, 5, alpha, eos_ids)[:beams]
        np.testing.assert_allclose(got.scores[b], [score for _, score in wanted], rtol=1e-4)
        for i, (output, _) in enumerate(wanted):
            np.testing.assert_array_equal(got.tokens[b, i, : len(output)], output)


@pytest.mark.parametrize("eos_ids", [(2,), (2, 5, 7)])
def test_early_stopping_is_exact(eos_ids):
    # With this penalty longer outputs often overtake those that ended first.
    model, params = build(nn.Decoder)
    prompts = tokens(12, 3, seed=4)
    three = beam_config(7, 3, length_penalty=3.0, eos_ids=eos_ids)
    search = functools.partial(generate.beam_search, model, params, config=three)
    got = search(prompts)
    for b, prompt in enumerate(prompts):
        output, score = reference_beam_search(prompt, 3, 7, 3.0, eos_ids)[0]
        alone = search(prompt[None])
        for found in (np.asarray(got.tokens[b, 0]), np.asarray(alone.tokens[0, 0])):
            np.testing.assert_array_equal(found, [*output, *[0] * (7 - len(output))])
        np.testing.assert_allclose([got.scores[b, 0], alone.scores[0, 0]], score, rtol=1e-4)


def test_one_beam_with_a_window_is_greedy():
    model, params = build(nn.Decoder, window=3)
    got = generate.beam_search(model, params, PROMPT, beam_config(6, 1))
    np.testing.assert_array_equal(got.tokens[:, 0], generate.greedy(model, params, PROMPT, config(6)).tokens)


def test_length_penalties_share_a_compilation():
    model, params = build(nn.Decoder)

    def search(penalty):
        generate.beam_search(model, params, PROMPT, beam_config(3, 2, length_penalty=penalty))

    search(0.6)
    with jax.log_compiles(True), count_compilations() as compiled:
        search(0.7)
        search(lambda n: n.astype(jnp.float32))
    assert not [name for name in compiled if "search" in name]


def test_log_probs_are_clipped_to_0_after_processors():
    model, params = build(nn.Decoder)
    raised = beam_config(5, 3, processors=(generate.FrequencyPenalty(-5.0),))
    got = generate.beam_search(model, params, PROMPT, raised)
    assert (got.log_probs <= 0).all()


FIELDS = {
    "window, grouped": {"window": 3, "n_kv_heads": 1, "positions": nn.Rope()},
    "alibi": {"positions": nn.Alibi()},
    "learned": {"positions": nn.Learned(20)},
}


@pytest.mark.parametrize("name", slow_but(["window, grouped"], FIELDS))
def test_scores_are_those_of_a_forward_pass_over_the_output(name):
    fields = FIELDS[name]
    model, params = build(nn.Decoder, **fields)
    got = generate.beam_search(model, params, PROMPT, beam_config(6, 3, n_best=3))
    for b in range(2):
        for i in range(3):
            n = int(got.lengths[b, i])
            wanted = log_probs(model, params, PROMPT[b], got.tokens[b, i : i + 1, :n]).sum()
            np.testing.assert_allclose(got.log_probs[b, i], wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(got.scores[b, i], wanted / penalty(0.6, n), rtol=1e-4, atol=1e-5)


def test_batched_sources_equal_each_alone():
    model, params = build(nn.EncoderDecoder)
    source, lengths = tokens(3, 5), [5, 3, 4]
    valid = jnp.arange(5)[None] < jnp.array(lengths)[:, None]
    search = functools.partial(generate.beam_search, model, params, config=beam_config(6, 3, n_best=2))
    got = search(source, source_mask=masks.padding(valid))
    for b, n in enumerate(lengths):
        alone = search(source[b : b + 1, :n])
        np.testing.assert_array_equal(got.tokens[b], alone.tokens[0])
        np.testing.assert_allclose(got.scores[b], alone.scores[0], rtol=1e-4)
        found = got.tokens[b, 0, : int(got.lengths[b, 0])]
        wanted = log_probs(model, params, [1], found[None], source[b, :n]).sum()
        np.testing.assert_allclose(got.log_probs[b, 0], wanted, rtol=1e-4)


def test_padded_prompts_equal_each_alone():
    model, params = build(nn.Decoder)
    prompts, valid = tokens(2, 4), jnp.array([[False, True, True, True], [True, True, False, False]])
    search = functools.partial(generate.beam_search, model, params, config=beam_config(5, 3))
    got = search(prompts, valid=valid)
    for b in range(2):
        alone = search(prompts[b][np.asarray(valid[b])][None])
        np.testing.assert_array_equal(got.tokens[b], alone.tokens[0])
        np.testing.assert_allclose(got.scores[b], alone.scores[0], rtol=1e-4)


def test_processors_and_min_length():
    model, params = build(nn.Decoder)
    once = beam_config(6, 3, n_best=3, min_length=4, processors=(generate.NoRepeatNgram(1),))
    got = generate.beam_search(model, params, PROMPT, once)
    assert (got.lengths >= 4).all()
    for b in range(2):
        for output in np.asarray(got.tokens[b]):
            prompt, output = np.asarray(PROMPT[b]).tolist(), output[output != 0].tolist()
            assert len(set(output)) == len(output) and not set(output) & set(prompt)


def test_beams_beyond_the_number_of_outputs_are_empty():
    model, params = build(nn.Decoder)
    got = generate.beam_search(model, params, PROMPT, beam_config(1, 12, n_best=12))
    assert np.isfinite(got.scores[:, :V]).all() and np.isneginf(got.scores[:, V:]).all()
    assert (got.lengths[:, V:] == 0).all() and (got.tokens[:, V:] == 0).all()
    for eos_ids, pad in (((2, 5), 2), ((), -1)):
        free = beam_config(1, 12, n_best=12, eos_ids=eos_ids, pad_id=None)
        assert (generate.beam_search(model, params, PROMPT, free).tokens[:, V:] == pad).all()


def test_nan_logits_give_minus_1():
    model, params = build(nn.Decoder)
    for bad in (PROMPT.at[0, 1].set(50), PROMPT.at[0, 3].set(-7)):
        got = generate.beam_search(model, params, bad, beam_config(4, 3))
        assert (got.tokens[0] == -1).all() and np.isnan(got.scores[0]).all()
    prompt = PROMPT.at[0, 1].set(50)
    got = generate.beam_search(model, params, prompt, beam_config(4, 3))
    assert (got.tokens[0] == -1).all() and np.isnan(got.scores[0]).all()
    alone = generate.beam_search(model, params, prompt[1:], beam_config(4, 3))
    np.testing.assert_array_equal(got.tokens[1], alone.tokens[0])


def test_inside_shard_map():
    model, params = build(nn.EncoderDecoder)
    source = tokens(4, 5)
    search = functools.partial(generate.beam_search, model, config=beam_config(4, 2))
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(search, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(sharded)(params, source).tokens, search(params, source).tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"length_penalty": 1e30},
            "got a length_penalty that returns inf for outputs of length 2; wanted posit",
        ),
        (
            {"length_penalty": lambda n: -n.astype(jnp.float32)},
            "returns -1.0 for outputs of length 1; wanted positive, finite",
        ),
        (
            {"length_penalty": lambda n: 2.0},
            r"beam_search: got length_penalty float32\[\]; wanted .* It maps lengths to divisors",
        ),
        (
            {"do_sample": True},
            "beam_search: got do_sample=True; wanted do_sample=False. For sampling call",
        ),
    ],
)
def test_bad_options(options, message):
    model, params = build(nn.Decoder)
    with pytest.raises(ValueError, match=message):
        generate.beam_search(model, params, PROMPT, beam_config(6, 4, **options))


def test_memory_mask_of_other_kinds():
    model, params = build(nn.EncoderDecoder)
    for mask, got in ((masks.causal(), r"causal\(\)"), (jnp.ones((6, 5), bool), "an array")):
        with pytest.raises(ValueError, match=rf"got memory_mask={got}; wanted masks.padding\(valid\)"):
            generate.beam_search(model, params, tokens(3, 5), beam_config(6, 2), memory_mask=mask)

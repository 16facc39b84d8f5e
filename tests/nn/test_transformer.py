"""The models: who sees whom, and that every way of running them gives the same numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests import parameters
from tests.marks import slow, slow_but
from tfm_jax import nn
from tfm_jax.ops import masks

V, D, N, F, L, B, T, S = 13, 12, 2, 10, 3, 2, 5, 7
TINY = nn.Config(vocab_size=V, d_model=D, n_heads=N, d_ff=F, n_layers=L)
POSITIONS = {
    "none": None,
    "sinusoidal": nn.Sinusoidal(),
    "half": nn.Sinusoidal(pairing="half"),
    "learned": nn.Learned(max_length=9),
    "rope": nn.Rope(),
    "alibi": nn.Alibi(),
    "relative": nn.RelativeBias(buckets=6, max_distance=8),
}
VARIANTS = {
    **{name: {"positions": value} for name, value in POSITIONS.items()},
    "post": {"norm_placement": "post", "final_norm": False},
    "parallel": {"norm_placement": "parallel", "positions": nn.Rope(fraction=0.7)},
    "rms-glu-gqa": {"norm": nn.RMSNorm(), "feed_forward": nn.Glu(), "n_kv_heads": 1},
    "untied-biased": {"tie_embeddings": False, "attention_bias": True, "head_dim": 5},
    "normed-scaled": {
        "qk_norm": True,
        "embedding_norm": True,
        "attention_scale": 1.0,
        "attention_output_bias": True,
        "logits_scale": 0.5,
        "logits_bias": True,
    },
}


@functools.cache
def build(module, **fields):
    model = nn.functionalize(module, dataclasses.replace(TINY, **fields))
    return model, parameters.draw(model)


@functools.cache
def compiled(model):
    return jax.jit(model.apply, static_argnames=("method", "return_weights"))


def run(model, params, *args, **kwargs):
    return compiled(model)(params, *args, **kwargs)


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


def close(got, wanted, tolerance=1e-5):
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance), got, wanted)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_runs_in_every_model(fields):
    # Shapes and dtypes need no compilation; that the numbers are right is the other tests' matter.
    def out(module, *inputs, fields=fields):
        model = nn.functionalize(module, dataclasses.replace(TINY, **fields))
        params = jax.eval_shape(model.init, jax.random.key(0))
        return jax.eval_shape(model.apply, params, *inputs)

    without_logits = {name: x for name, x in fields.items() if not name.startswith("logits")}
    assert out(nn.Encoder, tokens(B, T), fields=without_logits).shape == (B, T, D)
    for logits in (out(nn.Decoder, tokens(B, T)), out(nn.EncoderDecoder, tokens(B, S), tokens(B, T))):
        assert logits.shape == (B, T, V) and logits.dtype == jnp.float32


@pytest.mark.parametrize("module", [nn.Encoder, functools.partial(nn.Classifier, n_classes=3)])
def test_a_window_is_refused_where_it_would_do_nothing(module):
    with pytest.raises(ValueError, match="window is of decoders; pass an Encoder a mask"):
        nn.functionalize(module, dataclasses.replace(TINY, window=3))


@pytest.mark.parametrize("fields", [{"logits_scale": 0.5}, {"logits_bias": True}], ids=str)
@pytest.mark.parametrize("module", [nn.Encoder, nn.MaskedLanguageModel])
def test_what_is_of_a_decoders_logits_is_refused_elsewhere(module, fields):
    with pytest.raises(ValueError, match="are of the logits of decoders; an Encoder has none"):
        nn.functionalize(module, dataclasses.replace(TINY, **fields))


@pytest.mark.parametrize("name", slow_but(["relative", "rms-glu-gqa"], VARIANTS))
def test_the_implementation_that_a_config_names_is_the_one_that_runs(name):
    fields = VARIANTS[name]

    def out(implementation):
        model = nn.functionalize(
            nn.Decoder, dataclasses.replace(TINY, **fields, attention_implementation=implementation)
        )
        return run(model, build(nn.Decoder, **fields)[1], tokens(B, T))

    close(out("chunked"), out("reference"))
    with pytest.raises(ValueError, match="implementation='splash', which does not support this call"):
        out("splash")


@pytest.mark.parametrize("name", slow_but(["learned", "relative", "post", "rms-glu-gqa"], VARIANTS))
def test_a_decoder_sees_nothing_of_the_future(name):
    fields = VARIANTS[name]
    config = dataclasses.replace(TINY, **fields)
    stack = nn.functionalize(nn.DecoderStack, config, cross_attention=False)
    params = build(nn.Decoder, **fields)[1]["stack"]
    jacobian = jax.jit(jax.jacobian(lambda x: stack.apply(params, x, masks.causal())[0]))(
        jax.random.normal(jax.random.key(0), (T, D))
    )  # [T, D, T, D]
    influence = jnp.abs(jacobian).sum((1, 3))
    np.testing.assert_array_equal(np.triu(influence, 1), 0.0)
    assert (np.asarray(influence)[np.tril_indices(T)] > 0).all()


@pytest.mark.parametrize("name", slow_but(["relative", "post", "rms-glu-gqa"], VARIANTS))
def test_padding_changes_nothing(name):
    fields = VARIANTS[name]
    model, params = build(nn.EncoderDecoder, **fields)
    source, target = tokens(B, S), tokens(B, T, seed=1)
    valid = jnp.arange(S)[None] < jnp.array([[4], [6]])
    logits = run(model, params, source, target, source_mask=masks.padding(valid))
    other = jnp.where(valid, source, (source + 1) % V)
    np.testing.assert_array_equal(logits, run(model, params, other, target, source_mask=masks.padding(valid)))
    alone = run(model, params, source[0, :4], target[0])
    close(logits[0], alone)


@pytest.mark.parametrize("name", ["learned", "rope", "relative", *slow("sinusoidal", "alibi")])
def test_packed_documents_equal_each_alone(name):
    model, params = build(nn.Decoder, positions=POSITIONS[name])
    first, second = tokens(3, seed=1), tokens(4, seed=2)
    ids = jnp.array([1, 1, 1, 2, 2, 2, 2])
    positions = jnp.concatenate([jnp.arange(3), jnp.arange(4)])
    packed = run(model, params, jnp.concatenate([first, second]), masks.segments(ids), positions=positions)
    close(packed[:3], run(model, params, first))
    close(packed[3:], run(model, params, second))


def test_without_positions_order_does_not_matter_and_with_them_it_does():
    order = jnp.array([3, 0, 4, 1, 2])
    x = tokens(T)
    model, params = build(nn.Encoder, positions=None)
    close(run(model, params, x[order]), run(model, params, x)[order])
    for name in ("sinusoidal", "learned", "rope", "alibi", "relative"):
        model, params = build(nn.Encoder, positions=POSITIONS[name])
        assert not np.allclose(run(model, params, x[order]), run(model, params, x)[order], atol=1e-3), name


def test_the_same_token_in_another_context_gets_another_vector():
    model, params = build(nn.Encoder)
    one = run(model, params, jnp.array([1, 2, 3, 4]))[0]
    other = run(model, params, jnp.array([1, 5, 6, 7]))[0]
    assert not np.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("fields", [{"unroll": True}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_unrolled_and_rematerialized_equal_scanned(fields):
    x = tokens(B, T)
    model, params = build(nn.Decoder, dropout_rate=0.3)
    other, _ = build(nn.Decoder, dropout_rate=0.3, **fields)

    def loss(model):
        return lambda p: jnp.sum(run(model, p, x, key=jax.random.key(1)) ** 2)

    close(
        jax.jit(jax.value_and_grad(loss(other)))(params),
        jax.jit(jax.value_and_grad(loss(model)))(params),
        2e-5,
    )


def test_jit_and_vmap_equal_eager_and_batch():
    model, params = build(nn.EncoderDecoder)
    source, target = tokens(B, S), tokens(B, T)
    batch = run(model, params, source, target)
    close(model.apply(params, source, target), batch)
    close(jax.jit(jax.vmap(model.apply, in_axes=(None, 0, 0)))(params, source, target), batch)
    close(run(model, params, source[1], target[1]), batch[1])
    close(run(model, params, source[None], target[None]), batch[None])


def test_several_seeds_at_once():
    model, _ = build(nn.Decoder)
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(model.init))(keys)
    x = tokens(T)
    outputs = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(many, x)
    close(outputs[1], run(model, jax.jit(model.init)(keys[1]), x))
    assert not np.allclose(outputs[0], outputs[1], atol=1e-2)


def test_layers_start_different():
    model, _ = build(nn.Decoder)
    params = jax.jit(model.init)(jax.random.key(3))
    kernel = params["stack"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.shape == (L, D, N, D // N)
    assert not np.allclose(kernel[0], kernel[1], atol=1e-2)


def test_weights_are_an_output_layer_by_head():
    model, params = build(nn.EncoderDecoder)
    source, target = tokens(B, S), tokens(B, T)
    valid = jnp.arange(S)[None] < jnp.array([[4], [6]])
    mask = masks.padding(valid)
    logits, weights = run(model, params, source, target, source_mask=mask, return_weights=True)
    np.testing.assert_array_equal(logits, run(model, params, source, target, source_mask=mask))
    assert weights["encoder"].shape == (L, B, N, S, S)
    assert weights["decoder"].shape == (L, B, N, T, T)
    assert weights["cross"].shape == (L, B, N, T, S)
    for w in weights.values():
        np.testing.assert_allclose(w.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(weights["cross"][:, 0, :, :, 4:], 0.0)
    np.testing.assert_array_equal(np.triu(weights["decoder"], 1), 0.0)
    model, params = build(nn.Encoder)
    assert run(model, params, source, return_weights=True)[1]["encoder"].shape == (L, B, N, S, S)
    model, params = build(nn.Decoder)
    assert run(model, params, source, return_weights=True)[1]["decoder"].shape == (L, B, N, S, S)


def test_dropout_needs_a_key_and_obeys_it():
    for name in ("dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate"):
        model, params = build(nn.EncoderDecoder, **{name: 0.4})
        source, target = tokens(B, S), tokens(B, T)
        clean = run(build(nn.EncoderDecoder)[0], params, source, target)
        np.testing.assert_array_equal(run(model, params, source, target), clean)
        one = run(model, params, source, target, key=jax.random.key(1))
        np.testing.assert_array_equal(one, run(model, params, source, target, key=jax.random.key(1)))
        assert not np.allclose(one, run(model, params, source, target, key=jax.random.key(2)), atol=1e-3)
        assert not np.allclose(one, clean, atol=1e-3)


@pytest.mark.parametrize(
    "rates, wanted", [((0.0, 0.5), {0.0, 2.0}), ((0.5, 0.0), {1.0}), ((0.5, None), {0.0, 2.0})]
)
def test_dropout_of_the_embeddings_has_a_rate_of_its_own(rates, wanted):
    rates = dict(zip(("dropout_rate", "embedding_dropout_rate"), rates, strict=True))
    config = dataclasses.replace(TINY, n_layers=1, final_norm=False, positions=None, **rates)
    stack = nn.functionalize(nn.EncoderStack, config)
    params = jax.tree.map(jnp.zeros_like, jax.jit(stack.init)(jax.random.key(0)))  # layers that add nothing
    out, _ = stack.apply(params, jnp.ones((9, D)), key=jax.random.key(5))
    assert set(np.unique(out)) == wanted


def test_layers_draw_different_dropout():
    stack = nn.functionalize(nn.EncoderStack, dataclasses.replace(TINY, n_layers=2, dropout_rate=0.5))
    params = jax.jit(stack.init)(jax.random.key(0))
    # Two layers with the same parameters: only their dropout can tell them apart.
    params["layers"] = jax.tree.map(lambda p: jnp.stack([p[0], p[0]]), params["layers"])
    biased = params["layers"]["feed_forward"]["b_out"] + 1.0
    params["layers"]["feed_forward"]["b_out"] = biased
    params["layers"]["feed_forward"]["w_out"] = jnp.zeros_like(params["layers"]["feed_forward"]["w_out"])
    params["layers"]["attention"]["output"]["kernel"] = jnp.zeros((2, N, D // N, D))
    params["norm"]["scale"] = jnp.ones(D)
    no_norm = nn.functionalize(
        nn.EncoderStack,
        dataclasses.replace(TINY, n_layers=2, dropout_rate=0.5, final_norm=False, positions=None),
    )
    params = {"layers": params["layers"]}
    out, _ = no_norm.apply(params, jnp.zeros((40, D)), key=jax.random.key(5))
    # Each layer adds 0 or 2; were the masks the same, only 0 and 4 would come out.
    assert set(np.unique(np.round(out, 4))) == {0.0, 2.0, 4.0}


def test_tied_embeddings_gather_both_gradients():
    model, params = build(nn.Decoder)
    x = tokens(T)
    untied, split = build(nn.Decoder, tie_embeddings=False)
    table = params["embedding"]["table"]
    split = {**params, "head": {"projection": {"kernel": table.T}}}
    weights = jax.random.normal(jax.random.key(0), (T, V))
    gradient = jax.jit(jax.grad(lambda p: (run(model, p, x) * weights).sum()))(params)
    apart = jax.jit(jax.grad(lambda p: (run(untied, p, x) * weights).sum()))(split)
    both = apart["embedding"]["table"] + apart["head"]["projection"]["kernel"].T
    close(gradient["embedding"]["table"], both)
    close(
        run(model, params, run(model, params, x, method="hidden"), method="unembed"),
        run(model, params, x, method="hidden") @ run(model, params, method="unembedding"),
    )


def test_bfloat16_activations_float32_logits():
    model, params = build(nn.EncoderDecoder, dtype="bfloat16")
    source, target = tokens(B, S), tokens(B, T)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert run(model, params, source, method="encode").dtype == jnp.bfloat16
    logits = run(model, params, source, target)
    assert logits.dtype == jnp.float32
    close(logits, run(build(nn.EncoderDecoder)[0], params, source, target), 0.1)


@given(st.integers(0, 2**31 - 1))
def test_scaling_and_sharing_of_embeddings(seed):
    x = jnp.asarray(np.random.default_rng(seed).integers(0, V, 4), jnp.int32)
    model = nn.functionalize(nn.Embedding, TINY)
    params = {"table": jax.random.normal(jax.random.key(seed), (V, D))}
    close(run(model, params, x), params["table"][x] * np.float32(np.sqrt(D)))
    plain = nn.functionalize(nn.Embedding, dataclasses.replace(TINY, scale_embeddings=False))
    np.testing.assert_array_equal(plain.apply(params, x), params["table"][x])


def test_who_owns_a_table():
    names = lambda **fields: set(build(nn.EncoderDecoder, **fields)[1])
    assert names() == {"embedding", "encoder", "decoder"}
    assert names(share_embeddings=False) == {"embedding", "source_embedding", "encoder", "decoder"}
    assert names(tie_embeddings=False) == {"embedding", "encoder", "decoder", "head"}
    model, params = build(nn.EncoderDecoder, share_embeddings=False)
    assert run(model, params, tokens(S), tokens(T)).shape == (T, V)


def test_encoder_and_decoder_may_differ_in_depth():
    _, params = build(nn.EncoderDecoder, n_decoder_layers=2)
    depth = lambda side: params[side]["layers"]["feed_forward"]["w_in"].shape[0]
    assert (depth("encoder"), depth("decoder")) == (L, 2)


def test_remat_and_unroll_change_the_program():
    def primitives(**fields):
        model, params = build(nn.Decoder, **fields)
        loss = lambda p: model.apply(p, tokens(T)).sum()
        return str(jax.make_jaxpr(jax.grad(loss))(params))

    assert "remat" not in primitives() and " scan[" in primitives()
    assert "unroll=1\n" in primitives() and f"unroll={L}\n" in primitives(unroll=True)
    assert "nothing_saveable" in primitives(remat="full")
    assert "no_batch_dims" in primitives(remat="dots")


def test_a_prefix_language_model_sees_its_prefix():
    model, params = build(nn.Decoder)
    x, changed = tokens(T), tokens(T).at[2].add(1)
    prefix = masks.causal() | masks.prefix(3)
    first = lambda tokens, **mask: run(model, params, tokens % V, **mask)[0]
    assert not np.allclose(first(x, causal=prefix), first(changed, causal=prefix), atol=1e-4)
    np.testing.assert_array_equal(first(x), first(changed))
    with pytest.raises(ValueError, match="a prefix would open nothing"):
        model.apply(params, x, prefix)


def test_a_packed_row_may_be_longer_than_a_learned_table():
    model, params = build(nn.Decoder, positions=nn.Learned(max_length=4))
    one, two = tokens(4, seed=1), tokens(3, seed=2)
    packed = run(
        model,
        params,
        jnp.concatenate([one, two]),
        masks.segments(jnp.array([1, 1, 1, 1, 2, 2, 2])),
        positions=jnp.array([0, 1, 2, 3, 0, 1, 2]),
    )
    close(packed[4:], run(model, params, two))


def test_packed_pairs_equal_each_alone():
    model, params = build(nn.EncoderDecoder)
    pairs = [(tokens(3, seed=1), tokens(2, seed=2)), (tokens(4, seed=3), tokens(3, seed=4))]
    source, target = (jnp.concatenate(side) for side in zip(*pairs, strict=True))
    s, t = jnp.array([1, 1, 1, 2, 2, 2, 2]), jnp.array([1, 1, 2, 2, 2])
    packed = run(
        model,
        params,
        source,
        target,
        source_mask=masks.segments(s),
        target_mask=masks.segments(t),
        memory_mask=masks.segments(t, s),
        source_positions=jnp.array([0, 1, 2, 0, 1, 2, 3]),
        target_positions=jnp.array([0, 1, 0, 1, 2]),
    )
    close(packed[:2], run(model, params, *pairs[0]))
    close(packed[2:], run(model, params, *pairs[1]))


@pytest.mark.parametrize("split", ["source", "mask"])
def test_shard_map_where_only_a_part_is_split(split):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    if split == "source":
        model, params = build(nn.EncoderDecoder)
        function, inputs = model.apply, (params, tokens(2, 1, S), tokens(1, T))
        specs = (P(), P("data"), P())
        function = lambda p, s, t: model.apply(p, s[0], t)
        wanted = [run(model, params, inputs[1][i], inputs[2]) for i in range(2)]
    else:
        model, params = build(nn.Decoder)
        valid = jnp.array([[True] * T, [True] * 3 + [False] * 2])
        inputs, specs = (params, tokens(1, T), valid), (P(), P(), P("data"))
        function = lambda p, x, v: model.apply(p, x, masks.padding(v))
        wanted = [run(model, params, inputs[1], masks.padding(valid[i : i + 1])) for i in range(2)]
    sharded = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P("data")))
    close(sharded(*inputs), jnp.concatenate(wanted))


def test_the_compiled_program_does_not_grow_with_depth():
    def lines(n_layers):
        model = nn.functionalize(nn.Decoder, dataclasses.replace(TINY, n_layers=n_layers))
        params = jax.eval_shape(model.init, jax.random.key(0))
        loss = lambda p, x: run(model, p, x).sum()
        lowered = jax.jit(jax.grad(loss)).lower(params, jax.ShapeDtypeStruct((B, T), jnp.int32))
        return len(lowered.as_text().splitlines())

    assert lines(24) == lines(6)


class TestBadInput:
    def test_a_token_outside_the_vocabulary_is_never_another_token(self):
        model, params = build(nn.Encoder)
        for bad in (V, -1):
            out = model.apply(params, jnp.array([1, bad, 2]))
            assert bool(jnp.isnan(out).any())

    def test_float_tokens(self):
        model, params = build(nn.Encoder)
        with pytest.raises(ValueError, match=r"integer ids \[..., T\], got float32"):
            model.apply(params, jnp.ones((B, T)))

    def test_a_sequence_longer_than_the_position_table(self):
        model, params = build(nn.Encoder, positions=nn.Learned(max_length=9))
        with pytest.raises(ValueError, match="sequence of 10 is longer than the learned position table of 9"):
            model.apply(params, tokens(10))

    def test_a_source_mask_that_says_nothing_of_cross_attention(self):
        model, params = build(nn.EncoderDecoder)
        full = jnp.ones((S, S), bool)
        with pytest.raises(ValueError, match="pass memory_mask too"):
            model.apply(params, tokens(B, S), tokens(B, S), source_mask=full)
        with_memory = model.apply(params, tokens(B, S), tokens(B, S), source_mask=full, memory_mask=full)
        close(with_memory, model.apply(params, tokens(B, S), tokens(B, S)))

    def test_positions_of_another_length(self):
        model, params = build(nn.Encoder)
        with pytest.raises(ValueError, match=r"positions must be \[..., T\] or \[T\]"):
            model.apply(params, tokens(B, T), positions=jnp.arange(T + 1))

    def test_a_memory_where_there_is_no_cross_attention(self):
        block = nn.functionalize(nn.EncoderBlock, TINY)
        params = block.init(jax.random.key(0))
        with pytest.raises(ValueError, match="has no cross-attention; memory was given"):
            block.apply(params, jnp.ones((T, D)), None, jnp.ones((S, D)))
        block = nn.functionalize(nn.DecoderBlock, TINY)
        params = block.init(jax.random.key(0))
        with pytest.raises(ValueError, match="has cross-attention; memory was not given"):
            block.apply(params, jnp.ones((T, D)))

    def test_position_schemes_that_a_block_cannot_run_alone(self):
        x = jnp.ones((T, D))
        for scheme, message in (
            (nn.Alibi(), "pass what nn.PositionBias gives"),
            (nn.Rope(), "pass positions"),
        ):
            block = nn.functionalize(nn.EncoderBlock, dataclasses.replace(TINY, positions=scheme))
            with pytest.raises(ValueError, match=message):
                block.apply(block.init(jax.random.key(0)), x)
        attention = nn.functionalize(nn.MultiHeadAttention, dataclasses.replace(TINY, positions=nn.Rope()))
        with pytest.raises(ValueError, match="beside a context"):
            attention.apply(jax.jit(attention.init)(jax.random.key(0)), x, x, positions=jnp.arange(T))

    def test_images_for_a_decoder(self):
        for module in (nn.Decoder, nn.EncoderDecoder):
            with pytest.raises(ValueError, match="a decoder reads tokens"):
                nn.functionalize(module, dataclasses.replace(TINY, patches=nn.Patches(2, 2)))

    def test_a_vocabulary_of_none(self):
        with pytest.raises(ValueError, match="vocab_size=0, wanted at least 1"):
            nn.functionalize(nn.Decoder, dataclasses.replace(TINY, vocab_size=0))

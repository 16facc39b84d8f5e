"""Encoder, decoder and encoder-decoder: masks, padding, packing, and equal results under every transform."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.marks import slow, slow_but
from tests.nn.models import POSITIONS, TINY, VARIANTS, B, D, L, N, S, T, V, assert_close, build, run, tokens
from tfm_jax import nn
from tfm_jax.ops import masks


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_shapes_of_every_variant_and_model(fields):
    # Shapes and dtypes need no compilation; other tests check the values.
    def out(module, *inputs, fields=fields):
        model = nn.functionalize(module, dataclasses.replace(TINY, **fields))
        params = jax.eval_shape(model.init, jax.random.key(0))
        return jax.eval_shape(model.apply, params, *inputs)

    without_logits = {name: x for name, x in fields.items() if not name.startswith("logits")}
    assert out(nn.Encoder, tokens(B, T), fields=without_logits).shape == (B, T, D)
    for logits in (out(nn.Decoder, tokens(B, T)), out(nn.EncoderDecoder, tokens(B, S), tokens(B, T))):
        assert logits.shape == (B, T, V) and logits.dtype == jnp.float32


@pytest.mark.parametrize("name", slow_but(["relative", "rms-glu-gqa"], VARIANTS))
def test_attention_implementation_is_used(name):
    fields = VARIANTS[name]

    def out(implementation):
        model = nn.functionalize(
            nn.Decoder, dataclasses.replace(TINY, **fields, attention_implementation=implementation)
        )
        return run(model, build(nn.Decoder, **fields)[1], tokens(B, T))

    assert_close(out("chunked"), out("reference"))
    with pytest.raises(ValueError, match="implementation='splash', which does not support this call"):
        out("splash")


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
    assert_close(logits[0], alone)


@pytest.mark.parametrize("name", ["learned", "rope", "relative", *slow("sinusoidal", "alibi")])
def test_packed_documents_equal_each_alone(name):
    model, params = build(nn.Decoder, positions=POSITIONS[name])
    first, second = tokens(3, seed=1), tokens(4, seed=2)
    ids = jnp.array([1, 1, 1, 2, 2, 2, 2])
    positions = jnp.concatenate([jnp.arange(3), jnp.arange(4)])
    packed = run(model, params, jnp.concatenate([first, second]), masks.segments(ids), positions=positions)
    assert_close(packed[:3], run(model, params, first))
    assert_close(packed[3:], run(model, params, second))


def test_jit_and_vmap_equal_eager_and_batch():
    model, params = build(nn.EncoderDecoder)
    source, target = tokens(B, S), tokens(B, T)
    batch = run(model, params, source, target)
    assert_close(model.apply(params, source, target), batch)
    assert_close(jax.jit(jax.vmap(model.apply, in_axes=(None, 0, 0)))(params, source, target), batch)
    assert_close(run(model, params, source[1], target[1]), batch[1])
    assert_close(run(model, params, source[None], target[None]), batch[None])


def test_several_seeds_at_once():
    model, _ = build(nn.Decoder)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(jax.vmap(model.init))(keys)
    x = tokens(T)
    outputs = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(params, x)
    assert_close(outputs[1], run(model, jax.jit(model.init)(keys[1]), x))
    assert not np.allclose(outputs[0], outputs[1], atol=1e-2)


def test_return_weights():
    model, params = build(nn.EncoderDecoder)
    source, target = tokens(B, S), tokens(B, T)
    valid = jnp.arange(S)[None] < jnp.array([[4], [6]])
    mask = masks.padding(valid)
    logits, extras = run(model, params, source, target, source_mask=mask, return_weights=True)
    weights = extras["weights"]
    assert set(extras) == {"weights"}
    np.testing.assert_array_equal(logits, run(model, params, source, target, source_mask=mask))
    assert weights["encoder"].shape == (L, B, N, S, S)
    assert weights["decoder"].shape == (L, B, N, T, T)
    assert weights["cross"].shape == (L, B, N, T, S)
    for w in weights.values():
        np.testing.assert_allclose(w.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(weights["cross"][:, 0, :, :, 4:], 0.0)
    np.testing.assert_array_equal(np.triu(weights["decoder"], 1), 0.0)
    model, params = build(nn.Encoder)
    assert run(model, params, source, return_weights=True)[1]["weights"]["encoder"].shape == (L, B, N, S, S)
    model, params = build(nn.Decoder)
    assert run(model, params, source, return_weights=True)[1]["weights"]["decoder"].shape == (L, B, N, S, S)


def test_dropout_is_a_function_of_its_key():
    for name in ("dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate"):
        model, params = build(nn.EncoderDecoder, **{name: 0.4})
        source, target = tokens(B, S), tokens(B, T)
        clean = run(build(nn.EncoderDecoder)[0], params, source, target)
        np.testing.assert_array_equal(run(model, params, source, target), clean)
        one = run(model, params, source, target, key=jax.random.key(1))
        np.testing.assert_array_equal(one, run(model, params, source, target, key=jax.random.key(1)))
        assert not np.allclose(one, run(model, params, source, target, key=jax.random.key(2)), atol=1e-3)
        assert not np.allclose(one, clean, atol=1e-3)


def test_tied_embeddings_sum_both_gradients():
    model, params = build(nn.Decoder)
    x = tokens(T)
    untied, split = build(nn.Decoder, tie_embeddings=False)
    table = params["embedding"]["table"]
    split = {**params, "head": {"projection": {"kernel": table.T}}}
    weights = jax.random.normal(jax.random.key(0), (T, V))
    gradient = jax.jit(jax.grad(lambda p: (run(model, p, x) * weights).sum()))(params)
    untied_gradient = jax.jit(jax.grad(lambda p: (run(untied, p, x) * weights).sum()))(split)
    both = untied_gradient["embedding"]["table"] + untied_gradient["head"]["projection"]["kernel"].T
    assert_close(gradient["embedding"]["table"], both)
    assert_close(
        run(model, params, run(model, params, x, method="hidden"), method="unembed"),
        run(model, params, x, method="hidden") @ run(model, params, method="output_projection")[0],
    )


def test_bfloat16_activations_float32_logits():
    model, params = build(nn.EncoderDecoder, dtype="bfloat16")
    source, target = tokens(B, S), tokens(B, T)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert run(model, params, source, method="encode").dtype == jnp.bfloat16
    logits = run(model, params, source, target)
    assert logits.dtype == jnp.float32
    assert_close(logits, run(build(nn.EncoderDecoder)[0], params, source, target), 0.1)


def test_shared_and_tied_embedding_parameters():
    def names(**fields):
        return set(build(nn.EncoderDecoder, **fields)[1])

    assert names() == {"embedding", "encoder", "decoder"}
    assert names(share_embeddings=False) == {"embedding", "source_embedding", "encoder", "decoder"}
    assert names(tie_embeddings=False) == {"embedding", "encoder", "decoder", "head"}
    model, params = build(nn.EncoderDecoder, share_embeddings=False)
    assert run(model, params, tokens(S), tokens(T)).shape == (T, V)


def test_prefix_language_model():
    model, params = build(nn.Decoder)
    x, changed = tokens(T), tokens(T).at[2].add(1)
    prefix = masks.causal() | masks.prefix(3)

    def first(tokens, **mask):
        return run(model, params, tokens % V, **mask)[0]

    assert not np.allclose(first(x, causal=prefix), first(changed, causal=prefix), atol=1e-4)
    np.testing.assert_array_equal(first(x), first(changed))
    with pytest.raises(ValueError, match="got a prefix in the mask; wanted causal="):
        model.apply(params, x, prefix)


def test_packed_sequence_longer_than_the_learned_table():
    model, params = build(nn.Decoder, positions=nn.Learned(max_length=4))
    one, two = tokens(4, seed=1), tokens(3, seed=2)
    packed = run(
        model,
        params,
        jnp.concatenate([one, two]),
        masks.segments(jnp.array([1, 1, 1, 1, 2, 2, 2])),
        positions=jnp.array([0, 1, 2, 3, 0, 1, 2]),
    )
    assert_close(packed[4:], run(model, params, two))


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
    assert_close(packed[:2], run(model, params, *pairs[0]))
    assert_close(packed[2:], run(model, params, *pairs[1]))


@pytest.mark.parametrize("split", ["source", "mask"])
def test_shard_map_with_only_one_argument_sharded(split):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    if split == "source":
        model, params = build(nn.EncoderDecoder)
        inputs, specs = (params, tokens(2, 1, S), tokens(1, T)), (P(), P("data"), P())

        def function(p, s, t):
            return model.apply(p, s[0], t)

        wanted = [run(model, params, inputs[1][i], inputs[2]) for i in range(2)]
    else:
        model, params = build(nn.Decoder)
        valid = jnp.array([[True] * T, [True] * 3 + [False] * 2])
        inputs, specs = (params, tokens(1, T), valid), (P(), P(), P("data"))

        def function(p, x, v):
            return model.apply(p, x, masks.padding(v))

        wanted = [run(model, params, inputs[1], masks.padding(valid[i : i + 1])) for i in range(2)]
    sharded = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P("data")))
    assert_close(sharded(*inputs), jnp.concatenate(wanted))


def test_source_mask_without_memory_mask():
    model, params = build(nn.EncoderDecoder)
    full = jnp.ones((S, S), bool)
    with pytest.raises(ValueError, match="requires a memory_mask"):
        model.apply(params, tokens(B, S), tokens(B, S), source_mask=full)
    with_memory = model.apply(params, tokens(B, S), tokens(B, S), source_mask=full, memory_mask=full)
    assert_close(with_memory, model.apply(params, tokens(B, S), tokens(B, S)))


def test_memory_must_match_cross_attention():
    block = nn.functionalize(nn.EncoderBlock, TINY)
    params = block.init(jax.random.key(0))
    with pytest.raises(ValueError, match="Block: got a memory; wanted None"):
        block.apply(params, jnp.ones((T, D)), None, jnp.ones((S, D)))
    block = nn.functionalize(nn.DecoderBlock, TINY)
    params = block.init(jax.random.key(0))
    with pytest.raises(ValueError, match="Block: got memory=None; wanted a memory"):
        block.apply(params, jnp.ones((T, D)))


def test_blocks_require_positions_and_biases():
    x = jnp.ones((T, D))
    for scheme, message in (
        (nn.Alibi(), "Block: got bias=None with Alibi.*; wanted the output of the module of its build_bias"),
        (nn.Rope(), "got positions=None with Rope"),
    ):
        block = nn.functionalize(nn.EncoderBlock, dataclasses.replace(TINY, positions=scheme))
        with pytest.raises(ValueError, match=message):
            block.apply(block.init(jax.random.key(0)), x)
    attention = nn.functionalize(nn.MultiHeadAttention, dataclasses.replace(TINY, positions=nn.Rope()))
    with pytest.raises(ValueError, match="got positions with a context"):
        attention.apply(jax.jit(attention.init)(jax.random.key(0)), x, x, positions=jnp.arange(T))


def test_images_for_a_decoder():
    for module in (nn.Decoder, nn.EncoderDecoder):
        with pytest.raises(ValueError, match=r"got patches=Patches.*; wanted patches=None"):
            nn.functionalize(module, dataclasses.replace(TINY, patches=nn.Patches(2, 2)))


def test_zero_vocabulary():
    with pytest.raises(ValueError, match="Embedding: got vocab_size=0; wanted at least 1"):
        nn.functionalize(nn.Decoder, dataclasses.replace(TINY, vocab_size=0))

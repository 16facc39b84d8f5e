"""``nn.MixtureOfExperts``: the dense layer of one expert, caches, remat, maps, meshes, export, training."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from tests import parameters
from tfm_jax import generate, nn, ops, sharding, train, values
from tfm_jax.nn.decoding import decode_step, init_cache

V, D, F, L, B, T = 14, 12, 10, 3, 4, 6
EXPERTS = nn.MixtureOfExperts(4, 2, shared_experts=1)
CONFIG = nn.Config(vocab_size=V, d_model=D, n_heads=2, d_ff=F, n_layers=L, feed_forward=EXPERTS)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
NAMES = ("data", "fsdp", "tensor", "sequence", "expert")


def configured(feed_forward=EXPERTS, **fields):
    return dataclasses.replace(CONFIG, feed_forward=feed_forward, **fields)


@functools.cache
def decoder(**fields):
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, **fields))
    return model, parameters.draw(model)


def assert_close(got, wanted, tolerance=2e-5):
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=tolerance, atol=tolerance),
        got,
        wanted,
    )


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(model, params, key=None):
    def loss(params):
        logits, extras = model.apply(params, TOKENS, key=key, return_auxiliary=True)
        total, weight = ops.cross_entropy(logits, TOKENS)
        return train.add_auxiliary((total, weight), extras["auxiliary"])[0], (logits, extras)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize(
    ("experts", "dense"),
    [
        (nn.MixtureOfExperts(1, 1, activation="gelu"), nn.Glu("gelu")),
        (nn.MixtureOfExperts(1, 1, activation="relu", gated=False), nn.Mlp("relu", bias=False)),
        (nn.MixtureOfExperts(1, 1, capacity_factor=1.0), nn.Glu()),
    ],
    ids=["gated", "plain", "capacity"],
)
def test_one_expert_is_the_dense_layer_from_its_initial_values_on(experts, dense):
    config = configured(experts, feed_forward_dropout_rate=0.2)
    mixed = nn.functionalize(nn.Decoder, config)
    plain = nn.functionalize(nn.Decoder, dataclasses.replace(config, feed_forward=dense))
    params = jax.jit(mixed.init)(jax.random.key(0))
    wanted = jax.jit(plain.init)(jax.random.key(0))
    feed_forward = dict(params["stack"]["layers"]["feed_forward"])
    feed_forward.pop("router")
    for name, value in wanted["stack"]["layers"]["feed_forward"].items():
        np.testing.assert_array_equal(feed_forward[name][:, 0], value)
    key = jax.random.key(1)
    assert_close(jax.jit(mixed.apply)(params, TOKENS, key=key), jax.jit(plain.apply)(wanted, TOKENS, key=key))


def test_initial_values_of_experts_are_those_of_independent_layers():
    model = nn.functionalize(nn.Decoder, configured(initializers=nn.Initializers(nn.GlorotUniform())))
    weights = jax.jit(model.init)(jax.random.key(0))["stack"]["layers"]["feed_forward"]
    limit = (6 / (D + F)) ** 0.5  # of one expert, whatever their number
    for name in ("w_in", "w_out", "w_gate"):
        assert 0.9 * limit < float(jnp.abs(weights[name]).max()) <= limit
    assert not np.allclose(weights["w_in"][0, 0], weights["w_in"][0, 1])


def test_the_output_is_that_of_ops():
    model, params = decoder(n_layers=1, positions=None)
    layer = model.bind(params).stack.unstack()[0].feed_forward
    x = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, D)), jnp.float32)
    y, auxiliary = layer(x)
    w = params["stack"]["layers"]["feed_forward"]
    w = jax.tree.map(lambda a: a[0], w)
    logits = x @ w["router"]
    experts, gates = ops.top_k_routing(logits, 2)
    wanted, _ = ops.mixture_of_experts(x, experts, gates, w["w_in"], w["w_out"], w["w_gate"])
    wanted += ops.gated_feed_forward(x, w["shared"]["w_gate"], w["shared"]["w_in"], w["shared"]["w_out"])
    assert_close(y, wanted)
    balance, z = ops.load_balance_loss(logits, experts), ops.router_z_loss(logits)
    assert_close(auxiliary["load_balance"], nn.Metric(*balance))
    assert_close(auxiliary["load_balance_loss"], (0.01 * balance[0], balance[1]))
    assert_close(auxiliary["router_z"], nn.Metric(*z))
    assert_close(auxiliary["router_z_loss"], (0.001 * z[0], z[1]))


def test_only_losses_are_added_to_the_loss_and_metrics_are_reported():
    model, params = decoder(feed_forward=dataclasses.replace(EXPERTS, capacity_factor=0.5))
    (total, (logits, extras)), _ = loss_and_gradients(model, params)
    auxiliary = extras["auxiliary"]
    assert set(auxiliary) == {"load_balance_loss", "load_balance", "router_z_loss", "router_z", "dropped"}
    assert isinstance(auxiliary["dropped"], nn.Metric) and float(auxiliary["dropped"].weight) == L * B * T * 2
    assert 0 < float(auxiliary["dropped"].sum) < L * B * T * 2
    plain, weight = ops.cross_entropy(logits, TOKENS)
    means = {name: float(s / w) for name, (s, w) in auxiliary.items()}
    wanted = float(plain) + float(weight) * (means["load_balance_loss"] + means["router_z_loss"])
    assert float(total) == pytest.approx(wanted, rel=1e-5)


def test_factors_of_0_leave_the_losses_out():
    model, params = decoder(feed_forward=nn.MixtureOfExperts(3, 1, load_balance=0.0, router_z=0.0))
    (_, (_, extras)), gradients = loss_and_gradients(model, params)
    assert set(extras["auxiliary"]) == {"load_balance", "router_z"}
    router = gradients["stack"]["layers"]["feed_forward"]["router"]
    assert np.isfinite(router).all() and not np.abs(router).max() > 1e-6  # one normalized gate is always 1


RAGGED = {"feed_forward": dataclasses.replace(EXPERTS, implementation="ragged")}


@pytest.mark.parametrize("fields", [{"unroll": True}, {"remat": "full"}, {"remat": "dots"}, RAGGED], ids=str)
def test_unrolled_layers_remat_and_the_implementation_change_nothing(fields):
    model, params = decoder()
    other, _ = decoder(**fields)
    assert_close(loss_and_gradients(other, params), loss_and_gradients(model, params))


def test_cached_decoding_equals_the_full_forward_pass():
    model, params = decoder()

    @jax.jit
    def decode(params):
        cache = init_cache(model, params, B, T)
        first, cache = decode_step(model, params, TOKENS[:, : T - 2], cache)
        second, cache = decode_step(model, params, TOKENS[:, T - 2 : T - 1], cache)
        return jnp.concatenate([first, second, decode_step(model, params, TOKENS[:, T - 1 :], cache)[0]], 1)

    assert_close(decode(params), jax.jit(model.apply)(params, TOKENS))


def test_generation_with_a_capacity_drops_nothing():
    exact, params = decoder()
    limited, _ = decoder(feed_forward=dataclasses.replace(EXPERTS, capacity_factor=4.0))
    config = generate.GenerationConfig(max_length=4)
    wanted = generate.greedy(exact, params, TOKENS, config)
    assert_close(generate.greedy(limited, params, TOKENS, config), wanted)


def test_vmap_and_pmap_give_the_logits_of_a_batch():
    model, params = decoder()
    wanted = jax.jit(model.apply)(params, TOKENS)
    assert_close(jax.jit(jax.vmap(model.apply, (None, 0)))(params, TOKENS), wanted)
    got = jax.pmap(model.apply, in_axes=(None, 0))(params, TOKENS[:, None])
    assert_close(got[:, 0], wanted)


def test_export_with_a_symbolic_batch_and_length():
    model, params = decoder()
    b, t = jax.export.symbolic_shape("b, t")
    specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    exported = jax.export.export(jax.jit(model.apply))(specs, jax.ShapeDtypeStruct((b, t), jnp.int32))
    for tokens in (TOKENS, TOKENS[:1, :3]):
        assert_close(exported.call(params, tokens), jax.jit(model.apply)(params, tokens))
    limited, _ = decoder(feed_forward=dataclasses.replace(EXPERTS, capacity_factor=1.0))
    with pytest.raises(ValueError, match=r"got capacity_factor=1.0 with a symbolic length; wanted a static"):
        jax.export.export(jax.jit(limited.apply))(specs, jax.ShapeDtypeStruct((b, t), jnp.int32))


def test_bfloat16_routes_in_float32():
    model, params = decoder(dtype="bfloat16")
    (_, (_, extras)), gradients = loss_and_gradients(model, params)
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(extras)} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(model.apply)(params, TOKENS))
    assert f"f32[{B},{T},4] = dot_general" in text  # the logits of the router


@pytest.mark.parametrize("sizes", [{"expert": 4, "data": 2}, {"expert": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_a_model_on_a_mesh_is_that_of_one_device(sizes):
    model, params = decoder(feed_forward_dropout_rate=0.2)
    wanted = loss_and_gradients(model, params, jax.random.key(3))
    kinds = (AxisType.Auto,) * len(NAMES)
    mesh = jax.make_mesh(tuple(sizes.get(name, 1) for name in NAMES), NAMES, axis_types=kinds)
    specs = sharding.parameter_specs(model.axes(), params, mesh)
    params = jax.tree.map(lambda x, spec: jax.device_put(x, jax.NamedSharding(mesh, spec)), params, specs)
    with jax.set_mesh(mesh):
        got = loss_and_gradients(model, params, jax.random.key(3))
    assert_close(got, wanted, 1e-5)
    shard = params["stack"]["layers"]["feed_forward"]["w_in"].addressable_shards[0].data
    assert shard.size * sizes["expert"] <= params["stack"]["layers"]["feed_forward"]["w_in"].size


def test_the_summary_counts_the_parameters_that_a_token_meets():
    model, params = decoder()
    summary = nn.summary(model)
    experts = 3 * L * 4 * D * F
    assert summary.n_params == sum(x.size for x in jax.tree.leaves(params))
    assert summary.n_active_params == summary.n_params - experts // 2  # 2 of 4
    assert str(summary).endswith(f" {summary.n_active_params:,}")
    assert "active" not in str(nn.summary(decoder(feed_forward=nn.Glu())[0]))


def test_a_config_is_written_and_read_back():
    config = configured(nn.MixtureOfExperts(3, 1, capacity_factor=1.25, activation="gelu"))
    written = json.loads(json.dumps(values.to_dict(config)))
    assert values.from_dict(nn.Config, written) == config
    assert "MixtureOfExperts(" in written["feed_forward"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"n_experts": 2, "top_k": 3}, r"got top_k=3 with n_experts=2; wanted at most"),
        ({"n_experts": 0}, r"n_experts=0; wanted an integer from 1"),
        ({"top_k": 0}, r"top_k=0; wanted an integer from 1"),
        ({"shared_experts": -1}, r"shared_experts=-1; wanted an integer from 0"),
        ({"capacity_factor": 0.0}, r"capacity_factor=0.0; wanted"),
        ({"load_balance": -0.1}, r"load_balance=-0.1; wanted"),
        ({"router_z": float("inf")}, r"router_z=inf; wanted"),
        ({"implementation": "fast"}, r"implementation='fast'; wanted 'auto', 'ragged' or 'tiled'"),
        ({"activation": "swoosh"}, r"got 'swoosh'; wanted one of relu"),
    ],
    ids=str,
)
def test_wrong_fields(fields, error):
    with pytest.raises(ValueError, match=error):
        nn.MixtureOfExperts(**fields)


def test_a_decoder_with_experts_learns_and_its_load_becomes_balanced():
    """Mixtral-like, from a router that sends nearly all tokens to the same two experts."""
    experts = nn.MixtureOfExperts(4, 2, load_balance=0.1)
    fields = {"norm": nn.RMSNorm(), "positions": nn.Rope(), "n_kv_heads": 1, "n_layers": 2, "vocab_size": 7}
    model = nn.functionalize(nn.Decoder, configured(experts, **fields))
    params = jax.jit(model.init)(jax.random.key(0))
    feed_forward = params["stack"]["layers"]["feed_forward"]
    feed_forward["router"] = feed_forward["router"] * jnp.asarray([[[6.0, 6.0, 0.01, 0.01]]])

    def loss_fn(params, batch, key):
        logits, extras = model.apply(params, batch["tokens"][:, :-1], key=key, return_auxiliary=True)
        loss = ops.cross_entropy(logits, batch["tokens"][:, 1:])
        return train.add_auxiliary(loss, extras["auxiliary"]), extras["auxiliary"]

    optimizer = optax.adam(1e-2)
    step = jax.jit(train.make_train_step(loss_fn, optimizer, accumulate=2), donate_argnums=0)
    state = train.init_state(params, optimizer, jax.random.key(1))
    rng, history = np.random.default_rng(0), []
    for _ in range(60):
        starts = rng.integers(0, 7, (8, 1))
        tokens = jnp.asarray((starts + np.arange(12)) % 7, jnp.int32)  # the next number
        state, metrics = step(state, {"tokens": tokens})
        history.append(train.means(metrics))
    assert history[0]["loss"] > 1.5 and history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[0]["load_balance"] > 1.2 and history[-1]["load_balance"] < 1.05
    assert history[-1]["load_balance_loss"] == pytest.approx(0.1 * history[-1]["load_balance"], rel=1e-4)


@pytest.mark.parametrize(("implementation", "top_k"), [("tiled", 2), ("ragged", 2), ("tiled", 1)])
def test_bfloat16_chooses_the_experts_of_float32_and_rounds_their_output(implementation, top_k):
    layer = nn.MixtureOfExperts(4, top_k, implementation=implementation)
    config = configured(layer)
    model = nn.functionalize(functools.partial(layer.build, config))
    params = model.init(jax.random.key(0))
    x = 3 * jax.random.normal(jax.random.key(1), (B, 40, D), jnp.bfloat16)
    apply = jax.jit(model.apply)
    (got, few), (wanted, wide) = apply(params, x), apply(params, x.astype(jnp.float32))
    # Sums over the logits and the choices: equal bits where routing has the same inputs and dtype.
    jax.tree.map(np.testing.assert_array_equal, few, wide)
    error = np.abs(np.asarray(got, np.float32) - wanted).max(-1)
    assert (error <= 2**-6 * np.abs(wanted).max(-1)).all() and error.max() > 0

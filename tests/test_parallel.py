"""Models trained on every kind of mesh, by pmap and by vmap: the same numbers as on one device."""

import functools
import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model.run import make_loss as language_model_loss
from experiments.translation.run import make_loss as translation_loss
from tfm_jax import nn, train

OPTIMIZER = train.adamw(train.noam(32, 5), 0.1)
STEPS = 20
SIZES = {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_ff": 64}
MESHES = {
    "one device": {},
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "tensor 2 x fsdp 4": {"tensor": 2, "fsdp": 4},
    "tensor 4 x data 2": {"tensor": 4, "data": 2},
    "ring 4 x data 2": {"sequence": 4, "data": 2},
    "ring 2 x tensor 2 x fsdp 2": {"sequence": 2, "tensor": 2, "fsdp": 2},
    "pmap 8": {"data": 8},
}
SHARES = {"fsdp 8": 7, "tensor 2 x fsdp 4": 7, "tensor 4 x data 2": 3.5, "ring 2 x tensor 2 x fsdp 2": 3.5}
"""The whole state has at least this number of times the bytes that a device holds."""


@functools.cache
def model_of(kind, dropout):
    rates = {"dropout_rate": dropout, "attention_dropout_rate": dropout}
    if kind == "translation":
        return nn.functionalize(nn.EncoderDecoder, nn.Config(**SIZES, **rates))
    experts = {"feed_forward": nn.MixtureOfExperts(n_experts=4, top_k=2)} if kind == "experts" else {}
    return nn.functionalize(nn.Decoder, nn.Config(**SIZES, **rates, **experts, n_kv_heads=4))


def loss_of(kind, dropout):
    model = model_of(kind, dropout)
    return translation_loss(model, 0.1) if kind == "translation" else language_model_loss(model, 1.0)


def batch_of(kind, number):
    rng = np.random.default_rng(number)
    tokens = rng.integers(1, 64, (16, 17), dtype=np.int32)
    if kind == "translation":
        lengths = rng.integers(3, 9, (16, 1))
        return {
            "source": rng.integers(1, 64, (16, 8), dtype=np.int32),
            "valid": np.arange(8)[None] < lengths,
            "target": tokens[:, :-1],
            "labels": tokens[:, 1:],
            "weights": (rng.random((16, 16)) < 0.9).astype(np.float32),
        }
    ends = np.sort(rng.integers(1, 16, (16, 2)), axis=1)  # three documents in each sequence
    segments = (np.arange(16)[None] >= ends[:, :1]) + 0 + (np.arange(16)[None] >= ends[:, 1:]) + 1
    starts = np.stack([np.searchsorted(row, row) for row in segments])
    return {
        "tokens": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "segment_ids": segments.astype(np.int32),
        "positions": (np.arange(16)[None] - starts).astype(np.int32),
        "weights": (rng.random((16, 16)) < 0.9).astype(np.float32),
    }


def parallel_of(name, kind, dropout=0.0):
    mesh = train.make_mesh(**MESHES[name])
    return train.Pmap(mesh) if name.startswith("pmap") else train.Jit(mesh, model_of(kind, dropout).axes())


def make_state(kind, dropout, key):
    init_key, run_key = jax.random.split(key)
    return train.init_state(model_of(kind, dropout).init(init_key), OPTIMIZER, run_key, ema=True)


def step_of(parallel, kind, dropout, accumulate=1):
    return parallel.compile(
        train.make_train_step(
            loss_of(kind, dropout),
            OPTIMIZER,
            accumulate=accumulate,
            clip_norm=1.0,
            ema_decay=0.9,
            axis_name=parallel.axis_name,
        )
    )


def run(step, state, kind, first=0, last=STEPS):
    losses = []
    for i in range(first, last):
        state, metrics = step(state, batch_of(kind, i))
        losses.append(train.means(metrics)["loss"])
    return state, losses


def created(parallel, kind, dropout=0.0, seed=0):
    return parallel.create(functools.partial(make_state, kind, dropout), jax.random.key(seed))


@functools.cache
def on_one_device(kind):
    parallel = parallel_of("one device", kind)
    _, losses = run(step_of(parallel, kind, 0.0), created(parallel, kind), kind)
    return losses


def assert_same(kind, losses):
    # Not the weights: Adam divides gradients by their size, and multiplies the rounding of tiny ones.
    np.testing.assert_allclose(losses, on_one_device(kind), rtol=1e-5, atol=1e-5)


def gradients_of(name, kind, dropout):
    """The loss of a batch, and its gradient."""
    parallel, loss_fn = parallel_of(name, kind, dropout), loss_of(kind, dropout)
    params = created(parallel, kind, dropout).params

    def loss(params, batch):
        return loss_fn(params, batch, jax.random.key(3))[0][0]

    with parallel.context():
        shardings = (None, parallel.params_shardings(params))
        value_and_grad = jax.jit(jax.value_and_grad(loss), out_shardings=shardings)
        return jax.device_get(value_and_grad(params, parallel.place_batch(batch_of(kind, 0))))


def check_twenty_steps(name, kind, caplog, accumulate=1):
    parallel = parallel_of(name, kind)
    step, state = step_of(parallel, kind, 0.0, accumulate), created(parallel, kind)
    size, whole = train.bytes_per_device(state), train.bytes_per_device(train.to_one_device(state))
    print(f"{kind} on {name}: {size:,} of {whole:,} bytes of state on each device")
    assert size * SHARES.get(name, 1) <= whole
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        state, losses = run(step, state, kind)
    assert jax.tree.map(lambda x: x.sharding, state) == shardings
    programs = [r.getMessage().split(" with ")[0] for r in caplog.records]
    caplog.clear()  # megabytes
    assert sum(program in ("Compiling jit(step)", "Compiling jit(_fun)") for program in programs) == 1
    assert_same(kind, losses)
    assert len(set(losses)) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["language model", "translation"])
@pytest.mark.parametrize("name", [name for name in MESHES if name != "one device"])
def test_20_steps_equal_those_on_one_device(name, kind, caplog):
    check_twenty_steps(name, kind, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one device", "tensor 2 x fsdp 4"])
def test_20_steps_of_4_microbatches_equal_those_of_one(name, caplog):
    check_twenty_steps(name, "language model", caplog, accumulate=4)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"expert": 4, "data": 2}, {"expert": 2, "fsdp": 2, "tensor": 2}])
def test_20_steps_of_sharded_experts_equal_those_on_one_device(sizes, caplog, monkeypatch):
    monkeypatch.setitem(MESHES, "experts", sizes)
    monkeypatch.setitem(SHARES, "experts", 2)
    check_twenty_steps("experts", "experts", caplog)


@functools.cache
def one_device_with_dropout(kind):
    return gradients_of("one device", kind, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["language model", "translation"])
@pytest.mark.parametrize("name", [name for name in MESHES if name not in ("one device", "pmap 8")])
def test_dropout_is_that_of_one_device(name, kind):
    loss, gradients = one_device_with_dropout(kind)
    found_loss, found = gradients_of(name, kind, 0.2)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(found), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max(), err_msg=str(path))
    assert abs(loss - gradients_of("one device", kind, 0.0)[0]) > 1e-3 * loss


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [("one device", "pmap 8"), ("pmap 8", "tensor 2 x fsdp 4"), ("fsdp 8", "ring 4 x data 2")],
)
def test_training_resumes_under_another_placement(first, second, tmp_path):
    kind = "language model"
    before, after = parallel_of(first, kind), parallel_of(second, kind)
    state, losses = run(step_of(before, kind, 0.0), created(before, kind), kind, last=9)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state)
        restored, _ = checkpoints.restore(after.abstract(state))
    _, more = run(step_of(after, kind, 0.0), restored, kind, first=9)
    assert_same(kind, losses + more)


@pytest.mark.slow
def test_several_seeds_train_under_vmap():
    kind, seeds = "language model", [0, 5, 6]
    parallel = parallel_of("one device", kind)
    states = [make_state(kind, 0.0, jax.random.key(seed)) for seed in seeds]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    plain = train.make_train_step(loss_of(kind, 0.0), OPTIMIZER, clip_norm=1.0, ema_decay=0.9)
    together = jax.jit(jax.vmap(plain, in_axes=(0, None)))
    for i in range(4):
        stacked, metrics = together(stacked, batch_of(kind, i))
    found = np.asarray(metrics["loss"][0] / metrics["loss"][1])
    step = step_of(parallel, kind, 0.0)
    alone = [run(step, parallel.place_state(state), kind, last=4) for state in states]
    np.testing.assert_allclose(found, [losses[-1] for _, losses in alone], rtol=1e-5)
    for i, (state, _) in enumerate(alone):
        params = jax.tree.map(lambda x, i=i: x[i], stacked.params)
        chex.assert_trees_all_close(params, state.params, rtol=1e-4, atol=1e-5)


def test_a_vocabulary_that_the_mesh_does_not_divide_is_an_error():
    model = nn.functionalize(nn.Decoder, nn.Config(**{**SIZES, "vocab_size": 65}))
    parallel = train.Jit(train.make_mesh(tensor=4), model.axes())
    with pytest.raises(ValueError, match=r"embedding.*got V = 65 .*wanted a multiple of 4.*'V': 'tensor\?'"):
        parallel.create(lambda key: train.init_state(model.init(key), OPTIMIZER, key), jax.random.key(0))


def test_heads_that_the_mesh_does_not_divide_are_an_error():
    model = nn.functionalize(nn.Decoder, nn.Config(**SIZES))
    parallel = train.Jit(train.make_mesh(tensor=8), model.axes())
    with pytest.raises(ValueError, match=r"kernel: got K = 4 in .*wanted a multiple of 8.*tensor"):
        parallel.abstract(
            jax.eval_shape(lambda key: train.init_state(model.init(key), OPTIMIZER, key), jax.random.key(0))
        )

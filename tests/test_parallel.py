"""Models trained on every kind of mesh, by pmap and by vmap: the same numbers as on one device."""

import contextlib
import dataclasses
import functools
import logging
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model.run import make_loss as language_model_loss
from experiments.translation.run import make_loss as translation_loss
from tfm_jax import nn, ops, train
from tfm_jax.sharding import constrain

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


def created(parallel, kind, dropout=0.0, seed=0):
    return parallel.create(functools.partial(make_state, kind, dropout), jax.random.key(seed))


def make_step(kind, accumulate=1, axis_name=None):
    return train.make_train_step(
        loss_of(kind, 0.0),
        OPTIMIZER,
        accumulate=accumulate,
        clip_norm=1.0,
        ema_decay=0.9,
        axis_name=axis_name,
    )


def run(step, state, kind, first=0, last=STEPS):
    losses = []
    for i in range(first, last):
        state, metrics = step(state, batch_of(kind, i))
        losses.append(train.means(metrics)["loss"])
    return state, losses


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run of 20 steps, whose step other tests use too."""

    parallel: Any
    step: Any
    before: train.TrainState
    """The shardings of the state."""
    after: train.TrainState
    losses: list[float]
    compilations: int
    size: int
    """The bytes of state on each device."""


@functools.cache
def trained(name, kind, accumulate=1):
    parallel = parallel_of(name, kind)
    step = parallel.compile(make_step(kind, accumulate, parallel.axis_name))
    state = created(parallel, kind)
    size, before = train.bytes_per_device(state), jax.tree.map(lambda x: x.sharding, state)
    with counted_compilations() as programs:
        state, losses = run(step, state, kind)
    compilations = sum(program in ("Compiling jit(step)", "Compiling jit(_fun)") for program in programs)
    after = jax.tree.map(lambda x: x.sharding, state)
    return Trained(parallel, step, before, after, losses, compilations, size)


@contextlib.contextmanager
def counted_compilations():
    """A list of what is compiled, such as "Compiling jit(step)"."""
    programs, handler, logger = [], logging.Handler(), logging.getLogger("jax")
    handler.emit = lambda record: programs.append(record.getMessage().split(" with ")[0])
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield programs
    finally:
        logger.removeHandler(handler)


def assert_same(kind, losses):
    # Not the weights: Adam divides gradients by their size, and multiplies the rounding of tiny ones.
    np.testing.assert_allclose(losses, trained("one device", kind).losses, rtol=1e-5, atol=1e-5)


def check_twenty_steps(name, kind, accumulate=1):
    found, whole = trained(name, kind, accumulate), trained("one device", kind).size
    print(f"{kind} on {name}: {found.size:,} of {whole:,} bytes of state on each device")
    assert found.size * SHARES.get(name, 1) <= whole
    assert found.after == found.before
    assert found.compilations == 1
    assert_same(kind, found.losses)
    assert len(set(found.losses)) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MESHES if name != "one device"])
def test_20_steps_equal_those_on_one_device(name):
    check_twenty_steps(name, "language model")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp 8", "ring 2 x tensor 2 x fsdp 2", "pmap 8"])
def test_20_steps_of_an_encoder_and_decoder_equal_those_on_one_device(name):
    check_twenty_steps(name, "translation")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one device", "tensor 2 x fsdp 4"])
def test_20_steps_of_4_microbatches_equal_those_of_one(name):
    check_twenty_steps(name, "language model", accumulate=4)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"expert": 4, "data": 2}, {"expert": 2, "fsdp": 2, "tensor": 2}])
def test_20_steps_of_sharded_experts_equal_those_on_one_device(sizes, monkeypatch):
    name = f"experts on {sizes}"
    monkeypatch.setitem(MESHES, name, sizes)
    monkeypatch.setitem(SHARES, name, 2)
    check_twenty_steps(name, "experts")


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


@functools.cache
def one_device_with_dropout(kind):
    return gradients_of("one device", kind, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tensor 2 x fsdp 4", "language model"),
        ("ring 4 x data 2", "language model"),
        ("ring 2 x tensor 2 x fsdp 2", "translation"),
    ],
)
def test_gradients_with_dropout_are_those_of_one_device(name, kind):
    loss, gradients = one_device_with_dropout(kind)
    found_loss, found = gradients_of(name, kind, 0.2)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(found), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max(), err_msg=str(path))


def masks_of(name, monkeypatch):
    """What each dropout of a decoder keeps, in the order of the forward pass, and the loss."""
    sizes = {**SIZES, "dropout_rate": 0.3, "attention_dropout_rate": 0.4}
    model = nn.functionalize(nn.Decoder, nn.Config(**sizes))
    parallel = train.Jit(train.make_mesh(**MESHES[name]), model.axes())
    params = parallel.place_params(model.init(jax.random.key(0)))
    kept, drop, loop = [], ops.dropout, jax.lax.scan

    def dropout(x, rate, key):
        y = drop(x, rate, key)
        if key is not None and rate > 0:
            kept.append((y != 0) | (x == 0))
        return y

    def scan(layer, *arguments, **options):  # the layers' masks leave it as results
        def body(carry, x):
            outside = kept.copy()
            kept.clear()
            carry, y = layer(carry, x)
            y, kept[:] = (y, kept.copy()), outside
            return carry, y

        carry, (y, stacked) = loop(body, *arguments, **options)
        kept.extend(stacked)
        return carry, y

    @jax.jit
    def apply(params, batch):
        kept.clear()  # of another trace
        logits = model.apply(params, batch["tokens"], key=jax.random.key(7))
        return logits, list(kept)

    with monkeypatch.context() as patch, parallel.context():
        patch.setattr(ops, "dropout", dropout)
        patch.setattr(jax.lax, "scan", scan)
        return jax.device_get(apply(params, parallel.place_batch(batch_of("language model", 0))))


ON_A_MESH = [name for name in MESHES if name not in ("one device", "pmap 8")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_MESH)
def test_dropout_in_a_model_keeps_the_same_elements_as_on_one_device(name, monkeypatch):
    wanted_logits, wanted = masks_of("one device", monkeypatch)
    logits, found = masks_of(name, monkeypatch)
    assert [x.shape for x in wanted] == [(16, 16, 32), *[(2, 16, 16, 32)] * 2]  # the embedding, each layer
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
        assert 0.6 < a.mean() < 0.8
    np.testing.assert_allclose(logits, wanted_logits, rtol=1e-4, atol=1e-5)


def dropped_weights(name):
    """Attention weights after dropout: equal scores, and values that are the positions in one-hot form."""
    parallel = train.Jit(train.make_mesh(**MESHES[name]))
    shape = (8, 16, 4, 16)
    one_hot = np.broadcast_to(np.eye(16, dtype=np.float32)[None, :, None], shape)

    @jax.jit
    def attend(x, v):
        x, v = (constrain(array, "B T N H") for array in (x, v))
        return ops.attention(x, x, v, dropout_rate=0.4, key=jax.random.key(9))

    with parallel.context():
        return jax.device_get(attend(jnp.zeros(shape), jnp.asarray(one_hot)))


@pytest.mark.parametrize("name", ["tensor 4 x data 2", "ring 4 x data 2", "ring 2 x tensor 2 x fsdp 2"])
def test_attention_dropout_keeps_the_same_elements_as_on_one_device(name):
    wanted, found = dropped_weights("one device"), dropped_weights(name)
    np.testing.assert_array_equal(found != 0, wanted != 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert 0.5 < (found != 0).mean() < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [("one device", "pmap 8"), ("pmap 8", "tensor 2 x fsdp 4"), ("fsdp 8", "ring 4 x data 2")],
)
def test_training_resumes_under_another_placement(first, second, tmp_path):
    kind = "language model"
    before, after = trained(first, kind), trained(second, kind)
    state, losses = run(before.step, created(before.parallel, kind), kind, last=9)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state)
        restored, _ = checkpoints.restore(after.parallel.abstract(state))
    _, more = run(after.step, restored, kind, first=9)
    assert_same(kind, losses + more)


@pytest.mark.slow
def test_several_seeds_train_under_vmap():
    kind, seeds = "language model", [0, 5, 6]
    alone = trained("one device", kind)
    states = [make_state(kind, 0.0, jax.random.key(seed)) for seed in seeds]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together = jax.jit(train.replicas(make_step(kind)))
    for i in range(4):
        stacked, metrics = together(stacked, batch_of(kind, i))
    found = np.asarray(metrics["loss"][0] / metrics["loss"][1])
    runs = [run(alone.step, alone.parallel.place_state(state), kind, last=4) for state in states]
    np.testing.assert_allclose(found, [losses[-1] for _, losses in runs], rtol=1e-5)
    for i, (state, _) in enumerate(runs):
        params = train.replica(stacked.params, i)
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

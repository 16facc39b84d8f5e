import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import train
from tfm_jax.train.optimizers import NO_DECAY, adam_noam, decay_mask

steps = st.integers(0, 100_000)
warmups = st.integers(1, 5_000)


@given(step=steps, warmup=warmups, d_model=st.sampled_from([1, 64, 512]), scale=st.sampled_from([1.0, 0.3]))
def test_noam_equals_equation_3_of_the_paper(step, warmup, d_model, scale):
    number = step + 1
    expected = scale * d_model**-0.5 * min(number**-0.5, number * warmup**-1.5)
    assert float(train.noam(d_model, warmup, scale)(step)) == pytest.approx(expected, rel=1e-5)
    same = train.inverse_sqrt(scale * (d_model * warmup) ** -0.5, warmup)
    assert float(same(step)) == pytest.approx(expected, rel=1e-5)


@given(step=steps, warmup=warmups, more=st.integers(1, 50_000), end=st.sampled_from([0.0, 0.1]))
def test_warmup_cosine_equals_the_formula(step, warmup, more, end):
    number, peak = step + 1, 0.4
    done = min(max((number - warmup) / (more + 1), 0.0), 1.0)
    expected = min(peak * number / warmup, end + (peak - end) * (1 + math.cos(math.pi * done)) / 2)
    schedule = train.warmup_cosine(peak, warmup, warmup + more, end)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@given(step=steps, warmup=warmups)
def test_warmup_constant_equals_the_formula(step, warmup):
    expected = 0.4 * min((step + 1) / warmup, 1)
    assert float(train.warmup_constant(0.4, warmup)(step)) == pytest.approx(expected, rel=1e-5)


def test_a_longer_schedule_is_held_or_starts_again():
    numbers = np.arange(12)
    first, second = train.warmup_cosine(0.4, 2, 5), train.warmup_constant(0.3, 3)
    held, again = (np.asarray(s(numbers)) for s in (train.hold(first, 5), train.rewarm(first, 5, second)))
    np.testing.assert_array_equal(held[:5], first(numbers[:5]))
    np.testing.assert_array_equal(held[5:], np.repeat(held[4], 7))
    np.testing.assert_array_equal(again[:5], first(numbers[:5]))
    np.testing.assert_array_equal(again[5:], second(numbers[:7]))
    assert held.dtype == again.dtype == np.float32 and held[4] > 0
    assert float(jax.jit(train.hold(first, 5))(9)) == pytest.approx(held[4], rel=1e-6)


def test_warmup_cosine_reaches_its_end_after_the_last_step():
    schedule = train.warmup_cosine(0.4, 5, 20, end=0.1)
    assert float(schedule(19)) > 0.1
    assert float(schedule(20)) == float(schedule(10**6)) == pytest.approx(0.1)


@given(warmup=st.sampled_from([1, 2, 7, 400]))
def test_schedules_rise_from_above_0_to_the_peak_at_the_end_of_warmup_and_fall(warmup):
    peak = 0.4
    schedules = {
        "noam": train.noam(64, warmup, peak * (64 * warmup) ** 0.5),
        "inverse_sqrt": train.inverse_sqrt(peak, warmup),
        "warmup_cosine": train.warmup_cosine(peak, warmup, 3 * warmup + 1),
    }
    for name, schedule in schedules.items():
        rates = np.asarray(schedule(jnp.arange(3 * warmup + 1)))
        assert rates[0] == pytest.approx(peak / warmup, rel=1e-5), name
        assert rates.argmax() == warmup - 1 or rates[warmup - 1] == pytest.approx(rates.max(), rel=1e-6), name
        assert rates[warmup - 1] == pytest.approx(peak, rel=1e-5), name
        assert (np.diff(rates[:warmup]) > 0).all() and (np.diff(rates[warmup - 1 :]) <= 1e-8).all(), name
        assert rates.dtype == np.float32


def test_schedules_are_traced_and_joined():
    # optax.join_schedules passes negative steps to each schedule
    joined = optax.join_schedules([train.noam(8, 10), train.inverse_sqrt(0.1, 5)], [20])
    values = jax.jit(jax.vmap(joined))(jnp.arange(40))
    assert bool(jnp.isfinite(values).all())
    assert float(train.noam(8, 10)(-3)) == float(train.noam(8, 10)(0))  # and not a nan
    assert float(values[25]) == pytest.approx(float(train.inverse_sqrt(0.1, 5)(5)))


def numpy_adam(gradients, rate, b1, b2, eps, decay, weight):
    mean = square = np.zeros_like(weight)
    for t, gradient in enumerate(gradients, start=1):
        mean, square = b1 * mean + (1 - b1) * gradient, b2 * square + (1 - b2) * gradient**2
        unit = (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + eps)
        weight = weight - rate(t - 1) * (unit + decay * weight)
    return weight


@given(seed=st.integers(0, 100), decay=st.sampled_from([0.0, 0.1]))
def test_optimizers_equal_adam_in_numpy(seed, decay):
    rng = np.random.default_rng(seed)
    weight, gradients = rng.normal(size=(3, 2)), rng.normal(size=(6, 3, 2))

    def noam(t):
        return 32**-0.5 * min((t + 1) ** -0.5, (t + 1) * 4**-1.5)

    cases = {
        "adam_noam": (adam_noam(32, 4), noam, 0.0),
        "adamw": (train.adamw(train.noam(32, 4), decay), noam, decay),
    }
    for name, (optimizer, rate, decay) in cases.items():
        params = {"kernel": jnp.asarray(weight, jnp.float32)}
        state = optimizer.init(params)
        with jax.numpy_dtype_promotion("standard"):
            for gradient in gradients:
                updates, state = optimizer.update(
                    {"kernel": jnp.asarray(gradient, jnp.float32)}, state, params
                )
                params = optax.apply_updates(params, updates)
        expected = numpy_adam(gradients, rate, 0.9, 0.98, 1e-9, decay, weight)
        np.testing.assert_allclose(params["kernel"], expected, rtol=1e-4, atol=1e-5, err_msg=name)


PARAMS = {
    "embedding": {"table": jnp.ones((7, 4))},
    "stack": {
        "position_embedding": {"table": jnp.ones((9, 4))},
        "position_bias": {"table": jnp.ones((8, 2))},
        # stacked layers: the bias is a matrix, the norm's scale too
        "layers": {
            "attention": {"query": {"kernel": jnp.ones((3, 4, 2, 2)), "bias": jnp.ones((3, 2, 2))}},
            "attention_norm": {"scale": jnp.ones((3, 4)), "bias": jnp.ones((3, 4))},
            "feed_forward": {"w_in": jnp.ones((3, 4, 5)), "b_in": jnp.ones((3, 5))},
        },
        "norm": {"scale": jnp.ones(4)},
    },
    "head": {"projection": {"kernel": jnp.ones((4, 7))}},
}
DECAYED = {
    "embedding/table",
    "stack/layers/attention/query/kernel",
    "stack/layers/feed_forward/w_in",
    "head/projection/kernel",
}


def paths(tree, keep):
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in named if keep(leaf)}


def test_decay_mask_depends_on_the_path_not_the_rank():
    assert paths(decay_mask(PARAMS), bool) == DECAYED
    assert paths(decay_mask(PARAMS, "table"), lambda decays: not decays) == {
        "embedding/table",
        "stack/position_embedding/table",
        "stack/position_bias/table",
    }


def test_adamw_decays_only_the_weights_of_the_mask():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for no_decay, expected in ((NO_DECAY, DECAYED), ("^", set())):
        optimizer = train.adamw(0.1, 0.5, no_decay=no_decay)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
        assert paths(updates, lambda u: bool((u != 0).any())) == expected
        for leaf in jax.tree.leaves(updates):
            assert float(leaf.min()) in (0.0, pytest.approx(-0.05))


def test_numbers_out_of_range_raise():
    with pytest.raises(ValueError, match="noam: got warmup=0; wanted an integer from 1 to"):
        train.noam(8, 0)
    with pytest.raises(ValueError, match="noam: got d_model=0; wanted"):
        adam_noam(0)
    with pytest.raises(ValueError, match="inverse_sqrt: got warmup=-1; wanted"):
        train.inverse_sqrt(0.1, -1)
    with pytest.raises(ValueError, match="warmup_cosine: got warmup=10 with steps=10; wanted fewer"):
        train.warmup_cosine(0.1, 10, 10)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: train.noam(8, 2, x), "noam: got scale="),
        (lambda x: adam_noam(8, 2, x), "noam: got scale="),
        (lambda x: train.noam(x, 2), "noam: got d_model="),
        (lambda x: train.inverse_sqrt(x, 2), "inverse_sqrt: got peak="),
        (lambda x: train.inverse_sqrt(0.1, x), "inverse_sqrt: got warmup="),
        (lambda x: train.warmup_constant(x, 2), "warmup_constant: got peak="),
        (lambda x: train.warmup_constant(0.1, x), "warmup_constant: got warmup="),
        (lambda x: train.hold(train.noam(8, 2), x), "hold: got steps="),
        (lambda x: train.rewarm(train.noam(8, 2), x, train.noam(8, 2)), "rewarm: got steps="),
        (lambda x: train.warmup_cosine(x, 2, 4), "warmup_cosine: got peak="),
        (lambda x: train.warmup_cosine(0.1, x, 4), "warmup_cosine: got warmup="),
        (lambda x: train.warmup_cosine(0.1, 2, x), "warmup_cosine: got steps="),
        (lambda x: train.warmup_cosine(0.1, 2, 4, x), "warmup_cosine: got end="),
        (lambda x: train.adamw(x), "adamw: got schedule="),
        (lambda x: train.adamw(0.1, x), "adamw: got weight_decay="),
        (lambda x: train.adamw(0.1, b1=x), "adamw: got b1="),
        (lambda x: train.adamw(0.1, b2=x), "adamw: got b2="),
        (lambda x: train.adamw(0.1, eps=x), "adamw: got eps="),
    ],
)
def test_invalid_numbers_raise_by_name(call, message):
    for wrong in (NAN, INF, -INF, -1, True, "0.1", None, [0.1]):
        with pytest.raises(ValueError, match=message):
            call(wrong)


def test_warmup_cosine_raises_for_an_end_above_the_peak():
    with pytest.raises(ValueError, match=r"got end=0.2 with peak=0.1; wanted at most the peak"):
        train.warmup_cosine(0.1, 2, 4, 0.2)


def test_first_step_changes_the_weights():
    params = {"kernel": jnp.ones(3)}
    for schedule in (train.noam(8, 100), train.inverse_sqrt(0.1, 100), train.warmup_cosine(0.1, 100, 1000)):
        optimizer = train.adamw(schedule)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert bool((updates["kernel"] < 0).all())
    chex.assert_tree_all_finite(updates)


def test_a_first_moment_in_bfloat16_loses_no_small_update():
    """A thousand updates of 1e-4 add up, as the parameters are float32; in bfloat16 1 - 1e-4 is 1."""
    params = {"w": jnp.ones(3)}
    optimizer = train.adamw(1e-4, 0.0, b2=0.999, mu_dtype="bfloat16")
    state = optimizer.init(params)
    gradients = {"w": jnp.array([1.0, -1.0, 1.0])}

    def update(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.numpy_dtype_promotion("standard"):
        params, state = jax.jit(lambda *carry: jax.lax.scan(update, carry, length=1000)[0])(params, state)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    moments = optax.tree.get(state, "mu")["w"], optax.tree.get(state, "nu")["w"]
    assert [x.dtype.name for x in moments] == ["bfloat16", "float32"]
    # The moment itself is rounded to 8 bits: of the moment 1 it reaches 0.98.
    np.testing.assert_allclose(params["w"] - 1, -0.1 * np.sign(gradients["w"]), rtol=0.03)
    assert optax.tree.get(train.adamw(1e-6).init(params), "mu")["w"].dtype == jnp.float32
    with pytest.raises(ValueError, match=r"adamw: got mu_dtype='float16'; wanted None"):
        train.adamw(1e-6, mu_dtype="float16")

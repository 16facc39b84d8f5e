import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import nn, train
from tfm_jax.train.metrics import add, read_late, total

pairs = st.lists(
    st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(0, 100).map(float)), min_size=1, max_size=8
)


@given(pairs)
def test_total_is_the_sum_and_means_are_weighted(values):
    arrays = [
        {"loss": (jnp.float32(s), jnp.float32(w)), "n": (jnp.float32(w), jnp.float32(1))} for s, w in values
    ]
    found = total(arrays)
    sums = np.asarray(values, np.float64).sum(0)
    assert found["loss"] == pytest.approx(tuple(sums), abs=1e-9)
    assert found["n"] == (sums[1], len(values))
    mean = train.means(found)["loss"]
    assert math.isnan(mean) if sums[1] == 0 else mean == pytest.approx(sums[0] / sums[1], abs=1e-9)


@given(pairs, st.randoms())
def test_sums_do_not_depend_on_grouping_or_order(values, random):
    metrics = [{"loss": pair} for pair in values]
    shuffled = random.sample(metrics, len(metrics))
    cut = random.randint(0, len(metrics))
    apart = add(total(shuffled[:cut]), total(shuffled[cut:]))
    assert apart["loss"] == pytest.approx(total(metrics)["loss"], abs=1e-6)


def test_total_is_exact_above_2_to_the_24():
    ones = [{"loss": (jnp.float32(2**24), jnp.float32(1))}, {"loss": (jnp.float32(1), jnp.float32(1))}] * 2
    assert total(ones)["loss"] == (2**25 + 2, 4)


def test_add_requires_the_same_names():
    first = {"loss": (jnp.float32(1), jnp.float32(2))}
    assert add({}, first) == add(first, {}) == first
    assert total([]) == {}
    with pytest.raises(ValueError, match=r"\['loss'\] and \['accuracy'\]; wanted the same names"):
        add(first, {"accuracy": (jnp.float32(1), jnp.float32(2))})


def test_read_late_reads_each_after_the_next_is_dispatched():
    made = []

    def steps():
        for i in range(5):
            made.append(i)
            yield {"loss": (jnp.float32(i), jnp.float32(1))}

    read = 0
    for i, metrics in enumerate(read_late(steps())):
        assert metrics == {"loss": (float(i), 1.0)}
        assert isinstance(metrics["loss"][0], float)
        assert len(made) == min(i + 2, 5)
        read += 1
    assert read == 5


def test_evaluate_sums_a_pass():
    def step(params, batch):
        return {"loss": (params * batch["x"].sum(), jnp.float32(len(batch["x"])))}

    batches = [{"x": jnp.ones(n)} for n in (1, 2, 5)]
    found = train.evaluate(step, jnp.float32(3), batches)
    assert found == {"loss": (24.0, 8.0)} and train.means(found) == {"loss": 3.0}
    with pytest.raises(ValueError, match="evaluate: got no batches; wanted at least one"):
        train.evaluate(step, jnp.float32(3), iter(()))


def test_means_of_auxiliary_losses_are_added_to_the_mean_of_the_loss():
    loss = jnp.float32(6), jnp.float32(3)
    auxiliary = {"a": (jnp.float32(10), jnp.float32(5)), "b": (jnp.float32(0), jnp.float32(0))}
    assert train.add_auxiliary(loss, auxiliary) == (6 + 3 * 2, 3)
    assert train.add_auxiliary(loss, {}) == loss
    assert train.add_auxiliary(loss, {**auxiliary, "reported": nn.Metric(*loss)}) == (6 + 3 * 2, 3)

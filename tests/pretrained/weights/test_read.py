"""Reading parameters: shardings, and peak memory."""

import dataclasses
import gc
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from tests.pretrained.weights.test_files import CONFIG, params  # noqa: F401  - a fixture
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.weights.read import flatten_with_paths


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):  # noqa: F811
    directory = tmp_path_factory.mktemp("saved") / "it"
    pretrained.save(directory, params, CONFIG)
    return directory


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 3), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:6])


def by_path(mesh, path, leaf):
    """Shards heads over "model", the rest over "data" where it divides."""
    if "query" in path:
        return NamedSharding(mesh, P(None, None, "model"))
    even = [i for i, size in enumerate(leaf.shape) if size % 2 == 0]
    return NamedSharding(mesh, P(*[None] * even[0], "data") if even else P())


def same(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_shardings_from_a_function_of_the_path(saved, params, mesh):  # noqa: F811
    _, got, _, _ = pretrained.load(saved, sharding=lambda path, leaf: by_path(mesh, path, leaf))
    same(got, params)
    for path, leaf in flatten_with_paths(got):
        assert leaf.sharding == by_path(mesh, path, leaf)
    query = got["stack"]["layers"]["attention"]["query"]["kernel"]
    assert query.shape == (2, 6, 3, 2) and {x.data.shape for x in query.addressable_shards} == {(2, 6, 1, 2)}


def test_a_tree_of_shardings(saved, params, mesh):  # noqa: F811
    last = SingleDeviceSharding(jax.devices()[7])
    tree = jax.tree.map(lambda x: last if x.ndim == 1 else NamedSharding(mesh, P()), params)
    _, got, _, _ = pretrained.load(saved, sharding=tree)
    same(got, params)
    assert jax.tree.map(lambda x: x.sharding, got) == tree


def test_not_a_sharding(saved):
    with pytest.raises(ValueError, match=r"load: got sharding=P.*data.*; wanted a jax\.sharding\.Sharding"):
        pretrained.load(saved, sharding=P("data"))


def test_one_sharding_for_all_parameters(saved, params, mesh):  # noqa: F811
    model, got, _, _ = pretrained.load(saved, "bfloat16", sharding=NamedSharding(mesh, P()))
    assert {leaf.sharding for leaf in jax.tree.leaves(got)} == {NamedSharding(mesh, P())}
    tokens = np.array([[1, 2, 3]])
    logits = jax.jit(model.apply)(got, tokens)
    assert logits.sharding.device_set == set(mesh.devices.flatten())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda mesh: NamedSharding(mesh, P("model")), r"embedding/table \(11, 6\): "),
        (
            lambda mesh: lambda path, leaf: P(),
            r"head/projection/kernel: wanted a jax.sharding.Sharding, got P",
        ),
        (
            lambda mesh: {"embedding": {"table": NamedSharding(mesh, P())}},
            r"missing \['head/projection/kernel'",
        ),
    ],
)
def test_invalid_shardings(saved, mesh, make, message):
    with pytest.raises(ValueError, match=message):
        pretrained.load(saved, sharding=make(mesh))


def memory(name):
    """Resident memory (VmRSS) or its peak (VmHWM) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 2**10


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux")
def test_peak_memory_is_the_weights_and_one_tensor(tmp_path):
    # Each tensor is over 32 MiB: an allocator may keep and reuse smaller ones, unseen.
    fields = {"d_model": 64, "n_heads": 1, "n_kv_heads": 1, "d_ff": 140_000, "n_layers": 3}
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **fields))
    shapes = jax.eval_shape(nn.functionalize(nn.Decoder, config.model).init, jax.random.key(0))
    pretrained.save(tmp_path / "it", jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes), config)
    # The first load also allocates for JAX and Python; its weights are freed when collected.
    jax.block_until_ready(pretrained.load(tmp_path / "it")[1])
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    got = jax.block_until_ready(pretrained.load(tmp_path / "it")[1])
    peak, leaves = memory("VmHWM") - before, jax.tree.leaves(got)
    stacked = max(leaf.nbytes for leaf in leaves)  # three tensors of the file
    assert stacked / 3 > 2**25
    assert peak < sum(leaf.nbytes for leaf in leaves) + stacked / 2

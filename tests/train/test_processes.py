"""Batches and checkpoints of several processes."""

import json

import numpy as np
import pytest

from tests.processes import run
from tfm_jax import data


def shown(n, *arguments, **options):
    outputs = run(n, "tests.process_cases", *arguments, **options)
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def expected_batches(seed):
    sampler = data.UniformBatchSampler(22, 8, seed)
    batches = [sampler[i][0] for i in range(4 if seed else 3)]
    return [np.maximum(batch, 0).tolist() for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_each_example_is_read_once_and_the_batches_are_those_of_one_process(n):
    tensor = {2: {"tensor": 4}, 4: {"data": 2, "tensor": 4}}[n]
    outputs = shown(n, "read", json.dumps([{"data": "auto"}, tensor]))
    parts = [part for part, _ in outputs]
    assert [part["share"] for part in parts] == [[i, n] for i in range(n)]
    evaluated = sorted(i for part in parts for i in part["evaluation"]["read"])
    assert evaluated == list(range(22))
    trained = [i for part in parts for i in part["training"]["read"]]
    assert len(trained) == 32 and len(set(trained)) == 22
    # processes that hold parts of the same heads read the same examples
    shares = {2: [[0, 1]] * 2, 4: [[0, 2], [0, 2], [1, 2], [1, 2]]}[n]
    assert sorted(part["share"] for _, part in outputs) == shares
    assert {len(part["training"]["read"]) for _, part in outputs} == {64 // n}
    for part in (part for output in outputs for part in output):
        assert part["evaluation"]["weight"] == 22
        assert part["training"]["batches"] == expected_batches(seed=3)
        assert part["evaluation"]["batches"] == expected_batches(seed=None)


@pytest.mark.slow
def test_a_checkpoint_of_4_processes_is_restored_by_1_by_2_and_on_8_devices(tmp_path):
    directory = tmp_path / "checkpoints"
    assert shown(4, "save", directory) == [{"steps": [2, 4, 5], "best": 2}] * 4
    kernel = np.arange(48.0).reshape(8, 6)
    for n, devices, aside in ((2, 2, "set_aside"), (1, 2, None), (1, 8, None)):
        for part in shown(n, "restore", directory, devices=devices):
            assert part["aside"] == aside
            assert part["steps"] == [2, 4]
            assert part["extra"] == {"position": 4}
            assert part["step"] == 4
            assert part["key"] == [0, 3]
            assert part["shard"] == [8 // (n * devices), 6]
            np.testing.assert_array_equal(part["kernel"], kernel * 16)
            np.testing.assert_array_equal(part["best"], kernel * 4)

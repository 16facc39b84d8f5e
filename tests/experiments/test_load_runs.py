"""A run of each experiment is loaded by load_run and used: what it says is what the experiment tested."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.classification.run import main as classification
from experiments.images.run import main as images
from experiments.language_model.run import main as language_model
from experiments.translation import decode
from experiments.translation.run import main as translation
from tests.experiments import test_language_model, test_translation
from tests.experiments.test_classification import result_of, write_texts
from tfm_jax import pretrained, runs

pytestmark = pytest.mark.slow
SMALL = (
    "--model.d-model", "16", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "16",
    "--train.steps", "40", "--train.batch-size", "16", "--train.evaluate-every", "20",
    "--train.checkpoint-every", "20", "--train.optimizer.warmup", "5", "--train.log-every", "20",
    "--train.optimizer.learning-rate", "1e-2",
)  # fmt: skip


def write_pictures(path, n):
    """Noise of many sizes, in a folder for each colour that it has too much of."""
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for i in range(n):
        colour = i % 3
        picture = rng.integers(0, 150, (*rng.integers(5, 30, 2), 3), np.uint8)
        picture[..., colour] += np.uint8(rng.integers(20, 100))
        file = path / ("red", "green", "blue")[colour] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)


@pytest.mark.parametrize("options", [[], ["--train.patience", "1"], ["--data.channels", "1"]], ids=str)
def test_images(tmp_path, options):
    out = tmp_path / "run"
    for n, split in ((90, "train"), (24, "validation"), (30, "test")):
        write_pictures(tmp_path / "data" / split, n)
    source = ["--data.source", str(tmp_path / "data"), "--data.size", "8", "12"]
    images([*SMALL, *source, "--views.copies", "0", "--out", str(out), *options])
    classifier = runs.load_run(out)
    assert isinstance(classifier, pretrained.ImageClassifier)
    files = sorted((tmp_path / "data" / "test").rglob("*.png"))
    found = [label.label for label in classifier(files)]
    accuracy = np.mean([label == file.parent.name for label, file in zip(found, files, strict=True)])
    assert accuracy == pytest.approx(result_of(out)["test_accuracy"])
    assert options == ["--data.channels", "1"] or accuracy > 0.5


def test_texts(tmp_path):
    out = tmp_path / "run"
    train, test = (write_texts(tmp_path / f"{i}.csv", n, i) for i, n in enumerate((200, 60)))
    columns = ["--data.text-column", "phrase", "--data.label-column", "kind", "--data.max-length", "7"]
    classification(
        [
            *SMALL,
            "--data.source",
            train,
            "--data.test",
            test,
            *columns,
            "--data.buckets",
            "1",
            "--out",
            str(out),
        ]
    )
    rows = list(csv.DictReader(Path(test).read_text().splitlines()))
    found = runs.load_run(out)([row["phrase"] for row in rows])
    accuracy = np.mean([label.label == row["kind"] for label, row in zip(found, rows, strict=True)])
    assert accuracy == pytest.approx(result_of(out)["test_accuracy"]) and accuracy > 0.5
    vectors = runs.load_sentence_encoder(out)([row["phrase"] for row in rows[:3]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)


def test_pairs_of_texts(tmp_path):
    """Whether both texts are the same word, one of them longer than the longest that is read."""
    out, files, words = tmp_path / "run", [], ["aa", "bbbb", "ccc" * 9]
    for number, n in enumerate((200, 50)):
        pairs = np.random.default_rng(number).choice(words, (n, 2))
        rows = [{"sentence1": a, "sentence2": b, "label": "same" if a == b else "other"} for a, b in pairs]
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data.task", "pair", "--data.source", str(files[0]), "--data.test", str(files[1])]
    classification([*SMALL, *data, "--data.max-length", "15", "--data.buckets", "1", "--out", str(out)])
    assert runs.read_task(out).pairs
    found = runs.load_run(out)([(row["sentence1"], row["sentence2"]) for row in rows])
    accuracy = np.mean([label.label == row["label"] for label, row in zip(found, rows, strict=True)])
    assert accuracy == pytest.approx(result_of(out)["test_accuracy"]) and accuracy > 0.3


def test_tokens(tmp_path):
    out, files = tmp_path / "run", []
    for number, n in enumerate((200, 30)):
        rng = np.random.default_rng(number)
        sentences = [rng.choice(["red", "cat", "runs", "2"], rng.integers(1, 6)).tolist() for _ in range(n)]
        kinds = {"red": "ADJ", "cat": "NOUN", "runs": "VERB", "2": "NUM"}
        rows = [{"tokens": words, "tags": [kinds[word] for word in words]} for words in sentences]
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data.task", "tokens", "--data.source", str(files[0]), "--data.test", str(files[1])]
    classification([*SMALL, *data, "--data.buckets", "1", "--out", str(out)])
    found = runs.load_run(out)([" ".join(row["tokens"]) for row in rows])
    correct = []
    for row, labels in zip(rows, found, strict=True):
        starts = np.cumsum([0, *(len(word) + 1 for word in row["tokens"])])[:-1]
        label_at = {label.start: label.label for label in labels}
        correct += [label_at[int(start)] == tag for start, tag in zip(starts, row["tags"], strict=True)]
    assert np.mean(correct) == pytest.approx(result_of(out)["test_accuracy"]) and np.mean(correct) > 0.5


def test_pairs_of_a_translation(tmp_path):
    out, test = tmp_path / "run", test_translation.write_pairs(tmp_path / "test.jsonl", 20, 1)
    source = test_translation.write_pairs(tmp_path / "train.jsonl", 200, 0)
    options = ["--data.test", test, "--data.pair", "en-fr", "--data.buckets", "1"]
    translation([*SMALL, "--data.source", source, *options, "--out", str(out)])
    pairs = [json.loads(line)["translation"] for line in Path(test).read_text().splitlines()]
    found = runs.load_run(out).translate([pair["en"] for pair in pairs])
    result, scores = result_of(out), decode.text_metrics("fr")(found, [pair["fr"] for pair in pairs])
    # After so few steps no translation is exact, but its characters are some of the reference.
    assert scores["chrf"] == pytest.approx(result["chrf"]) and scores["chrf"] > 1
    assert runs.read_task(out).task == "translation"


def test_prompts_of_a_language_model(tmp_path):
    out, texts = tmp_path / "run", test_language_model.make_texts(60, 0)
    rows = test_language_model.write_rows(tmp_path / "train.jsonl", texts)
    data = ["--data.source", rows, "--data.length", "32", "--data.overlap", "8", "--sample.tokens", "5"]
    language_model([*SMALL, *data, "--data.vocab-size", "300", "--out", str(out)])
    (text,) = runs.load_run(out).write(["the cat"], key=None, max_length=8)
    assert text and runs.read_task(out).task == "text-generation"

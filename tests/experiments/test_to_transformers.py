"""Fine-tuned classifiers, converted: transformers' pipeline gives the labels and scores of the run."""

import json

import jax
import numpy as np
import pytest

from experiments import command_line, init_from
from experiments.classification.config import Config
from experiments.classification.run import main
from tests.experiments.test_init_from import save_checkpoint
from tests.pretrained.families.test_families import BERT, POST
from tfm_jax import data, nn, runs

TEXTS = {
    "sport": [
        "the team won the match",
        "a late goal decided the game",
        "she runs a marathon",
        "the coach smiled",
    ],
    "food": ["bread and butter", "the soup is hot", "fresh fish with lemon", "a slice of apple pie"],
}
UNSEEN = ["the goal was late", "a slice of bread", "hot lemon soup " * 40]
ARGUMENTS = (
    "--pooling", "first", "--data.max-length", "24", "--data.held-out", "0.2", "--data.buckets", "1",
    "--train.steps", "3", "--train.batch-size", "4", "--train.evaluate-every", "3",
    "--train.checkpoint-every", "3", "--train.optimizer.warmup", "1",
)  # fmt: skip


@pytest.fixture
def source(tmp_path):
    rows = [
        (text + end, label) for label, texts in TEXTS.items() for text in texts for end in ("", " today", "!")
    ]
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny encoders of three families, with their tokenizer."""
    tokenizer = data.train_bpe([text for texts in TEXTS.values() for text in texts], 280)
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    fields = {
        "BertModel": BERT | {"positions": nn.Learned(32), "pooler": nn.Pooler("tanh")},
        "BertForMaskedLM": BERT | {"positions": nn.Learned(32)},
        "DistilBertModel": POST | {"positions": nn.Learned(32), "norm": nn.LayerNorm(1e-12)},
    }
    paths = {name: tmp_path_factory.mktemp(name) / "it" for name in fields}
    return {
        name: (path, save_checkpoint(path, name, fields[name], tokenizer, **special))
        for name, path in paths.items()
    }


def load(path, *options):
    config = command_line.parse(Config, ["--data.source", "names", "--init-from", str(path), *options])
    return init_from.load_initial_weights(config, init_from.ENCODERS)


def test_the_first_token_keeps_the_pooler_of_bert(checkpoints):
    path, params = checkpoints["BertModel"]
    config, initial = load(path, "--pooling", "first")
    assert config.model.pooler == nn.Pooler("tanh")
    jax.tree.map(np.testing.assert_array_equal, initial.params, {"encoder": params})
    config, initial = load(path)
    assert config.model.pooler is None and "pooler" not in initial.params["encoder"]


@pytest.mark.parametrize(("name", "activation"), [("BertForMaskedLM", "tanh"), ("DistilBertModel", "relu")])
def test_weights_without_a_pooler_get_that_of_their_family(checkpoints, name, activation):
    config, initial = load(checkpoints[name][0], "--pooling", "first")
    assert config.model.pooler == nn.Pooler(activation) and "pooler" not in initial.params["encoder"]


def test_another_pooler_is_an_error(checkpoints):
    options = "--pooling", "first", "--model.pooler", "Pooler(activation='relu')"
    with pytest.raises(
        ValueError, match=r"--model.pooler: configured Pooler\(activation='relu'.*weights have"
    ):
        load(checkpoints["BertModel"][0], *options)


def check_pipeline(run, directory):
    """The pipeline's labels and scores are those of the run's model, as ``load_run`` gives it."""
    transformers = pytest.importorskip("transformers")
    ours = runs.load_run(run)
    pipeline = transformers.pipeline("text-classification", str(directory), device="cpu")
    found = pipeline(UNSEEN, top_k=None, truncation=True)
    got = [{x["label"]: x["score"] for x in scores} for scores in found]
    got = np.array([[scores[label] for label in ours.labels] for scores in got])
    np.testing.assert_allclose(got, [x.scores for x in ours(UNSEEN)], rtol=0, atol=1e-5)
    return json.loads((directory / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parity
def test_a_pooler_without_weights_is_trained_and_converted(checkpoints, source, tmp_path):
    path = str(checkpoints["DistilBertModel"][0])
    main(["--out", str(tmp_path / "run"), "--data.source", source, *ARGUMENTS, "--init-from", path])
    assert runs.convert_run(tmp_path / "run", tmp_path / "new") == "DistilBertForSequenceClassification"
    config = check_pipeline(tmp_path / "run", tmp_path / "new")
    assert config["seq_classif_dropout"] == 0.1


@pytest.mark.slow
@pytest.mark.parity
def test_tags_of_words_are_those_of_the_pipeline(checkpoints, tmp_path):
    transformers = pytest.importorskip("transformers")
    lines = [
        f"the O\n{word} B-{kind}\nwon O\n" for word, kind in zip("abcdefghij", "XYXYXYXYXY", strict=True)
    ]
    (tmp_path / "tags.conll").write_text("\n".join(lines * 3))
    arguments = [*ARGUMENTS[2:], "--data.task", "tokens", "--data.source", str(tmp_path / "tags.conll")]
    path = str(checkpoints["BertForMaskedLM"][0])
    main(["--out", str(tmp_path / "run"), *arguments, "--init-from", path])
    assert runs.convert_run(tmp_path / "run", tmp_path / "new") == "BertForTokenClassification"
    pipeline = transformers.pipeline(
        "token-classification", str(tmp_path / "new"), device="cpu", ignore_labels=[]
    )
    for text, tagged in zip(UNSEEN[:2], runs.load_run(tmp_path / "run")(UNSEEN[:2]), strict=True):
        assert [text[word.start : word.end] for word in tagged] == text.split()
        tokens = pipeline(text)  # the first token of a word may begin with the space before it
        found = [next(x for x in tokens if x["end"] > word.start) for word in tagged]
        assert [x["entity"] for x in found] == [x.label for x in tagged] and len(tokens) > len(tagged)
        np.testing.assert_allclose([x["score"] for x in found], [x.score for x in tagged], rtol=0, atol=1e-5)

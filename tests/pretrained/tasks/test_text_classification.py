"""Text classification: labels follow the model's logits, independent of batching, as in transformers."""

import dataclasses
import json
import weakref

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from tests.memory import check_another_use_keeps_nothing
from tests.pretrained.families.test_families import FIELDS
from tests.pretrained.tasks.test_sentence_embedding import as_pickle
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of
from tfm_jax.pretrained.tasks import text_classification
from tfm_jax.pretrained.tasks.text_classification import Label, TokenLabel
from tfm_jax.train import make_mesh

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefg"]
TEXTS = ["a b c", "d", "e f g a b c d e f g", "  b  a"]
NAMES = {"0": "good", "1": "bad", "2": "so so"}
SEQUENCES, TOKENS = "BertForSequenceClassification", "BertForTokenClassification"


def tokenizer():
    it = tokenizers.Tokenizer(models.WordLevel({x: i for i, x in enumerate(WORDS)}, unk_token="[UNK]"))
    it.pre_tokenizer = pre_tokenizers.Whitespace()
    it.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    it.add_special_tokens(WORDS[:4])
    return it


def save(directory, architecture, **settings):
    pooler = nn.Pooler("tanh") if architecture == SEQUENCES else None
    fields = FIELDS["bert"] | {"pooler": pooler, "dropout_rate": 0.1, "attention_dropout_rate": 0.1}
    config = pretrained.CheckpointConfig(architecture, nn.Config(**fields), {"id2label": NAMES} | settings)
    shapes = jax.eval_shape(model_of(config, find_family(architecture)).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    pretrained.save(directory, params, config, tokenizer())
    return directory


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "model"


def logits(classifier, text, types=None):
    """The logits of one text, truncated to the nine positions of the model."""
    ids = np.array([2, *(WORDS.index(x) for x in text.split()[:7]), 3])
    return np.asarray(classifier.model.apply(classifier.params, ids, token_types=types))


def test_each_text_gets_the_label_of_the_largest_logit(directory):
    classifier = pretrained.load_text_classifier(save(directory, SEQUENCES))
    assert classifier.labels == ("good", "bad", "so so") and classifier.max_length == 9
    found = classifier(TEXTS, batch_size=3)
    for text, label in zip(TEXTS, found, strict=True):
        wanted = np.exp(logits(classifier, text)) / np.exp(logits(classifier, text)).sum()
        np.testing.assert_allclose(label.scores, wanted, rtol=1e-5, atol=1e-6)
        assert label.label == classifier.labels[wanted.argmax()] and label.score == label.scores.max()
    assert np.ptp([label.scores for label in found], axis=0).max() > 0.01
    assert classifier([]) == [] and classifier.tokenizer.truncation is None


def test_loading_a_config_again_compiles_nothing_and_keeps_nothing(directory):
    save(directory, SEQUENCES)

    def use():
        classifier = pretrained.load_text_classifier(directory)
        classifier(TEXTS)
        return weakref.ref(classifier)

    check_another_use_keeps_nothing(use, text_classification._scores)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"problem_type": "multi_label_classification"}, lambda x: 1 / (1 + np.exp(-x))),
        ({"problem_type": "regression"}, lambda x: x),
        ({"id2label": {"0": "it"}}, lambda x: 1 / (1 + np.exp(-x))),
        ({"id2label": {"0": "it"}, "problem_type": "regression"}, lambda x: x),
    ],
)
def test_scores_follow_the_problem_type(directory, settings, wanted):
    classifier = pretrained.load_text_classifier(save(directory, SEQUENCES, **settings))
    (label,) = classifier(TEXTS[:1])
    np.testing.assert_allclose(label.scores, wanted(logits(classifier, TEXTS[0])), rtol=1e-5, atol=1e-6)


def test_token_types_separate_a_pair_of_texts(directory):
    classifier = pretrained.load_text_classifier(save(directory, SEQUENCES, problem_type="regression"))
    (label,) = classifier([("a b", "c")])
    wanted = logits(classifier, "a b [SEP] c", np.array([0, 0, 0, 0, 1, 1]))
    np.testing.assert_allclose(label.scores, wanted, rtol=1e-5, atol=1e-6)
    assert not np.allclose(wanted, logits(classifier, "a b [SEP] c"), atol=1e-3)


def test_token_labels_have_the_offsets_of_their_tokens(directory):
    classifier = pretrained.load_text_classifier(
        save(directory, TOKENS, problem_type="multi_label_classification")
    )
    assert isinstance(classifier, pretrained.TokenClassifier)
    for text, labels in zip(TEXTS, classifier(TEXTS, batch_size=3), strict=True):
        assert [text[x.start : x.end] for x in labels] == text.split()[:7]
        x = logits(classifier, text)[1:-1]
        wanted = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        np.testing.assert_allclose([label.scores for label in labels], wanted, rtol=1e-5, atol=1e-6)
        assert [label.label for label in labels] == [classifier.labels[i] for i in wanted.argmax(-1)]


@pytest.mark.parametrize("config", [SEQUENCES, TOKENS])
def test_devices_share_each_batch(directory, config):
    directory = save(directory, config)
    mesh = make_mesh(data=3)
    classifier = pretrained.load_text_classifier(directory, mesh=mesh)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(classifier.params)} == {3}
    seen, run = [], classifier._run
    classifier.__dict__["_run"] = lambda *batch: seen.append(batch) or run(*batch)
    wanted = pretrained.load_text_classifier(directory)(TEXTS)

    def scores(labels):
        return [x.scores for x in jax.tree.leaves(labels, is_leaf=is_label)]

    def is_label(x):
        return isinstance(x, Label | TokenLabel)

    np.testing.assert_allclose(scores(classifier(TEXTS)), scores(wanted), rtol=1e-5, atol=1e-6)
    (batch,) = seen
    with pytest.raises(ValueError, match="wanted axes of type Auto, as those of train"):
        pretrained.load_text_classifier(directory, mesh=jax.make_mesh((3,), ("x",)))
    # Four sequences are padded to six, two on each device.
    assert [x.sharding.shard_shape(x.shape) for x in batch] == [(1, 2, 9)] * 3


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("config.json", {"problem_type": "guess"}, ValueError, "got problem_type='guess'; wanted one of"),
        (
            "config.json",
            {"id2label": {"1": "x"}},
            ValueError,
            "got id2label=.*; wanted a name",
        ),
        ("tokenizer.json", None, FileNotFoundError, "got no tokenizer in"),
    ],
)
def test_a_checkpoint_that_cannot_classify_is_an_error(directory, name, change, error, message):
    file = save(directory, SEQUENCES) / name
    if change is None:
        file.unlink()
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(error, match=message):
        pretrained.load_text_classifier(directory)


def test_a_model_without_a_classifier_is_an_error(directory):
    config = pretrained.CheckpointConfig("BertModel", nn.Config(**FIELDS["bert"]))
    params = model_of(config, find_family("BertModel")).init(jax.random.key(0))
    pretrained.save(directory, params, config, tokenizer())
    with pytest.raises(ValueError, match=r"got .*, a BertModel; wanted a text classifier"):
        pretrained.load_text_classifier(directory)


def test_texts_must_be_a_list(directory):
    classifier = pretrained.load_text_classifier(save(directory, SEQUENCES))
    with pytest.raises(ValueError, match="got texts='a b', one string; wanted a list of strings"):
        classifier("a b")
    with pytest.raises(ValueError, match=r"got texts\[1\]=None; wanted a string"):
        classifier(["a b", None])
    with pytest.raises(ValueError, match="got batch_size=0; wanted an integer of at least 1"):
        classifier(TEXTS, batch_size=0)


def test_the_maximum_length_is_that_of_the_tokenizer_config(directory):
    save(directory, SEQUENCES)
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4}))
    classifier = pretrained.load_text_classifier(directory)
    assert classifier.max_length == 4
    short = classifier(["a b"])[0].scores
    np.testing.assert_allclose(classifier(["a b c d"])[0].scores, short, rtol=1e-5, atol=1e-6)
    longer = dataclasses.replace(classifier, max_length=6)(["a b c d"])[0].scores
    assert not np.allclose(longer, short, atol=1e-3)
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 2}))
    with pytest.raises(ValueError, match=r"length of 2 tokens; wanted .* above the 2 special"):
        pretrained.load_text_classifier(directory)


def change_settings(directory, **settings):
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_the_truncation_side_is_that_of_the_tokenizer_config(directory):
    save(directory, SEQUENCES, problem_type="regression")
    change_settings(directory, model_max_length=4, truncation_side="left")
    (label,) = pretrained.load_text_classifier(directory)(["a b c d"])
    wanted = logits(pretrained.load_text_classifier(directory), "c d")
    np.testing.assert_allclose(label.scores, wanted, rtol=1e-5, atol=1e-6)


def test_token_types_are_used_only_where_the_tokenizer_config_lists_them(directory):
    save(directory, SEQUENCES, problem_type="regression")
    change_settings(directory, model_input_names=["input_ids", "attention_mask"])
    classifier = pretrained.load_text_classifier(directory)
    (label,) = classifier([("a b", "c")])
    np.testing.assert_allclose(label.scores, logits(classifier, "a b [SEP] c"), rtol=1e-5, atol=1e-6)


def test_a_token_outside_the_vocabulary_is_an_error_that_names_the_text(directory):
    save(directory, SEQUENCES)
    more = tokenizer()
    more.add_tokens(["new", "newer"])
    more.save(str(directory / "tokenizer.json"))
    classifier = pretrained.load_text_classifier(directory)
    V = classifier.params["encoder"]["embedding"]["table"].shape[0]
    assert more.get_vocab_size() > V
    assert len(classifier(["a b", "g"])) == 2
    i = more.token_to_id("newer")
    with pytest.raises(
        ValueError, match=rf"text 1 \('a newer'\): got the token 'newer' with the id {i}; wanted"
    ):
        classifier(["a", "a newer"])


@pytest.mark.parity
@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
def test_sequence_labels_equal_those_of_a_transformers_pipeline(directory, problem):
    pipe = pipeline("text-classification", save(directory, SEQUENCES, problem_type=problem))
    texts = [text for text in TEXTS if len(text) < 9]  # the pipeline does not truncate
    for wanted, got in zip(
        pipe(texts, top_k=None), pretrained.load_text_classifier(directory)(texts), strict=True
    ):
        scores = {x["label"]: x["score"] for x in wanted}
        np.testing.assert_allclose(got.scores, [scores[name] for name in NAMES.values()], atol=1e-5)
        assert (got.label, pytest.approx(got.score, abs=1e-5)) == (wanted[0]["label"], wanted[0]["score"])


@pytest.mark.parity
def test_token_labels_equal_those_of_a_transformers_pipeline(directory):
    pipe = pipeline("token-classification", save(directory, TOKENS), ignore_labels=[])
    texts = [text for text in TEXTS if len(text) < 9]
    found = pretrained.load_text_classifier(directory)(texts)
    for text, got in zip(texts, found, strict=True):
        wanted = [
            (x["start"], x["end"], x["entity"], pytest.approx(x["score"], abs=1e-5)) for x in pipe(text)
        ]
        assert [label[:4] for label in got] == wanted


def pipeline(task, directory, **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch").set_num_threads(1)
    reference = getattr(transformers, SEQUENCES if task.startswith("text") else TOKENS).from_pretrained(
        directory
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), pad_token="[PAD]", model_max_length=9
    )
    return transformers.pipeline(task, model=reference, tokenizer=fast, device=-1, **options)


@pytest.mark.parity
def test_a_pickle_is_read_only_if_allowed(directory):
    wanted = pretrained.load_text_classifier(save(directory, SEQUENCES))(TEXTS)
    as_pickle(directory)
    with pytest.raises(ValueError, match=r"got a pickle, .* or pass allow_pickle=True"):
        pretrained.load_text_classifier(directory)
    found = pretrained.load_text_classifier(directory, allow_pickle=True)(TEXTS)
    assert [x.label for x in found] == [x.label for x in wanted]
    np.testing.assert_array_equal([x.scores for x in found], [x.scores for x in wanted])

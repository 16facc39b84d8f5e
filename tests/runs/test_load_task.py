"""A run is loaded as the object of its task, which prepares its input as the training did."""

import dataclasses
import functools
import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from experiments.images.model import make_preprocess, write_preprocessing
from tests.pretrained.tasks.test_image_classification import save as save_vit
from tests.pretrained.tasks.test_text_classification import SEQUENCES, save
from tests.saved_runs import CONFIG, make_run
from tfm_jax import data, generate, nn, pretrained, runs, train
from tfm_jax.train import make_mesh

LABELS = ("good", "bad", "so so")
TEXTS = ["abc", "", "h", "gfe dcba", "abcdefgh" * 3, "<eos>", "xyz"]
TEXT = runs.Task(
    task="text-classification", labels=LABELS, pooling="mean", head_dropout_rate=0.5, max_length=9
)
TASKS = {
    "text": TEXT,
    "first": dataclasses.replace(TEXT, pooling="first"),
    "pair": dataclasses.replace(TEXT, pairs=True),
    "tokens": runs.Task(task="token-classification", labels=LABELS, max_length=9),
}
TYPED = dataclasses.replace(CONFIG, token_types=2, vocab_size=12)


def classifier_of(task, **options):
    return functools.partial(
        nn.Classifier,
        n_classes=len(LABELS),
        pooling=task.pooling,
        dropout_rate=task.head_dropout_rate,
        **options,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of each task of texts, by its name."""
    path = tmp_path_factory.mktemp("runs")
    for name, task in TASKS.items():
        make_run(path / name, classifier_of(task), TYPED if name == "pair" else CONFIG, task=task)
    make_run(path / "translation", nn.EncoderDecoder, task=runs.Task(task="translation"))
    make_run(path / "prompts", nn.Decoder, task=runs.Task(task="text-generation"))
    return path


def logits_of(directory, task, examples):
    """The logits of a training batch of all examples."""
    found = runs.load_model(directory)
    model = nn.functionalize(classifier_of(task), found.config)
    batch = examples.take(np.arange(len(examples)))
    apply = jax.jit(model.apply)
    logits = apply(found.params, batch["tokens"], batch["valid"], token_types=batch.get("token_types"))
    return batch, np.asarray(jax.nn.softmax(logits))


@pytest.mark.parametrize("name", ["text", "first"])
def test_texts_are_read_as_in_training(made, name):
    classifier = runs.load_run(made / name)
    assert type(classifier) is pretrained.TextClassifier and classifier.labels == LABELS
    tokenizer, zeros = data.load_tokenizer(made / name), np.zeros(len(TEXTS), int)
    examples = data.text_classification_examples(TEXTS, zeros, tokenizer, 3, max_length=9)
    _, wanted = logits_of(made / name, TASKS[name], examples)
    found = classifier(TEXTS, batch_size=3)
    np.testing.assert_allclose([label.scores for label in found], wanted, rtol=1e-5, atol=1e-6)
    assert [label.label for label in found] == [LABELS[i] for i in wanted.argmax(-1)]
    assert np.ptp(wanted, axis=0).max() > 1e-3


def test_pairs_are_read_as_in_training(made):
    pairs = [("abc", "d"), ("abcdefgh", "hgf"), ("a", "b")]
    tokenizer = data.load_tokenizer(made / "pair")
    options = {"max_length": 9, "token_types": True}
    examples = data.text_pair_classification_examples(pairs, np.zeros(3, int), tokenizer, 3, **options)
    _, wanted = logits_of(made / "pair", TASKS["pair"], examples)
    found = runs.load_run(made / "pair")(pairs)
    np.testing.assert_allclose([label.scores for label in found], wanted, rtol=1e-5, atol=1e-6)


def test_tokens_are_read_as_in_training(made):
    words = [["ab", "c"], ["d"], ["abcd", "efgh", "ab"]]
    tokenizer, zeros = data.load_tokenizer(made / "tokens"), [np.zeros(len(x), int) for x in words]
    examples = data.token_classification_examples(words, zeros, tokenizer, 3, max_length=9)
    batch, wanted = logits_of(made / "tokens", TASKS["tokens"], examples)
    classifier = runs.load_run(made / "tokens")
    assert type(classifier) is pretrained.TokenClassifier
    spans = [[(0, 2), (3, 4)], [(0, 1)], [(0, 4), (5, 9)]]  # the last "ab" is truncated
    for i, labels in enumerate(classifier([" ".join(x) for x in words])):
        first = examples.positions[i][examples.positions[i] >= 0]
        assert len(first) == len(spans[i]) and batch["weights"][i].sum() == len(first)
        np.testing.assert_allclose([x.scores for x in labels], wanted[i, first], rtol=1e-5, atol=1e-6)
        assert [(x.start, x.end) for x in labels] == spans[i]
    (labels,) = classifier(["  ab\tc \n"])
    assert [(x.start, x.end) for x in labels] == [(2, 4), (5, 6)]
    assert classifier(["", " "]) == [[], []]
    with pytest.raises(ValueError, match=r"TokenClassifier: got .* wanted"):
        classifier([("ab", "c")])


def test_bos_and_eos_of_a_text_are_those_of_training_whatever_the_tokenizer_adds(tmp_path):
    task, vocab = TASKS["text"], {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, "a": 4, "b": 5}
    run = make_run(tmp_path, classifier_of(task), task=task)
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A <pad>", special_tokens=[("<pad>", 0)])
    backend.save(str(run / "tokenizer.json"))
    assert runs.load_run(run).tokenizer.encode("a b").ids == [1, 4, 5, 2]


@pytest.mark.parametrize("name", ["text", "first", "tokens"])
def test_a_sentence_vector_is_what_the_head_of_the_run_reads(made, name):
    encoder = runs.load_sentence_encoder(made / name)
    found, config = runs.load_model(made / name), encoder.model.config
    tokenizer = data.load_tokenizer(made / name)
    for text, vector in zip(["abc", "abcdefgh" * 3], encoder(["abc", "abcdefgh" * 3]), strict=True):
        ids = np.array([1, *tokenizer.encode(text)[:7], 2], np.int32)
        apply = jax.jit(nn.functionalize(nn.Encoder, config).apply)
        hidden = np.asarray(apply(found.params["encoder"], ids))
        wanted = hidden[0] if name == "first" else hidden.mean(0)
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), rtol=1e-4, atol=1e-5)


def test_a_generator_is_loaded_by_its_task(made):
    for name, kind in {"translation": nn.EncoderDecoder, "prompts": nn.Decoder}.items():
        for found in (runs.load_run(made / name), runs.load_text_generator(made / name)):
            assert isinstance(found, generate.TextGenerator) and found.model.module is kind


def test_a_run_translates_by_the_search_that_it_tested_with(made, tmp_path):
    search = {"beams": 1, "length_penalty": 0.2}
    run = make_run(tmp_path / "run", nn.EncoderDecoder, settings={"search": search})
    for path, wanted in {run: search, made / "translation": {"beams": 4, "length_penalty": 0.6}}.items():
        config = runs.load_run(path).default_config
        assert {name: getattr(config, name) for name in wanted} == wanted and config.eos_ids == (2,)
    wrong = make_run(tmp_path / "wrong", nn.EncoderDecoder, settings={"search": {"beams": 0}})
    with pytest.raises(ValueError, match=r"config\.json: got no valid config \(.*beams=0"):
        runs.load_run(wrong)


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (
            "load_text_generator",
            "text",
            "for text-classification; wanted one for text-generation or translation",
        ),
        (
            "load_text_classifier",
            "translation",
            r"for translation; wanted one for text-c.* Load it by runs\.load_text_g",
        ),
        (
            "load_sentence_encoder",
            "translation",
            "for translation; wanted one for text-classification or token",
        ),
        (
            "load_sentence_encoder",
            "prompts",
            "for text-generation; wanted one for text-classification or token",
        ),
        ("load_image_classifier", "text", "for text-classification; wanted one for image-classification"),
    ],
)
def test_a_run_for_another_task_is_an_error(made, load, name, message):
    with pytest.raises(ValueError, match=f"^{load}: got .*{name}, a run {message}"):
        getattr(runs, load)(made / name)


def test_a_translator_of_an_older_version_is_no_classifier(tmp_path):
    run = make_run(tmp_path, nn.EncoderDecoder)
    assert runs.load_text_generator(run).model.module is nn.EncoderDecoder
    with pytest.raises(ValueError, match=r"load_text_classifier: got .*, a run for translation; wanted"):
        runs.load_text_classifier(run)


def test_a_checkpoint_is_loaded_as_by_pretrained(tmp_path):
    bert = save(tmp_path / "bert", SEQUENCES)
    for found, wanted in (
        (runs.load_text_classifier(bert), pretrained.load_text_classifier(bert)),
        (runs.load_sentence_encoder(bert), pretrained.load_sentence_encoder(bert)),
        (
            runs.load_image_classifier(save_vit(tmp_path / "vit")),
            pretrained.load_image_classifier(tmp_path / "vit"),
        ),
    ):
        assert type(found) is type(wanted) and found.model == wanted.model
        chex.assert_trees_all_equal(found.params, wanted.params)
    with pytest.raises(ValueError, match=r"load_run: got .*, whose config\.json is no run's; wanted"):
        runs.load_run(bert)
    rounded = runs.load_text_classifier(bert, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(rounded.params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "name",
    ["load_text_generator", "load_text_classifier", "load_image_classifier", "load_sentence_encoder"],
)
def test_an_option_that_does_not_fit_the_source_is_an_error(made, tmp_path, name):
    load = getattr(runs, name)
    with pytest.raises(ValueError, match=f"^{name}: got allow_pickle=True for .*, which is a run; wanted"):
        load(made / "text", allow_pickle=True)
    with pytest.raises(ValueError, match=f"^{name}: got average=2 for .*, which is no run; wanted"):
        load(tmp_path, average=2)
    with pytest.raises(ValueError, match=f"^{name}: got dtype='float16'; wanted None or one of"):
        load(tmp_path, dtype="float16")


def test_settings_of_generation_are_for_a_checkpoint(made):
    with pytest.raises(ValueError, match=r"got generation={'num_beams': 2} for .*, which is a run"):
        runs.load_text_generator(made / "translation", generation={"num_beams": 2})


def test_devices_share_each_batch_of_a_run(made):
    shared, alone = (
        runs.load_text_classifier(made / "text", mesh=make_mesh(data=2)),
        runs.load_run(made / "text"),
    )
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(shared.params)} == {2}
    for got, wanted in zip(shared(TEXTS), alone(TEXTS), strict=True):
        np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-5, atol=1e-6)


def test_a_classifier_that_stops_early_is_its_best_checkpoint(tmp_path):
    task, options = TASKS["text"], {"settings": {"train": {"checkpoint_every": 1, "patience": 2}}}
    run = make_run(
        tmp_path, classifier_of(task), scales=(1.0, 2.0, 3.0), task=task, losses=(0.5, 0.3, 0.4), **options
    )
    for average, step in ((None, 2), (1, 3)):
        wanted = train.load_params(run / "checkpoints", step)
        chex.assert_trees_all_equal(runs.load_run(run, average=average).params, wanted)


SIDES = {"as they are": None, "resized": (8, 12)}
PICTURES = [(8, 12), (20, 31), (5, 3), (8, 12)]


def examples_of(pictures, size, channels):
    """The examples of image files, as the experiment reads them."""
    import datasets

    def encode(picture):
        picture.save(file := io.BytesIO(), "png")
        return {"bytes": file.getvalue(), "path": None}

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [encode(x) for x in pictures], "label": [0] * len(pictures)}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    options = {"size": size, "channels": channels, "classes": 3}
    return data.image_classification_examples(dataset, **options)


def image_run(path, channels, processing=None):
    """A run of images of 8 x 12, from scratch or with that of initial weights."""
    count = 3 if processing else channels
    patches = nn.Patches(8, 12, count, 4)
    config = dataclasses.replace(CONFIG, patches=patches, positions=nn.Learned(6), tie_embeddings=True)
    task = runs.Task(task="image-classification", labels=LABELS, pooling="mean", channels=channels)
    path.mkdir()
    if processing:
        (path / runs.PROCESSOR_FILE).write_text(json.dumps(processing))
    preprocess = make_preprocess(path, patches)
    write_preprocessing(path, preprocess, (8, 12), patches)
    assert make_preprocess(path, patches).channels == count
    make_run(path, classifier_of(task), config, task=task)
    return path, config, make_preprocess(path, patches)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "processing", [None, {"size": {"height": 8, "width": 12}, "resample": 2}], ids=["scratch", "ViT"]
)
def test_image_files_are_read_as_in_training(tmp_path, channels, processing):
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*sides, 3), np.uint8)) for sides in PICTURES]
    run, config, preprocess = image_run(tmp_path / "run", channels, processing)
    images = examples_of(pictures, (8, 12), channels).take(np.arange(4))["images"]
    pixels = np.asarray(preprocess(images))  # in the model of the experiment
    classifier = runs.load_run(run)
    assert isinstance(classifier, pretrained.ImageClassifier) and classifier.labels == LABELS
    used = np.stack([classifier._pixels(x, i) for i, x in enumerate(pictures)])
    if processing is None:
        np.testing.assert_array_equal(used, pixels)
    else:
        np.testing.assert_allclose(used, pixels, rtol=0, atol=2e-7)  # normalized in another order
    model = nn.functionalize(nn.Classifier, config, 3)
    wanted = jax.nn.softmax(model.apply(classifier.params, pixels))
    found = [label.scores for label in classifier(pictures, batch_size=3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    (of_file,) = runs.load_image_classifier(run)(pictures[1:2])
    np.testing.assert_allclose(of_file.scores, found[1], rtol=1e-5, atol=1e-6)


def test_images_are_not_resized_twice(tmp_path):
    with pytest.raises(
        ValueError, match=r"--data.size: got 8 x 12; wanted 6 x 8, to which the preproc.* resizes them"
    ):
        image_run(tmp_path / "run", 3, {"size": {"height": 6, "width": 8}})


def test_a_run_of_images_without_its_preprocessing_is_an_error(tmp_path):
    run, *_ = image_run(tmp_path / "run", 3)
    (run / runs.PROCESSOR_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        runs.load_run(run)

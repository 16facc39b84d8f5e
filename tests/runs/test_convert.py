"""Runs as checkpoints of transformers: files, tokenizers, special tokens, labels; those that do not fit."""

import functools
import json

import numpy as np
import pytest

from tests.cli.conftest import tfm  # noqa: F401  - a fixture
from tests.saved_runs import make_run
from tfm_jax import nn, pretrained, runs

ORIGIN = runs.Origin(versions={}, data={}, seed=0)
SIZES = {"vocab_size": 0, "d_model": 16, "n_heads": 2, "d_ff": 8, "n_layers": 1}
LANGUAGE_MODEL = nn.Config(**SIZES, norm=nn.RMSNorm(), positions=nn.Rope(), feed_forward=nn.Glu())
TRANSLATION = nn.Config(**SIZES)
ENCODER = nn.Config(
    **SIZES,
    norm_placement="post",
    final_norm=False,
    embedding_norm=True,
    positions=nn.Learned(12),
    attention_bias=True,
    pooler=nn.Pooler(),
)
LABELS = ("so so", "good", "bad")
CLASSIFIER = {"task": "text-classification", "labels": LABELS, "head_dropout_rate": 0.25, "max_length": 9}
TEXTS = ["abc", "hgfe a", "ab" * 9]


def a_run(path, module, config, *, task, **options):
    path.mkdir()
    make_run(path, module, config, **options)
    runs.write_task(path, runs.Task(**task), ORIGIN)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory of a run by its task, and that of its checkpoint."""

    @functools.cache
    def make(name):
        directory = tmp_path_factory.mktemp("converted")
        module, config, task = {
            "language model": (nn.Decoder, LANGUAGE_MODEL, {"task": "text-generation", "max_length": 12}),
            "translation": (nn.EncoderDecoder, TRANSLATION, {"task": "translation", "max_length": 12}),
            "classifier": (classifier("first"), ENCODER, {**CLASSIFIER, "pooling": "first"}),
        }[name]
        path = a_run(directory / "run", module, config, task=task, scales=(1.0, 2.0))
        architecture = runs.convert_run(path, directory / "checkpoint")
        return path, directory / "checkpoint", architecture

    return make


def classifier(pooling):
    return functools.partial(nn.Classifier, n_classes=len(LABELS), pooling=pooling)


def read(directory, name):
    return json.loads((directory / name).read_text())


def test_pairs_have_token_types(tmp_path):
    config = nn.Config(**{**vars(ENCODER), "token_types": 2})
    task = {**CLASSIFIER, "pooling": "first", "pairs": True}
    run = a_run(tmp_path / "run", classifier("first"), config, task=task)
    runs.convert_run(run, tmp_path / "new")
    assert "token_type_ids" in read(tmp_path / "new", "tokenizer_config.json")["model_input_names"]
    pairs = [("abc", "hgfe"), ("a", "b" * 9)]
    found, wanted = pretrained.load_text_classifier(tmp_path / "new")(pairs), runs.load_run(run)(pairs)
    np.testing.assert_allclose([x.scores for x in found], [x.scores for x in wanted], rtol=0, atol=1e-6)


def test_a_run_of_an_older_version(tmp_path):
    run = a_run(tmp_path / "run", nn.EncoderDecoder, TRANSLATION, task={"task": "translation"})
    (run / "task.json").unlink()
    assert runs.convert_run(run, tmp_path / "new") == "PegasusForConditionalGeneration"
    assert read(tmp_path / "new", "generation_config.json")["max_length"] == 1024


def test_a_directory_with_files_is_left_as_it_is(tfm, made, tmp_path):  # noqa: F811
    run, *_ = made("classifier")
    (tmp_path / "mine").write_text("mine")
    status, out, err = tfm("convert", run, tmp_path)
    assert (status, out) == (2, "") and f"got {tmp_path}, which is not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_language_model_is_a_llama(made):
    _, directory, architecture = made("language model")
    assert architecture == "LlamaForCausalLM"
    config = read(directory, "config.json")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    assert {name: config[name] for name in ids} == ids and config["max_position_embeddings"] == 12
    assert read(directory, "generation_config.json") == ids
    tokenizer = read(directory, "tokenizer_config.json")
    assert (tokenizer["model_max_length"], tokenizer["padding_side"]) == (12, "left")
    assert [tokenizer[f"{role}_token"] for role in ("pad", "bos", "eos")] == ["<pad>", "<bos>", "<eos>"]


def test_a_translation_model_is_a_pegasus(made):
    _, directory, architecture = made("translation")
    assert architecture == "PegasusForConditionalGeneration"
    config = read(directory, "config.json")
    assert (config["decoder_start_token_id"], config["forced_eos_token_id"]) == (1, 2)
    found = read(directory, "generation_config.json")
    assert found["decoder_start_token_id"] == 1 and found["max_length"] == 62


def test_a_classifier_has_its_labels(made):
    _, directory, architecture = made("classifier")
    assert architecture == "BertForSequenceClassification"
    config = read(directory, "config.json")
    assert config["id2label"] == {"0": "so so", "1": "good", "2": "bad"}
    assert config["label2id"] == {"so so": 0, "good": 1, "bad": 2}
    assert config["problem_type"] == "single_label_classification"
    assert config["classifier_dropout"] == 0.25
    assert read(directory, "tokenizer_config.json")["model_max_length"] == 9


def test_this_library_loads_it_too(made):
    run, directory, _ = made("language model")
    write = functools.partial(runs.load_run(run).write, ["abc", "h"], key=None, max_length=7)
    again = pretrained.load_text_generator(directory)
    assert again.write(["abc", "h"], key=None, max_length=7) == write()
    run, directory, _ = made("classifier")
    found, wanted = pretrained.load_text_classifier(directory)(TEXTS), runs.load_run(run)(TEXTS)
    assert [x.label for x in found] == [x.label for x in wanted]
    np.testing.assert_allclose([x.scores for x in found], [x.scores for x in wanted], rtol=0, atol=1e-6)


@pytest.mark.parity
def test_transformers_generates_the_same(made):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    run, directory, _ = made("language model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    ours = runs.load_run(run)
    assert tokenizer(TEXTS)["input_ids"] == [x.tolist() for x in ours.encode_prompts(TEXTS, 3)]
    inputs = tokenizer(["abc", "h"], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        found = model.generate(**inputs, max_new_tokens=7)[:, inputs["input_ids"].shape[1] :]
    wanted = ours.write(["abc", "h"], key=None, max_length=7)
    assert tokenizer.batch_decode(found, skip_special_tokens=True) == wanted and any(wanted)


@pytest.mark.parity
def test_transformers_translates_the_same(made):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    run, directory, _ = made("translation")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory)
    ours = runs.load_run(run)
    assert tokenizer(TEXTS)["input_ids"] == [x.tolist() for x in ours.encode_sources(TEXTS)]
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        found = model.generate(**inputs, max_new_tokens=9)
    wanted = ours.translate(TEXTS, beams=1, max_length=9)
    assert tokenizer.batch_decode(found, skip_special_tokens=True) == wanted and any(wanted)


@pytest.mark.parity
def test_the_pipeline_has_the_labels_and_scores(made):
    transformers = pytest.importorskip("transformers")
    run, directory, _ = made("classifier")
    pipeline = transformers.pipeline("text-classification", str(directory), device="cpu")
    found = pipeline(TEXTS, top_k=None, truncation=True)
    for scores, wanted in zip(found, runs.load_run(run)(TEXTS), strict=True):
        got = {score["label"]: score["score"] for score in scores}
        np.testing.assert_allclose([got[label] for label in LABELS], wanted.scores, rtol=0, atol=1e-5)


def test_the_command(tfm, made, tmp_path):  # noqa: F811
    run, directory, _ = made("language model")
    target = tmp_path / "new"
    assert tfm("convert", run, target) == (0, f"{target}: LlamaForCausalLM\n", "")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (target / name).read_bytes() == (directory / name).read_bytes()
    assert tfm("convert", run, tmp_path / "mean", "--average", 2, "--dtype", "bfloat16")[0] == 0
    found = pretrained.load(tmp_path / "mean", None)[1]
    wanted = runs.load_model(run, average=2, dtype="bfloat16").params
    np.testing.assert_array_equal(
        found["stack"]["norm"]["scale"], wanted["stack"]["norm"]["scale"], strict=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--average", 9], "--average: got 9; wanted 1 to 2, the last checkpoints"),
        (["--no-tokenizer"], "--no-tokenizer: got a run, {run}; wanted a checkpoint. Leave it out."),
        (["--allow-pickle"], "--allow-pickle: got a run, {run}; wanted a checkpoint. Leave it out."),
    ],
)
def test_options_that_do_not_fit_a_run(tfm, made, tmp_path, options, message):  # noqa: F811
    run, *_ = made("language model")
    status, out, err = tfm("convert", run, tmp_path / "new", *options)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert message.format(run=run) in err and not (tmp_path / "new").exists()


def test_an_average_of_a_checkpoint_is_an_error(tfm, made, tmp_path):  # noqa: F811
    _, directory, _ = made("language model")
    status, out, err = tfm("convert", directory, tmp_path / "new", "--average", 2)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert f"--average: got a checkpoint, {directory}; wanted a run. Leave it out." in err


REFUSED = {
    "mean": (
        classifier("mean"),
        nn.Config(**{**vars(ENCODER), "pooler": None}),
        {**CLASSIFIER, "pooling": "mean"},
        "The nearest is BertForSequenceClassification: train with --pooling first, --model.pooler 'Pooler(",
    ),
    "rotary": (
        nn.EncoderDecoder,
        nn.Config(**SIZES, positions=nn.Rope(), qk_norm=True),
        {"task": "translation"},
        "The nearest is PegasusForConditionalGeneration: train with --model.positions 'Sinusoidal("
        'theta=10000.0, pairing="interleaved")\', --model.no-qk-norm',
    ),
    "images": (
        classifier("mean"),
        nn.Config(**SIZES, positions=nn.Learned(4), patches=nn.Patches(4, 4, 1, 2)),
        {**CLASSIFIER, "pooling": "mean", "task": "image-classification"},
        "The nearest is ViTForImageClassification: train with --init-from and a ViT, which has a class token",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_does_not_fit_is_one_line_with_the_options(tfm, tmp_path, name):  # noqa: F811
    module, config, task, message = REFUSED[name]
    run = a_run(tmp_path / "run", module, config, task=task)
    if config.patches is not None:
        settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 4, "width": 4}}
        (run / "preprocessor_config.json").write_text(json.dumps(settings))
    status, out, err = tfm("convert", run, tmp_path / "new")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith(
        f"tfm: {run}: got a model that no family of transformers holds; wanted one that fits."
    )
    assert message in err and not (tmp_path / "new").exists()


def test_initial_weights_bring_their_pooler(tmp_path):
    module, config, task, _ = REFUSED["mean"]
    run = a_run(tmp_path / "run", module, config, task=task, settings={"init_from": "all-MiniLM-L6-v2"})
    with pytest.raises(ValueError, match=r"BertForSequenceClassification: train with --pooling first$"):
        runs.convert_run(run, tmp_path / "new")


@pytest.mark.parity
def test_a_classifier_of_images_is_a_vit_with_its_processor(tmp_path):
    transformers, image = (pytest.importorskip(name) for name in ("transformers", "PIL.Image"))
    patches = nn.Patches(8, 8, 3, 4, class_token=True)
    config = nn.Config(**SIZES, positions=nn.Learned(5), patches=patches, attention_bias=True)
    task = {**CLASSIFIER, "task": "image-classification", "pooling": "first", "max_length": None}
    run = a_run(tmp_path / "run", classifier("first"), config, task=task)
    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8})
    processor.save_pretrained(run)
    assert runs.convert_run(run, tmp_path / "new") == "ViTForImageClassification"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    pipeline = transformers.pipeline("image-classification", str(tmp_path / "new"), device="cpu")
    found = {x["label"]: x["score"] for x in pipeline(image.fromarray(pixels), top_k=None)}
    (wanted,) = runs.load_run(run)([pixels])
    np.testing.assert_allclose([found[label] for label in LABELS], wanted.scores, rtol=0, atol=1e-5)

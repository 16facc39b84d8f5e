"""--init-from of the images experiment: a tiny ViT of transformers, or a run of the experiment."""

import dataclasses
import json
import re
import shutil

import chex
import jax
import numpy as np
import optax
import pytest

from experiments import command_line
from experiments.images.config import Config
from experiments.images.model import encoder_config, make_model, make_preprocess
from experiments.images.run import main
from experiments.init_from import ENCODERS, load_initial_weights
from experiments.language_model.run import main as language_model
from tests.experiments.test_images import SMALL, write_mnist
from tests.experiments.test_init_from import FROZEN, save_checkpoint, without_model
from tests.pretrained.families.test_families import BERT, FIELDS
from tfm_jax import data, nn, pretrained, train
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of
from tfm_jax.runs import PROCESSOR_FILE
from tfm_jax.train.run_directory import RunDirectory, load_config
from tfm_jax.values import to_dict

CONFIG = nn.Config(**FIELDS["vit"] | {"patches": nn.Patches(6, 8, 3, (3, 2), class_token=True)})
PROCESSING = {
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.5],
    "size": {"height": 6, "width": 8},
}


def save_vit(path, architecture, config=CONFIG, **settings):
    config = pretrained.CheckpointConfig(architecture, config, settings)
    params = jax.jit(model_of(config, find_family(architecture)).init)(jax.random.key(5))
    pretrained.save(path, params, config)
    (path / PROCESSOR_FILE).write_text(json.dumps(PROCESSING))
    return params


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "checkpoint"
    return path, save_vit(path, "ViTForImageClassification", num_labels=7)


@pytest.fixture(scope="module")
def images_run(tmp_path_factory):
    """A run of the experiment on images of 8 x 4, stopped at step 1."""
    config = Config(model=nn.Config(d_model=8, n_layers=1, n_heads=2, d_ff=6, positions=nn.Learned(99)))
    run = RunDirectory(tmp_path_factory.mktemp("images") / "run", to_dict(config))
    encoder = encoder_config(config, (8, 4, 1))
    run.write_config("model.json", to_dict(encoder))
    params = jax.jit(nn.functionalize(nn.Classifier, encoder, 10).init)(jax.random.key(3))
    averaged = jax.tree.map(lambda x: x + 1, params)
    with train.Checkpoints(run.checkpoints) as checkpoints:
        state = train.init_state(params, optax.sgd(1.0), jax.random.key(0), ema=True)
        checkpoints.save(1, dataclasses.replace(state, ema=averaged))
    return run.path, averaged


def load(source):
    """The config and the initial weights."""
    return load_initial_weights(command_line.parse(Config, ["--init-from", str(source)]), ENCODERS)


def start_from(source, directory, shape):
    """The model and the initial weights of a run on images of this shape, with a random head."""
    config, initial = load(source)
    initial.save_preprocessing(directory)
    encoder = encoder_config(config, shape)
    model = make_model(encoder, 7, make_preprocess(directory, encoder.patches))
    return model, {**jax.jit(model.init)(jax.random.key(1)), **initial.params}


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_that_of_the_checkpoint(tmp_path, vit, channels):
    path, theirs = vit
    model, params = start_from(path, tmp_path, (9, 5, channels))
    assert params["head"]["dense"]["kernel"].shape == (6, 7)
    assert (params["head"]["dense"]["kernel"] != theirs["head"]["dense"]["kernel"]).any()  # a new one
    chex.assert_trees_all_equal(params["encoder"], theirs["encoder"])
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 5, channels), np.uint8)
    pixels = pretrained.load_image_processor(path)(np.broadcast_to(images, (4, 9, 5, 3)))
    wanted = pretrained.load(path)[0].apply(theirs, pixels)
    got = jax.jit(model.apply)({**params, "head": theirs["head"]}, images.astype(np.float32) / 255)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_encoder_without_a_head_is_taken_without_its_pooler(tmp_path):
    params = save_vit(tmp_path / "body", "ViTModel", dataclasses.replace(CONFIG, pooler=nn.Pooler("relu")))
    config, initial = load(tmp_path / "body")
    del params["pooler"]
    chex.assert_trees_all_equal(initial.params, {"encoder": params})
    assert config.model.pooler is None and config.model.patches == CONFIG.patches


def test_run_of_the_experiment_is_loaded_with_its_moving_average(tmp_path, images_run):
    path, averaged = images_run
    model, params = start_from(path, tmp_path, (8, 4, 1))
    chex.assert_trees_all_equal(params["encoder"], averaged["encoder"])
    assert not (tmp_path / PROCESSOR_FILE).exists()
    images = np.random.default_rng(0).uniform(size=(2, 8, 4, 1)).astype(np.float32)
    plain = nn.functionalize(
        nn.Classifier, encoder_config(load_config(Config, path / "config.json"), (8, 4, 1)), 7
    )
    np.testing.assert_array_equal(model.apply(params, images), plain.apply(params, images))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("data") / "mnist", train=40, test=10)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, vit, images_run):
    """A directory of checkpoints and runs, by what is right or wrong with them."""
    path = tmp_path_factory.mktemp("sources")
    for name, settings in {
        "vit": PROCESSING,
        "unread": None,
        "padded": PROCESSING | {"do_pad": True},
        "square": PROCESSING | {"size": 8},
    }.items():
        shutil.copytree(vit[0], path / name)
        (path / name / PROCESSOR_FILE).unlink()
        if settings is not None:
            (path / name / PROCESSOR_FILE).write_text(json.dumps(settings))
    save_checkpoint(path / "bert", "BertModel", BERT, data.char_tokenizer(["abc"]))
    (path / "images_run").symlink_to(images_run[0])
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit", ["--patch-size", "4"], "got --patch-size; wanted the patches of --init-from"),
        ("vit", ["--model.d-ff", "8"], r"(?s)wanted .*--model.d-ff: configured 8, the weights have 5"),
        ("vit", ["--model.patches", "None"], r"--model.patches: configured None, the weights have Patches\("),
        ("unread", [], "unread: got no preprocessor_config.json; wanted"),
        ("padded", [], "got do_pad=True; wanted False"),
        ("square", [], "got images of 8 x 8 x 3; wanted 6 x 8 x 3. Its preprocessor_config.json makes"),
        ("bert", [], "error: --init-from: .*bert: got a model of texts; wanted one of images"),
        ("images_run", ["--data.source", "digits"], "got images of 8 x 8 x 1; wanted 8 x 4 x 1. --data.size"),
        ("none", [], "error: --init-from: checkpoint: got .*none; wanted an existing"),
    ],
)  # fmt: skip
def test_unsuitable_initial_weights_exit(tmp_path, sources, mnist, name, arguments, message, capsys):
    out = tmp_path / "run"
    small = [*without_model(SMALL), "--data.source", mnist, "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main([*small, "--init-from", str(sources / name), *arguments])
    text = f"{stopped.value} {' '.join(capsys.readouterr().err.replace('│', ' ').split())}"
    assert re.search(message, text), text
    assert not out.exists()


def test_model_of_texts_does_not_start_from_one_of_images(tmp_path, vit, images_run):
    for path in (vit[0], images_run[0]):
        with pytest.raises(SystemExit, match="got a model of images; wanted one of texts"):
            language_model(["--out", str(tmp_path / "run"), "--init-from", str(path)])


@pytest.mark.slow
def test_vit_is_fine_tuned_and_its_run_is_a_source_too(tmp_path, vit, mnist):
    path, params = vit
    small = [*without_model(SMALL), "--data.source", mnist]
    first, second = tmp_path / "first", tmp_path / "second"
    copied = tmp_path / "copied"
    shutil.copytree(path, copied)
    tuned = ["--init-from", str(copied), "--train.optimizer.frozen-layers", "1"]
    main(["--out", str(first), *small, *tuned])
    found = train.load_params(first / "checkpoints")["encoder"]
    chex.assert_trees_all_equal(found["embedding"], params["encoder"]["embedding"])
    ours, theirs = (jax.tree.leaves(p["stack"]["layers"]) for p in (found, params["encoder"]))
    assert all((a[:1] == b[:1]).all() for a, b in zip(ours, theirs, strict=True))
    assert any((a[1:] != b[1:]).any() for a, b in zip(ours, theirs, strict=True))
    shutil.rmtree(copied)  # a resume does not need it
    main(["--out", str(first), *small, *tuned, "--resume"])
    main(["--out", str(second), *small, *FROZEN, "--init-from", str(first)])
    assert (second / PROCESSOR_FILE).read_text() == (path / PROCESSOR_FILE).read_text()
    averaged = train.load_params(first / "checkpoints", item="ema")["encoder"]
    chex.assert_trees_all_close(train.load_params(second / "checkpoints")["encoder"], averaged, atol=1e-12)

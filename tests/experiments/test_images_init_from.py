"""Digits that begin with trained weights: a ViT of transformers, or a run of their own; tiny ones."""

import dataclasses
import json
import re
import shutil

import chex
import jax
import numpy as np
import optax
import pytest

from experiments import runner
from experiments.images.config import Config
from experiments.images.model import encoder_of, make_model, reader
from experiments.images.run import main
from experiments.init_from import ENCODERS, PROCESSOR, parse, read_initial
from experiments.language_model.run import main as language_model
from tests.experiments.test_images import SMALL, write_mnist
from tests.experiments.test_init_from import STILL, save_checkpoint, without_model
from tests.pretrained.families.test_families import BERT, FIELDS
from tfm_jax import data, nn, pretrained, train
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of

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
    (path / PROCESSOR).write_text(json.dumps(PROCESSING))
    return params


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "checkpoint"
    return path, save_vit(path, "ViTForImageClassification", num_labels=7)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run of this experiment on images of 8 x 4, stopped at step 1."""
    config = Config(model=nn.Config(d_model=8, n_layers=1, n_heads=2, d_ff=6, positions=nn.Learned(99)))
    run = train.RunDirectory(tmp_path_factory.mktemp("own") / "run", runner.to_dict(config))
    encoder = encoder_of(config, (8, 4, 1))
    run.write("model.json", runner.to_dict(encoder))
    params = jax.jit(nn.functionalize(nn.Classifier, encoder, 10).init)(jax.random.key(3))
    averaged = jax.tree.map(lambda x: x + 1, params)
    with train.Checkpoints(run.checkpoints) as checkpoints:
        state = train.init_state(params, optax.sgd(1.0), jax.random.key(0), ema=True)
        checkpoints.save(1, dataclasses.replace(state, ema=averaged))
    return run.path, averaged


def begun(source, directory, shape):
    """The model and the weights that a run on images of this shape begins with, the head drawn."""
    config, start = read_initial(parse(Config, ["--init-from", str(source)]), ENCODERS)
    start.save(directory)
    encoder = encoder_of(config, shape)
    model = make_model(encoder, 7, reader(directory, encoder.patches.channels))
    return model, {**jax.jit(model.init)(jax.random.key(1)), **start.params}


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_read_as_the_checkpoint_says(tmp_path, vit, channels):
    path, theirs = vit
    model, params = begun(path, tmp_path, (9, 5, channels))
    assert params["head"]["dense"]["kernel"].shape == (6, 7)
    assert (params["head"]["dense"]["kernel"] != theirs["head"]["dense"]["kernel"]).any()  # a new one
    chex.assert_trees_all_equal(params["encoder"], theirs["encoder"])
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 5, channels), np.uint8)
    pixels = pretrained.load_image_processor(path)(np.broadcast_to(images, (4, 9, 5, 3)))
    wanted = pretrained.load(path)[0].apply(theirs, pixels)
    got = jax.jit(model.apply)({**params, "head": theirs["head"]}, images.astype(np.float32) / 255)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_body_alone_leaves_its_pooler_behind(tmp_path):
    params = save_vit(tmp_path / "body", "ViTModel", dataclasses.replace(CONFIG, pooler=nn.Pooler("relu")))
    config, start = read_initial(parse(Config, ["--init-from", str(tmp_path / "body")]), ENCODERS)
    del params["pooler"]
    chex.assert_trees_all_equal(start.params, {"encoder": params})
    assert config.model.pooler is None and config.model.patches == CONFIG.patches


def test_a_run_of_its_own_is_begun_with_as_it_was_tested(tmp_path, own):
    path, averaged = own
    model, params = begun(path, tmp_path, (8, 4, 1))
    chex.assert_trees_all_equal(params["encoder"], averaged["encoder"])
    assert not (tmp_path / PROCESSOR).exists()
    images = np.random.default_rng(0).uniform(size=(2, 8, 4, 1)).astype(np.float32)
    plain = nn.functionalize(nn.Classifier, encoder_of(runner.load_config(Config, path), (8, 4, 1)), 7)
    np.testing.assert_array_equal(model.apply(params, images), plain.apply(params, images))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("data") / "mnist", train=40, test=10)


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory, vit, own):
    """A directory of directories, by what is right or wrong with them."""
    path = tmp_path_factory.mktemp("beginnings")
    for name, settings in {
        "vit": PROCESSING,
        "unread": None,
        "padded": PROCESSING | {"do_pad": True},
        "square": PROCESSING | {"size": 8},
    }.items():
        shutil.copytree(vit[0], path / name)
        (path / name / PROCESSOR).unlink()
        if settings is not None:
            (path / name / PROCESSOR).write_text(json.dumps(settings))
    save_checkpoint(path / "bert", "BertModel", BERT, data.char_tokenizer(["abc"]))
    (path / "own").symlink_to(own[0])
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit", ["--patch-size", "4"], "patches are those of the weights: leave out --patch-size"),
        ("vit", ["--model.d-ff", "8"], r"(?s)only .*may be set:\n  --model.d-ff: asked for 8, it has 5"),
        ("vit", ["--model.patches", "None"], r"--model.patches: asked for None, it has Patches\("),
        ("unread", [], "there is no preprocessor_config.json in .*unread"),
        ("padded", [], "got do_pad=True; wanted False"),
        ("square", [], "takes images of 6 x 8 x 3, got 8 x 8 x 3: its preprocessor_config.json makes"),
        ("bert", [], "error: --init-from: .*bert: its model reads texts, wanted one that reads images"),
        ("own", [], "takes images of 8 x 4 x 1, got 8 x 12 x 1: --data.size 8 4 scales pictures"),
        ("none", [], "error: --init-from: checkpoint: got .*none; wanted an existing"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_with_is_one_clear_error(
    tmp_path, beginnings, mnist, name, arguments, message, capsys
):
    out = tmp_path / "run"
    small = [*without_model(SMALL), "--data.source", mnist, "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main([*small, "--init-from", str(beginnings / name), *arguments])
    said = f"{stopped.value} {' '.join(capsys.readouterr().err.replace('│', ' ').split())}"
    assert re.search(message, said), said
    assert not out.exists()


def test_a_model_of_texts_does_not_begin_with_one_of_images(tmp_path, vit, own):
    for path in (vit[0], own[0]):
        with pytest.raises(SystemExit, match="its model reads images, wanted one that reads texts"):
            language_model(["--out", str(tmp_path / "run"), "--init-from", str(path)])


@pytest.mark.slow
def test_a_vit_is_fine_tuned_and_what_came_of_it_is_a_beginning_too(tmp_path, vit, mnist):
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
    shutil.rmtree(copied)  # it goes on without
    main(["--out", str(first), *small, *tuned, "--resume"])
    main(["--out", str(second), *small, *STILL, "--init-from", str(first)])
    assert (second / PROCESSOR).read_text() == (path / PROCESSOR).read_text()
    averaged = train.load_params(first / "checkpoints", item="ema")["encoder"]
    chex.assert_trees_all_close(train.load_params(second / "checkpoints")["encoder"], averaged, atol=1e-12)

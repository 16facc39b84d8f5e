"""Folders of pictures of many sizes, in colour or grey, from the files to the use of the run."""

import dataclasses
import json

import datasets
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.images.config import MODEL, Config, DataConfig
from experiments.images.model import Preprocess, make_preprocess, write_preprocessing
from experiments.images.run import _prepare, main
from experiments.images.sizes import choose_patch, choose_size, picture_sizes
from experiments.inputs import RunInputs
from tests.experiments.test_images import SMALL
from tfm_jax import data, nn, pretrained, runs
from tfm_jax.data.image_files import decode_image
from tfm_jax.runs import PROCESSOR_FILE

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (230, 30, 30)}


def write_pictures(path, n=10, mode="RGB", sizes=((40, 30), (33, 50), (20, 20))):
    """A folder with one of each colour, of several sizes (width, height) and formats."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (path / name).mkdir(parents=True)
        for i in range(n):
            width, height = sizes[i % len(sizes)]
            pixels = np.clip(np.array(colour) + rng.integers(-20, 20, (height, width, 3)), 0, 255)
            picture = PIL.Image.fromarray(pixels.astype(np.uint8)).convert(mode)
            kinds = ("png", "jpg", "webp") if mode == "RGB" else ("png",)
            picture.save(path / name / f"{i}.{kinds[i % len(kinds)]}")
    return path


def prepare(source, tmp_path, **settings):
    (tmp_path / "run").mkdir(exist_ok=True)
    config = Config(data=DataConfig(source=str(source), **settings))
    return _prepare(config, tmp_path / "run", RunInputs("images", tmp_path / "run"))


@pytest.mark.slow
def test_a_folder_of_pictures_is_a_classifier_in_one_command(tmp_path, capsys):
    """The circle: 30 pictures of three classes and many sizes, train, and name a picture file."""
    source, out = write_pictures(tmp_path / "pictures"), tmp_path / "run"
    options = [*SMALL[:-10], "--model.d-model", "16", "--train.steps", "60", "--train.batch-size", "8",
               "--train.evaluate-every", "30", "--train.checkpoint-every", "30"]  # fmt: skip
    main(["--out", str(out), "--data.source", str(source), *options])
    printed = capsys.readouterr().out
    assert "pictures from 20 x 20 to 50 x 40 pixels, resized to 32 x 32 (--data.size sets it)" in printed
    classifier = runs.load_run(out)
    assert classifier.labels == ("blue", "green", "red")
    files = sorted(source.rglob("*.*"))
    found = [label.label for label in classifier(files)]
    assert np.mean([name == file.parent.name for name, file in zip(found, files, strict=True)]) > 0.8
    result = json.loads((out / "result.json").read_text())
    main(["--out", str(out), "--data.source", str(source), "--resume"])  # with the same preprocessing
    assert json.loads((out / "result.json").read_text())["test_accuracy"] == result["test_accuracy"]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_use_of_a_run_preprocesses_as_its_training(tmp_path, mode):
    source = write_pictures(tmp_path / "pictures", n=4, mode=mode)
    task = prepare(source, tmp_path)
    channels = 1 if mode == "L" else 3
    assert task.examples["train"].images.shape[-1] == channels
    processor = pretrained.load_image_processor(tmp_path / "run")
    files = sorted(source.rglob("*.*"))
    pixels = [decode_image("test", file.read_bytes(), str(file), channels=channels) for file in files]
    found = {np.asarray(processor(image)).astype(np.float32).tobytes() for image in pixels}
    read = np.concatenate([part.take(np.arange(len(part)))["images"] for part in task.examples.values()])
    close = [
        min(np.abs(np.frombuffer(x, np.float32).reshape(image.shape) - image).max() for x in found)
        for image in read
    ]
    assert max(close) < 1e-6


def test_own_preprocessing_changes_no_image_in_training(tmp_path):
    patches = nn.Patches(6, 4, 3, 2)
    write_preprocessing(tmp_path, Preprocess(None, 3), None, patches)
    assert make_preprocess(tmp_path, patches).processor is None
    assert make_preprocess(tmp_path, nn.Patches(8, 4, 3, 2)).processor is not None
    settings = json.loads((tmp_path / PROCESSOR_FILE).read_text())
    (tmp_path / PROCESSOR_FILE).write_text(
        json.dumps(settings | {"do_normalize": True, "image_mean": [0.5] * 3})
    )
    assert make_preprocess(tmp_path, patches).processor is not None


def test_pictures_of_many_sizes_are_resized_as_for_the_crop_of_initial_weights(tmp_path, capsys):
    source, run = write_pictures(tmp_path / "pictures", n=4), tmp_path / "run"
    run.mkdir()
    own = {"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}, "do_center_crop": True}
    settings = {"image_processor_type": "ViTImageProcessor", "resample": 2, "image_mean": [0.5] * 3}
    (run / PROCESSOR_FILE).write_text(json.dumps({**settings, **own, "image_std": [0.5] * 3}))
    model = dataclasses.replace(MODEL, patches=nn.Patches(12, 12, 3, 4))
    config = Config(data=DataConfig(source=str(source)), model=model, init_from="vit")
    task = _prepare(config, run, RunInputs("images", run))
    assert task.examples["train"].images.shape[1:] == (16, 16, 3)
    assert "resized to 16 x 16 (--data.size sets it)" in capsys.readouterr().out
    processor = pretrained.load_image_processor(run)
    assert (processor.size, processor.crop, processor.method) == ((16, 16), (12, 12), "cubic")


def test_pictures_of_one_small_size_keep_it(tmp_path, capsys):
    source = write_pictures(tmp_path / "pictures", n=4, sizes=((18, 12),))
    task = prepare(source, tmp_path)
    assert task.examples["train"].images.shape[1:] == (12, 18, 3)
    assert task.model.config.patches == nn.Patches(12, 18, 3, 3)
    assert "resized" not in capsys.readouterr().out


def test_a_folder_with_splits_and_a_class_of_the_test_alone(tmp_path, capsys):
    for split in ("train", "val", "test"):
        write_pictures(tmp_path / "pictures" / split, n=2)
    (tmp_path / "pictures" / "test" / "grey").mkdir()
    PIL.Image.new("L", (9, 9)).save(tmp_path / "pictures" / "test" / "grey" / "a.png")
    with pytest.raises(ValueError, match=r"without a training example: 'grey' \(1 in test\); wanted"):
        prepare(tmp_path / "pictures", tmp_path)
    task = prepare(tmp_path / "pictures", tmp_path, drop_missing_classes=True)
    assert task.class_names == ["blue", "green", "red"] and len(task.examples["test"]) == 6
    assert "dropped 1 of 7 test examples" in capsys.readouterr().out


def test_broken_pictures_are_named(tmp_path):
    source = write_pictures(tmp_path / "pictures", n=6)
    (source / "red" / "broken.jpg").write_bytes(b"no picture")
    (source / "blue" / "cut.jpg").write_bytes((source / "blue" / "1.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"\.jpg.*So with 1 more: .*\.jpg") as error:
        prepare(source, tmp_path, held_out_salt="a", held_out=0.02)
    assert "broken.jpg" in str(error.value) and "cut.jpg" in str(error.value)


def test_sizes_follow_the_orientation_of_the_file(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for kind in ("jpg", "png", "webp"):
        PIL.Image.new("RGB", (7, 4)).save(tmp_path / f"turned.{kind}", exif=exif)
    PIL.Image.new("RGB", (7, 4)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"")
    found = picture_sizes(data.load(str(tmp_path)), "image")
    assert sorted(found.tolist()) == [[4, 7], [7, 4], [7, 4], [7, 4]]
    arrays = datasets.Dataset.from_dict({"image": [[[0.0, 1.0]]]})
    assert picture_sizes(arrays, "image") is None


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=5))
def test_a_chosen_size_has_few_patches(sizes):
    height, width = choose_size(np.array(sizes))
    assert 1 <= height <= 64 and 1 <= width <= 64
    side = choose_patch(height, width)
    assert height % side == width % side == 0 and height * width // side**2 <= 256


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(28, 28)] * 2, (28, 28)),
        ([(31, 29)] * 2, (32, 32)),  # 899 patches of a pixel otherwise
        ([(300, 400), (600, 800), (90, 90)], (48, 64)),
        ([(20, 20), (40, 24)], (32, 24)),
        ([(1000, 10)], (64, 8)),
    ],
)
def test_size_of_pictures(sizes, chosen):
    assert choose_size(np.array(sizes)) == chosen


def test_patch_is_a_quarter_of_the_height_where_that_divides():
    assert [choose_patch(*shape) for shape in ((8, 8), (28, 28), (8, 12), (30, 30), (2, 3), (64, 48))] == [
        2, 7, 2, 6, 1, 16
    ]  # fmt: skip

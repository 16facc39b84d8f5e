"""A checkpoint directory: each of its files is opened once, by every loader."""

import collections
import json
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.pretrained.tasks.test_sentence_embedding import directory  # noqa: F401  - a fixture
from tests.pretrained.tasks.test_text_classification import SEQUENCES, save
from tests.pretrained.weights.test_files import CONFIG
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.weights.files import read_json

OPENED: list[str] = []
_HOOKED: list[bool] = []


@pytest.fixture
def opened():
    """The paths that Python opens during a test; an audit hook cannot be removed."""

    def record(event, args):
        if event == "open" and isinstance(args[0], str):
            OPENED.append(args[0])

    if not _HOOKED:
        sys.addaudithook(record)
        _HOOKED.append(True)
    OPENED.clear()
    return OPENED


def counts(opened, root):
    names = [path.removeprefix(f"{root}/") for path in opened if path.startswith(f"{root}/")]
    return collections.Counter(name for name in names if not name.endswith(".safetensors"))


def test_a_classifier_opens_each_file_once(opened, tmp_path):
    root = save(tmp_path / "it", SEQUENCES)
    (root / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    (root / "generation_config.json").write_text("{}")
    opened.clear()
    pretrained.load_text_classifier(root)
    names = ["config.json", "generation_config.json", "special_tokens_map.json"]
    assert counts(opened, root) == dict.fromkeys([*names, "tokenizer.json", "tokenizer_config.json"], 1)


def test_load_opens_each_file_once_though_no_architecture_is_named(opened, tmp_path):
    root = save(tmp_path / "it", SEQUENCES)
    settings = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps(settings | {"architectures": None}))
    opened.clear()
    pretrained.load(root)
    assert set(counts(opened, root).values()) == {1}


def test_a_sentence_encoder_opens_each_file_once(opened, directory):  # noqa: F811
    opened.clear()
    pretrained.load_sentence_encoder(directory)
    found = counts(opened, directory)
    assert set(found.values()) == {1} and {"modules.json", "1_Pooling/config.json"} <= found.keys()


def test_a_text_generator_opens_each_file_once(opened, tmp_path):
    root = tmp_path / "it"
    params = nn.functionalize(nn.Decoder, CONFIG.model).init(jax.random.key(0))
    pretrained.save(root, params, CONFIG)
    vocab = {text: i for i, text in enumerate(["<s>", "a", "b"])}
    (root / "vocab.json").write_text(json.dumps(vocab))
    (root / "merges.txt").write_text("")
    (root / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "<s>"}')
    opened.clear()
    pretrained.load_text_generator(root)
    assert set(counts(opened, root).values()) == {1}


def test_files_are_one_object_by_every_path(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text('{"x": 1}')
    files = CheckpointFiles(tmp_path)
    assert files / "a/config.json" is files.folder("a") / "config.json"
    assert files.folder("") is files is files.folder(".")
    file = files / "a/config.json"
    assert read_json(file) is read_json(file) == {"x": 1} and str(file) == str(tmp_path / "a" / "config.json")
    assert str(file.with_name("b")) == str(tmp_path / "a" / "b") and file.parent is files.folder("a")


def test_missing_and_damaged_files_are_errors_that_name_them(tmp_path):
    files = CheckpointFiles(tmp_path)
    assert files.generation_config == {} and files.tokenizer_config == {} and files.tokenizer is None
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: got no config.json; wanted"):
        _ = files.config
    (tmp_path / "config.json").write_text("[")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{tmp_path}/config.json: got invalid JSON"):
            _ = files.config


def test_weights_are_opened_once(tmp_path):
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    files = CheckpointFiles(tmp_path)
    assert files.weights is files.weights and files.weights.shapes == {"a": (3,)}

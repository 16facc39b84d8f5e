"""``tfm convert``: the same model, with the other files of the checkpoint; no pickle unless allowed."""

import json
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tokenizers import models

from tests.pretrained import cases
from tests.pretrained.tokenizers.spm import model as sentencepiece_model
from tests.pretrained.weights.test_files import CONFIG, params  # noqa: F401  - a fixture
from tfm_jax import pretrained


def equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.fixture
def source(params, tmp_path):  # noqa: F811
    directory = tmp_path / "source"
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    pretrained.save(directory, params, CONFIG, tokenizer, max_file_bytes=1000)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text('{"eos_token": "b"}')
    return directory


def test_model_and_tokenizer_are_converted(tfm, source, params, tmp_path):  # noqa: F811
    target = tmp_path / "target"
    assert tfm("convert", source, target) == (0, "", "")
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    extra = {"1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json"}
    assert files == {"config.json", "model.safetensors"} | extra
    _, got, config, tokenizer = pretrained.load(target)
    equal(got, params)
    assert config.model == CONFIG.model and tokenizer.encode("b").ids == [1]


def test_unknown_config_keys_are_one_line(tfm, source, tmp_path):
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"my_key": 1, "another": {}}))
    line = f"tfm: {path}: ignored unknown keys: another, my_key\n"
    assert tfm("convert", source, tmp_path / "one") == (0, "", line)


def test_other_files_are_copied_or_named(tfm, source, tmp_path):
    steps = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in STEPS]
    kept = {
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/rag.jinja": b"{{ documents }}",
        "modules.json": json.dumps(steps).encode(),
        "2_Dense/config.json": b'{"in_features": 6}',
        "2_Dense/model.safetensors": b"weights",
        "sentence_bert_config.json": b'{"max_seq_length": 7}',
        "config_sentence_transformers.json": b'{"prompts": {"query": "q: "}}',
        "preprocessor_config.json": b"{}",
        "special_tokens_map.json": b'{"eos_token": "b"}',
        "README.md": b"# It",
        "LICENSE": b"free",
        "some/thing.json": b"[]",
    }
    others = ["pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "code.py", "training_args.bin"]
    for name, data in (kept | dict.fromkeys(others, b"x")).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(data)
    status, out, err = tfm("convert", source, tmp_path / "target")
    assert (status, out) == (0, "")
    assert err == "tfm: not copied: code.py, training_args.bin\n"
    found = {str(x.relative_to(tmp_path / "target")) for x in (tmp_path / "target").rglob("*") if x.is_file()}
    extra = {"1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json", "config.json"}
    assert found == kept.keys() | extra | {"model.safetensors"}
    for name, data in kept.items():
        assert (tmp_path / "target" / name).read_bytes() == data


def test_a_vocabulary_that_tokenizer_json_replaces_is_named(tfm, source, tmp_path):
    (source / "tokenizer_config.json").unlink()
    (source / "vocab.txt").write_text("a\nb")
    status, out, err = tfm("convert", source, tmp_path / "target")
    assert (status, out, err) == (0, "", "tfm: not copied: vocab.txt\n")
    written = json.loads((tmp_path / "target" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert pretrained.load(tmp_path / "target")[3].encode("b").ids == [1]


STEPS = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]


def test_dtype(tfm, source, params, tmp_path):  # noqa: F811
    assert tfm("convert", source, tmp_path / "half", "--dtype", "bfloat16")[0] == 0
    rounded = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    equal(pretrained.load(tmp_path / "half", None)[1], rounded)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    # Without --dtype, the dtype of the source is kept.
    assert tfm("convert", tmp_path / "half", tmp_path / "again")[0] == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "again"))
    equal(two, one)
    assert {x.dtype for x in two.values()} == {jnp.dtype(jnp.bfloat16)}


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_pickle_is_an_error_by_default(tfm, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in source.glob("model*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    status, out, err = tfm("convert", source, "target")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "got a pickle, which can run any code" in err and "allow_pickle=True" in err
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "target").exists()


def test_errors_are_one_line(tfm, source, tmp_path):
    messages = {
        (tmp_path / "no" / "where" / "at" / "all", tmp_path / "target"): "wanted an existing directory",
        (source, source): "is not empty; wanted a new directory",
    }
    for argv, message in messages.items():
        status, out, err = tfm("convert", *argv)
        assert (status, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_no_tokenizer_copies_its_files(tfm, source, params, tmp_path):  # noqa: F811
    (source / "tokenizer.json").unlink()
    files = {"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\n", "x.model": b"\xff"}
    files["tokenizer_config.json"] = b'{"tokenizer_class": "CTRLTokenizer"}'
    for name, data in files.items():
        (source / name).write_bytes(data)
    status, out, err = tfm("convert", source, tmp_path / "target")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "of tokenizer class CTRL" in err and "tfm convert --no-tokenizer" in err
    assert not (tmp_path / "target").exists()
    assert tfm("convert", source, tmp_path / "target", "--no-tokenizer") == (0, "", "")
    assert {name: (tmp_path / "target" / name).read_bytes() for name in files} == files
    equal(pretrained.load(tmp_path / "target", tokenizer=False)[1], params)


@pytest.mark.parity
def test_transformers_loads_a_converted_pickle(tfm, tmp_path):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    case = cases.GPT2["one head"]
    torch.manual_seed(0)
    reference = getattr(transformers, case.model)(getattr(transformers, case.config)(**case.fields))
    source = tmp_path / "source"
    reference.save_pretrained(source)
    (source / "model.safetensors").unlink()
    torch.save(reference.state_dict(), source / "pytorch_model.bin")
    assert tfm("convert", source, tmp_path / "target", "--allow-pickle")[0] == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "target").state_dict()
    wanted = reference.state_dict()
    assert again.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(again[name].numpy(), wanted[name].numpy())


@pytest.mark.parity
def test_pickles_of_the_layers_of_a_sentence_encoder(tfm, source, tmp_path):
    torch = pytest.importorskip("torch")
    steps = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in STEPS]
    (source / "modules.json").write_text(json.dumps(steps))
    (source / "2_Dense").mkdir()
    kernel = torch.arange(6.0).reshape(2, 3)
    torch.save({"linear.weight": kernel.bfloat16()}, source / "2_Dense" / "pytorch_model.bin")
    line = "tfm: still pickles: 2_Dense/pytorch_model.bin; --allow-pickle converts them too\n"
    assert tfm("convert", source, tmp_path / "one") == (0, "", line)
    assert tfm("convert", source, tmp_path / "two", "--allow-pickle") == (0, "", "")
    assert [path.name for path in (tmp_path / "two" / "2_Dense").iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "two" / "2_Dense" / "model.safetensors")
    np.testing.assert_array_equal(found["linear.weight"], kernel.numpy())


def test_a_missing_extra_is_one_line(tfm, source, tmp_path, monkeypatch):
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes(sentencepiece_model(kind=2))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as if it were not installed
    status, out, err = tfm("convert", source, tmp_path / "target")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "pip install 'tfm_jax[sentencepiece]'" in err
    assert tfm("convert", source, tmp_path / "target", "--no-tokenizer") == (0, "", "")

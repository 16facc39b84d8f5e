"""Weight files: damaged ones are errors with the file's name, and no code in them runs."""

import json
import pickle
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.pretrained.families.test_families import FIELDS
from tfm_jax import hub, nn, pretrained
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of
from tfm_jax.pretrained.weights.files import checkpoint_directory

CONFIG = pretrained.CheckpointConfig(
    "LlamaForCausalLM",
    nn.Config(
        vocab_size=11,
        d_model=6,
        n_layers=2,
        n_heads=3,
        n_kv_heads=1,
        head_dim=2,
        d_ff=5,
        norm=nn.RMSNorm(),
        positions=nn.Rope(),
        feed_forward=nn.Glu(),
        scale_embeddings=False,
        tie_embeddings=False,
    ),
)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(nn.functionalize(nn.Decoder, CONFIG.model).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture
def saved(params, tmp_path):
    """The directory of a checkpoint, and a function that changes its tensors."""
    directory = tmp_path / "saved"
    pretrained.save(directory, params, CONFIG)

    def change(edit):
        tensors = dict(load_file(directory / "model.safetensors"))
        edit(tensors)
        save_file(tensors, directory / "model.safetensors")

    return directory, change


def settings(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_save_and_load_round_trip(saved, params):
    model, got, config, tokenizer = pretrained.load(saved[0])
    equal(got, params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
    assert config.model == CONFIG.model and config.architecture == "LlamaForCausalLM" and tokenizer is None
    assert jax.eval_shape(model.apply, got, jnp.ones((2, 3), int)).shape == (2, 3, 11)


def test_names_and_shapes_are_those_of_transformers(saved):
    tensors = load_file(saved[0] / "model.safetensors")
    assert len(tensors) == 2 * 9 + 3
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (2, 6)
    assert tensors["lm_head.weight"].shape == (11, 6)


def test_sharded_files_with_an_index(params, tmp_path):
    pretrained.save(tmp_path / "split", params, CONFIG, max_file_bytes=1000)
    files = sorted(path.name for path in (tmp_path / "split").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all((tmp_path / "split" / file).stat().st_size < 3000 for file in files)
    equal(pretrained.load(tmp_path / "split")[1], params)


def test_bfloat16(params, tmp_path):
    short = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    pretrained.save(tmp_path / "short", short, CONFIG)
    assert json.loads((tmp_path / "short" / "config.json").read_text())["dtype"] == "bfloat16"
    model, got, config, _ = pretrained.load(tmp_path / "short", "bfloat16")
    assert config.model.dtype == config.model.param_dtype == "bfloat16"
    equal(got, short)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.eval_shape(model.apply, got, jnp.ones((2, 3), int)).dtype == jnp.float32
    wide = pretrained.load(tmp_path / "short")[1]
    equal(wide, jax.tree.map(lambda x: x.astype(jnp.float32), short))


def test_all_mismatches_are_listed_together(saved):
    directory, change = saved

    def edit(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.norm.weight"] = np.ones(7, np.float32)
        tensors["model.layers.2.mlp.up_proj.weight"] = np.ones((5, 6), np.float32)

    change(edit)
    with pytest.raises(ValueError) as error:
        pretrained.load(directory)
    message = str(error.value)
    assert "model.layers.1.mlp.up_proj.weight: missing, wanted (5, 6)" in message
    assert "model.norm.weight: wanted (6,), got (7,)" in message
    assert "model.layers.2.mlp.up_proj.weight: unknown, got (5, 6)" in message


def test_integer_tensors(saved):
    saved[1](lambda tensors: tensors.update({"model.norm.weight": np.ones(6, np.int64)}))
    with pytest.raises(ValueError, match=r"got tensor model\.norm\.weight of dtype I64; wanted one of"):
        pretrained.load(saved[0])


def test_tied_head(saved, params):
    directory, change = saved
    settings(directory, tie_word_embeddings=True)
    with pytest.raises(
        ValueError, match=r"got lm_head\.weight and model\.embed_tokens\.weight, which differ"
    ):
        pretrained.load(directory)
    change(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))
    _, got, config, _ = pretrained.load(directory)
    assert config.model.tie_embeddings and "head" not in got
    change(lambda tensors: tensors.pop("lm_head.weight"))
    equal(pretrained.load(directory)[1], got)


@pytest.mark.parametrize(
    "architecture, fields, name, original",
    [
        ("BertForMaskedLM", "bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("MarianMTModel", "marian", "model.decoder.embed_tokens.weight", "model.shared.weight"),
        ("T5ForConditionalGeneration", "t5", "encoder.embed_tokens.weight", "shared.weight"),
    ],
)
def test_copies_must_be_equal(tmp_path, architecture, fields, name, original):
    config = pretrained.CheckpointConfig(architecture, nn.Config(**FIELDS[fields]))
    shapes = jax.eval_shape(model_of(config, find_family(architecture)).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    pretrained.save(tmp_path / "it", params, config)
    path = tmp_path / "it" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: tensors[original]}, path)
    equal(pretrained.load(tmp_path / "it")[1], params)
    for other in (tensors[original] + 1, np.ones(3, np.float32)):
        save_file({**tensors, name: other}, path)
        with pytest.raises(ValueError, match=f"{re.escape(name)} differs from {re.escape(original)}"):
            pretrained.load(tmp_path / "it")


def test_names_without_the_family_prefix(saved, params):
    directory, change = saved
    settings(directory, tie_word_embeddings=True)

    def edit(tensors):
        del tensors["lm_head.weight"]
        for name in [*tensors]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change(edit)
    equal(pretrained.load(directory)[1], {name: params[name] for name in ("embedding", "stack")})


@pytest.mark.parametrize("keep", [0, 5, 100, 3000, -1])
def test_truncated_safetensors(saved, keep):
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors: got a damaged or truncated file"):
        pretrained.load(saved[0])


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",  # a header of that many bytes
        header("{"),
        header('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', b"1234"),
        header('{"a": {"dtype": "F32", "shape": [400], "data_offsets": [0, 4]}}', b"1234"),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [96, 100]}}', b"1234"),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"12345678"),
    ],
)
def test_wrong_safetensors_header(saved, content):
    (saved[0] / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: got a damaged or truncated file"):
        pretrained.load(saved[0])


@pytest.mark.parametrize(
    "file", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "..", "..\\x", ""]
)
def test_index_with_files_outside_its_directory(saved, file):
    index = {"weight_map": {"model.norm.weight": file}}
    (saved[0] / "model.safetensors").rename(saved[0] / "part.safetensors")
    (saved[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="wanted names of files in the same directory"):
        pretrained.load(saved[0])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (
            {"weight_map": {"a": "gone.safetensors"}},
            FileNotFoundError,
            r"got files \[\'gone\.safetensors\'\], which do not exist",
        ),
        (
            {"weight_map": {"nowhere": "part.safetensors"}},
            ValueError,
            r"got tensors \[\'nowhere in part.*which the files lack",
        ),
        ({"weight_map": ["a"]}, ValueError, "got no weight_map"),
        ({}, ValueError, "got no weight_map"),
        ([], ValueError, "got JSON of type list; wanted a JSON object"),
    ],
)
def test_wrong_index(saved, index, error, message):
    (saved[0] / "model.safetensors").rename(saved[0] / "part.safetensors")
    (saved[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=message):
        pretrained.load(saved[0])


def test_a_single_file_takes_precedence_over_an_index(saved, params):
    """As in transformers."""
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (saved[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    equal(pretrained.load(saved[0])[1], params)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pt", "a PyTorch pickle; .* save_pretrained"),
        ("x.ckpt", "a checkpoint of PyTorch Lightning or TensorFlow"),
        ("x.Q4_K_M.gguf", "a llama.cpp file; .* gguf_file=name"),
        ("model.onnx", "an ONNX program"),
        ("tf_model.h5", "TensorFlow weights"),
        ("x.npz", "NumPy arrays; .* safetensors.numpy.save_file"),
        ("pytorch_model.bin", "a PyTorch pickle; .* allow_pickle=True"),
        ("model.safetensors", "a weight file; .* Pass its directory"),
    ],
)
@pytest.mark.parametrize("loader", ["load", "load_text_generator", "load_sentence_encoder"])
def test_a_file_instead_of_a_directory(tmp_path, name, message, loader):
    load = getattr(pretrained, loader)
    kind, _, fix = message.partition("; ")
    absent = rf"{re.escape(name)}: got {kind}, which does not exist; wanted .*{fix}"
    with pytest.raises(FileNotFoundError, match=absent):
        load(tmp_path / name)
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(ValueError, match=f"{re.escape(name)}: got {message}"):
        load(tmp_path / name)


def test_a_directory_with_an_unsupported_file(saved):
    (saved[0] / "model.safetensors").rename(saved[0] / "x.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"got only \['config.json', 'x.gguf'\]; .* x.gguf: got a llama.cpp file"
    ):
        pretrained.load(saved[0])


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_pickles_are_not_read_by_default(saved):
    directory, _ = saved
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="got a pickle, which can run any code"):
        pretrained.load(directory)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": Bomb()}, "wanted a pickle of weights only"),
        ([1.0], "got a list; wanted a dict of tensors"),
        (b"no pickle", "wanted a pickle of weights only"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_allowed_pickles_are_read_as_weights_only(saved, content, message, zipped):
    torch = pytest.importorskip("torch")
    directory, _ = saved
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=message):
        pretrained.load(directory, allow_pickle=True)


@pytest.mark.parity
def test_pickle_from_before_torch_1_6(saved, params):
    torch = pytest.importorskip("torch")
    directory, _ = saved
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    old = {name: torch.from_numpy(x) for name, x in tensors.items()}
    torch.save(old, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    _, got, _, _ = pretrained.load(directory, allow_pickle=True)
    jax.tree.map(np.testing.assert_array_equal, got, params)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_pickle_in_half_precision(saved, params, dtype, sharded):
    torch = pytest.importorskip("torch")
    directory, _ = saved
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    short = {
        name: torch.nn.Parameter(torch.from_numpy(x).to(getattr(torch, dtype))) for name, x in tensors.items()
    }
    if sharded:
        names = sorted(short)
        files = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
        for file, part in files.items():
            torch.save({name: short[name] for name in part}, directory / file)
        index = {"weight_map": {name: file for file, part in files.items() for name in part}}
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save(short, directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match="got a pickle, which can run any code"):
        pretrained.load(directory)
    for wanted in ("float32", "bfloat16"):
        _, got, _, _ = pretrained.load(directory, wanted, allow_pickle=True)
        equal(got, jax.tree.map(lambda x, wanted=wanted: jnp.asarray(x, dtype).astype(wanted), params))


@pytest.mark.parity
def test_pickle_of_a_training_state(saved):
    torch = pytest.importorskip("torch")
    directory, _ = saved
    (directory / "model.safetensors").unlink()
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"wanted a dict of tensors.* its 'state_dict' alone"):
        pretrained.load(directory, allow_pickle=True)


def test_deeply_nested_json(saved):
    directory, _ = saved
    (directory / "config.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"config\.json: got invalid JSON"):
        pretrained.load(directory)


def test_no_weights(saved):
    (saved[0] / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"got only \['config.json'\]"):
        pretrained.load(saved[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["SpamForCausalLM"]},
            "got architecture 'SpamForCausalLM'; wanted one of .*LlamaForCausalLM",
        ),
        ({"architectures": None, "model_type": None}, "got architectures=None; wanted one in a list"),
        ({"mlp_bias": True}, "config.json: got mlp_bias=True; wanted False, the only supp"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "got rope_parameters of type 'yarn'; wanted 'default'"),
        ({"hidden_act": "gelu_of_ones_own"}, "config.json: activation: got 'gelu_of_ones_own'"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "got n_kv_heads=3 with n_heads=4"),
        ({"hidden_size": "six"}, "config.json: "),
    ],
)
def test_invalid_settings(saved, changes, message):
    settings(saved[0], **changes)
    with pytest.raises(ValueError, match=message):
        pretrained.load(saved[0])


def test_missing_settings(saved):
    path = saved[0] / "config.json"
    path.write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(
        ValueError, match=r"config\.json: got no vocab_size; wanted a value for it\. got no hidden_size; "
    ):
        pretrained.load(saved[0])
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: got invalid JSON"):
        pretrained.load(saved[0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r": got no config\.json; wanted"):
        pretrained.load(saved[0])


def test_neither_a_directory_nor_a_repository_name(tmp_path):
    for name in (tmp_path / "nowhere" / "at" / "all", "a/b/c", "what is this"):
        with pytest.raises(
            FileNotFoundError, match=r"checkpoint: got .*; wanted an existing directory, or a hub"
        ):
            pretrained.load(name)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_files_downloaded_from_the_hub(tmp_path, monkeypatch, allow_pickle):
    calls = []

    def download_model(repo_id, patterns, *, legacy_patterns):
        calls.append((repo_id, "*.bin" in patterns, legacy_patterns))
        return tmp_path

    monkeypatch.setattr(hub, "download_model", download_model)
    assert checkpoint_directory(tmp_path) == tmp_path and not calls
    assert checkpoint_directory("owner/name", allow_pickle=allow_pickle) == tmp_path
    assert calls == [("owner/name", allow_pickle, ["*.msgpack"])]

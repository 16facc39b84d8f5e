"""Legacy Flax weights: read under PyTorch's names; anything but arrays is an error."""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.pretrained import cases
from tests.pretrained.weights.flax_names import FLAX_NAMES
from tests.pretrained.weights.test_files import CONFIG, equal, params  # noqa: F401  - a fixture
from tfm_jax import pretrained
from tfm_jax.pretrained.weights.flax_msgpack import open_msgpack

FILE = "flax_model.msgpack"


def nested(tensors):
    """{"a.b": x} as {"a": {"b": x}}."""
    tree = {}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        functools.reduce(lambda node, part: node.setdefault(part, {}), path, tree)[last] = tensor
    return tree


def write(directory, tensors):
    (directory / FILE).write_bytes(flax.serialization.msgpack_serialize(nested(tensors)))


def flax_array(name, tensor):
    """Flax name and array of a Llama tensor: kernels are transposed, tables are called embedding."""
    if tensor.ndim == 2:
        is_table = "embed" in name
        name = name.removesuffix("weight") + ("embedding" if is_table else "kernel")
        return name, tensor if is_table else np.ascontiguousarray(tensor.T)
    return name, tensor


@pytest.fixture
def directory(params, tmp_path):  # noqa: F811
    pretrained.save(tmp_path / "model", params, CONFIG)
    path = tmp_path / "model" / "model.safetensors"
    write(tmp_path / "model", dict(flax_array(*item) for item in load_file(path).items()))
    path.unlink()
    return tmp_path / "model"


def test_parameters(directory, params):  # noqa: F811
    equal(pretrained.load(directory)[1], params)


def test_patch_kernels_dtypes_and_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)
    rng = np.random.default_rng(0)
    patch, large = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.normal(size=(11, 7))
    half = jnp.arange(6, dtype=jnp.bfloat16)
    write(tmp_path, {"a.kernel": patch, "b.c.scale": half, "b.d": large.astype(np.float64)})
    shapes, read = open_msgpack(tmp_path / FILE)
    assert shapes == {"a.weight": (5, 4, 2, 3), "b.c.weight": (6,), "b.d": (11, 7)}
    np.testing.assert_array_equal(read("a.weight"), patch.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(read("b.d"), large)
    assert read("b.c.weight").dtype == jnp.bfloat16


def test_missing_tensors_are_reported_by_pytorch_name(directory):
    tree = flax.serialization.msgpack_restore((directory / FILE).read_bytes())
    del tree["model"]["layers"]["1"]["mlp"]["up_proj"]
    (directory / FILE).write_bytes(flax.serialization.msgpack_serialize(tree))
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: missing, wanted \(5, 6\)"):
        pretrained.load(directory)


def array(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": 3}}, "a value of type int"),
        ({"a": [1.0]}, "a value of type list"),
        ({"a": msgpack.ExtType(3, b"")}, "extension with code 3"),
        ({"a": array((2,), "object", b"12")}, "an array of object"),
        ({"a": array((2,), "float32", b"12")}, r"an array of shape \[2\] in 2 bytes"),
        ({"a": array((-1, -2), "float32", b"12345678")}, "got .*; wanted a complete file"),
        ({"kernel": array((2,), "float32", b"12345678")}, "kernel with 1 axes"),
        ({1: 2}, "wanted a complete file"),
        ([], "wanted a complete file"),
    ],
)
def test_not_a_tree_of_arrays(tmp_path, value, message):
    (tmp_path / FILE).write_bytes(msgpack.packb(value))
    with pytest.raises(ValueError, match=message) as error:
        open_msgpack(tmp_path / FILE)
    assert FILE in str(error.value)


def test_truncated_and_trailing_bytes(directory):
    complete = (directory / FILE).read_bytes()
    for data in (complete[:-5], complete[: len(complete) // 2], complete[:1], b"", complete + b"\x01"):
        (directory / FILE).write_bytes(data)
        with pytest.raises(ValueError, match="wanted a complete file of Flax parameters"):
            pretrained.load(directory)


@pytest.mark.parametrize("both", [("scale", "weight"), ("kernel", "weight"), ("bias", "bias")], ids=str)
def test_two_arrays_for_one_tensor(tmp_path, both):
    path, x = tmp_path / FILE, np.ones((2, 3), np.float32)
    entries = [msgpack.packb(name) + flax.serialization.msgpack_serialize(x) for name in both]
    path.write_bytes(b"\x81" + msgpack.packb("norm") + b"\x82" + b"".join(entries))
    with pytest.raises(
        ValueError, match=rf"got norm\.{both[1]} and another array, which are both norm\.\w+;"
    ):
        open_msgpack(path)


def test_too_deep_a_tree(tmp_path):
    value = array((1,), "float32", bytes(4))
    for _ in range(40):
        value = {"a": value}
    (tmp_path / FILE).write_bytes(msgpack.packb(value))
    with pytest.raises(ValueError, match="deeper than 32"):
        open_msgpack(tmp_path / FILE)


def test_safetensors_take_precedence(directory, params):  # noqa: F811
    pretrained.save(directory / "again", params, CONFIG)
    (directory / "again" / FILE).write_bytes(b"not read")
    equal(pretrained.load(directory / "again")[1], params)


def transposed(tensor):
    """[A, B] as [B, A]."""
    return np.array([[tensor[i, j] for i in range(len(tensor))] for j in range(tensor.shape[1])])


def patches(tensor):
    """[out, in, height, width] as [height, width, in, out]."""
    return np.stack(
        [np.stack([tensor[:, :, y, x].T for x in range(tensor.shape[3])]) for y in range(tensor.shape[2])]
    )


LAYOUTS = {"=": lambda tensor: tensor, "T": transposed, "P": patches}
RANKS = {"T": 2, "P": 4}


def arrays(name):
    """(layout, Flax path, tensor name) of each array of a model."""
    words = FLAX_NAMES[name].split()
    return list(zip(words[::3], words[1::3], words[2::3], strict=True))


@pytest.mark.parametrize("name", FLAX_NAMES)
def test_names_and_layouts_of_each_model(tmp_path, name):
    rng, tensors, tree = np.random.default_rng(0), {}, {}
    for i, (kind, path, tensor) in enumerate(arrays(name)):
        rank = RANKS.get(kind, 2 if path.endswith("embedding") else 1)
        tensors[tensor] = rng.normal(size=(3 + i % 5, 2, 4, 7)[:rank]).astype(np.float32)
        tree[path.replace("/", ".")] = LAYOUTS[kind](tensors[tensor])
    write(tmp_path, tree)
    shapes, read = open_msgpack(tmp_path / FILE)
    assert shapes == {tensor: x.shape for tensor, x in tensors.items()}
    for tensor, x in tensors.items():
        np.testing.assert_array_equal(read(tensor), x, err_msg=tensor)


CASES = {
    "FlaxBertForMaskedLM": cases.BERT["masked"],
    "FlaxGPT2LMHeadModel": cases.GPT2["tied"],
    "FlaxT5ForConditionalGeneration": cases.T5["1.1"],
    "FlaxBartForConditionalGeneration": cases.BART["tied"],
    "FlaxLlamaForCausalLM": cases.LLAMA["grouped"],
    "FlaxViTForImageClassification": cases.VIT["images"],
}
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")


@pytest.mark.parity
@pytest.mark.parametrize("name", FLAX_NAMES)
def test_each_family(tmp_path, name):
    """A one-layer model of transformers loads alike from Flax and PyTorch files."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.pretrained import transformers_models

    case = CASES[name]
    one = {layers: 1 for layers in LAYERS if layers in case.fields}
    one |= {"num_layers": 1, "num_decoder_layers": 1} if "T5" in name else {}
    transformers_models.random(case._replace(fields=case.fields | one)).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    if "T5" in name:  # version 5 does not save its head
        saved["lm_head.weight"] = 2 * saved["shared.weight"]
        save_file(saved, tmp_path / "model.safetensors")
    _, wanted, _, _ = pretrained.load(tmp_path, tokenizer=False)
    assert {tensor for _, _, tensor in arrays(name)} == saved.keys()
    (tmp_path / "model.safetensors").unlink()
    write(
        tmp_path,
        {path.replace("/", "."): LAYOUTS[kind](saved[tensor]) for kind, path, tensor in arrays(name)},
    )
    _, got, _, _ = pretrained.load(tmp_path, tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)

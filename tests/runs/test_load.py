"""A run's directory is read as a model: which checkpoints, which average, which errors."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.memory import count_objects
from tests.pretrained.families.test_families import FIELDS
from tests.saved_runs import CONFIG, make_run
from tfm_jax import data, nn, ops, pretrained, runs, train
from tfm_jax.runs import load


def test_a_classifier_of_an_older_version_is_not_loaded(tmp_path):
    classifier = functools.partial(nn.Classifier, n_classes=2)
    with pytest.raises(FileNotFoundError, match=r"got no task\.json; wanted a run of version 0\.5 or newer"):
        runs.load_run(make_run(tmp_path, classifier))


def scale_of(run, **options):
    """The scale of the parameters of a run, relative to those of scale 1."""
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, vocab_size=12))
    loaded, initial = runs.load_run(run, **options).params, jax.jit(model.init)(jax.random.key(7))
    found, one = (np.abs(np.asarray(params["embedding"]["table"])).max() for params in (loaded, initial))
    return round(float(found / one), 4)


def test_average_of_the_last_checkpoints(tmp_path):
    run = make_run(tmp_path, nn.Decoder, scales=(1.0, 2.0, 6.0), settings={"average": 2})
    assert scale_of(run) == 4.0  # the average of its config
    assert scale_of(run, average=1) == 6.0 and scale_of(run, average=3) == 3.0
    with pytest.raises(ValueError, match="load_run: got average=4; wanted 1 to 3"):
        runs.load_run(run, average=4)
    with pytest.raises(ValueError, match="load_run: got average=0; wanted 1 to 3"):
        runs.load_run(run, average=0)
    few = json.loads((run / "config.json").read_text()) | {"average": 5}
    (run / "config.json").write_text(json.dumps(few))
    assert scale_of(run) == 3.0  # only 3 exist


def test_ema_is_used_if_there_is_one(tmp_path):
    run = make_run(tmp_path, nn.Decoder, scales=(2.0,), ema=True)
    assert scale_of(run) == 10.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_parameters_in_another_dtype(tmp_path, dtype):
    run = make_run(tmp_path, nn.Decoder, scales=(1.0, 2.0, 6.0), settings={"average": 3})
    plain, found = runs.load_model(run), runs.load_model(run, dtype=dtype)
    rounded = jax.tree.map(lambda x: x.astype(dtype), plain.params)  # after averaging
    chex.assert_trees_all_equal(found.params, rounded)
    chex.assert_trees_all_equal_dtypes(found.params, rounded)
    assert (found.config.dtype, found.config.param_dtype) == (dtype, dtype)
    generator = runs.load_run(run, dtype=dtype)
    assert {x.dtype for x in jax.tree.leaves(generator.params)} == {jnp.dtype(dtype)}
    assert generator.model.config.dtype == dtype


@pytest.mark.parametrize("load", [runs.load_run, runs.load_model])
def test_an_unknown_dtype(tmp_path, load):
    with pytest.raises(
        ValueError, match=f"{load.__name__}: got dtype='float16'; wanted None or one of float32"
    ):
        load(tmp_path, dtype="float16")


@dataclasses.dataclass(frozen=True)
class Unscaled(nn.Norm):
    """A norm from outside the library, which is not registered."""

    def build(self, size, *, axis, dtype, rngs):
        return UnscaledLayer()


class UnscaledLayer(nnx.Module):
    def __call__(self, x):
        return ops.rms_norm(x, jnp.ones(x.shape[-1]))


def test_variants_of_the_caller(tmp_path):
    config = dataclasses.replace(CONFIG, norm=Unscaled())
    run = make_run(tmp_path, nn.Decoder, config, variants=[Unscaled])
    assert runs.load_run(run, variants=[Unscaled]).model.config.norm == Unscaled()
    with pytest.raises(ValueError, match=r"load_run\(directory, variants=\[Unscaled\]\)"):
        runs.load_run(run)
    with pytest.raises(ValueError, match=r"^variants: got <class 'int'>; wanted classes of variants"):
        runs.load_run(run, variants=[int])


def test_loading_one_run_again_keeps_no_memory(tmp_path, monkeypatch):
    run = make_run(tmp_path, nn.Decoder)
    params = runs.load_run(run).params
    monkeypatch.setattr(load, "_load_params", lambda *args: params)  # orbax keeps some lists of each reading

    def objects():
        runs.load_run(run).write(["ab"], key=None, max_length=2)
        return count_objects()

    counts = [objects() for _ in range(5)]
    assert counts[-1] <= counts[2], counts


@pytest.mark.parametrize("module", [nn.Decoder, nn.EncoderDecoder, nn.Classifier])
def test_load_model_of_a_run(tmp_path, module):
    options = {"n_classes": 2} if module is nn.Classifier else {}
    run = make_run(tmp_path / "run", functools.partial(module, **options), scales=(1.0, 2.0), ema=True)
    found = runs.load_model(run)
    assert found.module is module and found.image_processor is None
    assert found.config == runs.read_model_config(run) == dataclasses.replace(CONFIG, vocab_size=12)
    chex.assert_trees_all_equal(found.params, train.load_params(run / "checkpoints", 2, item="ema"))
    averaged = runs.load_model(str(run), average=2).params  # of the weights
    one = train.load_params(run / "checkpoints", 1)
    chex.assert_trees_all_close(averaged, jax.tree.map(lambda x: 1.5 * x, one), rtol=1e-6)
    found.save_preprocessing(tmp_path / "other")
    saved = data.load_tokenizer(tmp_path / "other")
    assert saved.encode("abc") == found.tokenizer.encode("abc")
    special = json.loads((tmp_path / "other" / "special_tokens_map.json").read_text())
    assert special == {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}


def test_load_model_takes_variants_of_the_caller(tmp_path):
    config = dataclasses.replace(CONFIG, norm=Unscaled())
    run = make_run(tmp_path, nn.Decoder, config, variants=[Unscaled])
    assert runs.load_model(run, variants=[Unscaled]).config.norm == Unscaled()
    assert runs.read_model_config(run, [Unscaled]).norm == Unscaled()
    with pytest.raises(ValueError, match=r"config.json: got no valid model config \(.*\[Unscaled\]"):
        runs.read_model_config(run)


def test_load_model_of_a_checkpoint(tmp_path):
    tokenizer = data.char_tokenizer("abc")
    model = nn.Config(**FIELDS["gpt2"] | {"vocab_size": 9})
    config = pretrained.CheckpointConfig("GPT2LMHeadModel", model, {"eos_token_id": 5, "bos_token_id": 4})
    params = jax.jit(nn.functionalize(nn.Decoder, model).init)(jax.random.key(5))
    pretrained.save(tmp_path, params, config, tokenizer.backend)
    found = runs.load_model(tmp_path)
    assert found.module is nn.Decoder and found.config == runs.read_model_config(tmp_path)
    assert (found.tokenizer.bos_id, found.tokenizer.eos_id) == (4, 5)
    chex.assert_trees_all_equal(found.params, params)
    rounded = runs.load_model(tmp_path, dtype="bfloat16")
    chex.assert_trees_all_equal(rounded.params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    assert rounded.config.dtype == rounded.config.param_dtype == "bfloat16"
    with pytest.raises(
        ValueError, match=r"^load_model: got average=2 for .*, which is no run; wanted average=None"
    ):
        runs.load_model(tmp_path, average=2)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}: got no tokenizer; wanted a checkpoint with one"):
        runs.load_model(tmp_path)


def test_damaged_settings_of_a_run_name_the_file(tmp_path):
    run = make_run(tmp_path, nn.Decoder)
    saved = json.loads((run / "config.json").read_text())
    for wrong in ({"average": "many"}, {"average": 1e400}, {"train": 5}, {"model": None}):
        (run / "config.json").write_text(json.dumps(saved | wrong))
        with pytest.raises(
            ValueError, match=r"config.json: got no valid (model )?config \(.*; wanted the file"
        ):
            runs.load_run(run)


def test_special_tokens_are_those_of_the_settings_of_the_checkpoint():
    backend = data.char_tokenizer(["abc"]).backend
    named = load._with_special_tokens(
        backend, {"pad_token_id": 0, "eos_token_id": [5, 2], "decoder_start_token_id": 2}
    )
    assert (named.pad_id, named.bos_id, named.eos_id) == (0, 2, 5)
    plain = load._with_special_tokens(backend, {})
    assert (plain.pad_id, plain.bos_id, plain.eos_id) == (0, 1, 2)
    np.testing.assert_array_equal(plain.encode_batch(["ab"])[0], [4, 5])

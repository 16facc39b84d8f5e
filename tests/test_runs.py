"""A run's directory is read as a model: which checkpoints, which average, which errors."""

import dataclasses
import functools
import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.runs import CONFIG, make_run
from tfm_jax import data, nn, ops, runs


def test_a_classifier_is_not_a_text_generator(tmp_path):
    classifier = functools.partial(nn.Classifier, n_classes=2)
    with pytest.raises(ValueError, match="wanted a Decoder or EncoderDecoder"):
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
    monkeypatch.setattr(runs, "_load_params", lambda *args: params)  # orbax keeps some lists of each reading

    def objects():
        runs.load_run(run).write(["ab"], key=None, max_length=2)
        gc.collect()
        return len(gc.get_objects())

    counts = [objects() for _ in range(5)]
    assert counts[-1] == counts[2], counts


def test_special_tokens_are_those_of_the_settings_of_the_checkpoint():
    backend = data.char_tokenizer(["abc"]).backend
    named = runs._with_special_tokens(
        backend, {"pad_token_id": 0, "eos_token_id": [5, 2], "decoder_start_token_id": 2}
    )
    assert (named.pad_id, named.bos_id, named.eos_id) == (0, 2, 5)
    plain = runs._with_special_tokens(backend, {})
    assert (plain.pad_id, plain.bos_id, plain.eos_id) == (0, 1, 2)
    np.testing.assert_array_equal(plain.encode_batch(["ab"])[0], [4, 5])

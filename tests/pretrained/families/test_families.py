"""Every architecture round-trips through save and load without torch: tensor names and settings."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tfm_jax import nn, pretrained
from tfm_jax.pretrained.families import FAMILIES, family_of, find_family
from tfm_jax.pretrained.families._common import rope_of
from tfm_jax.pretrained.load import model_of

SIZES = {"vocab_size": 11, "d_model": 6, "n_layers": 2, "n_heads": 3, "d_ff": 5, "scale_embeddings": False}
ROTATED = SIZES | {
    "n_kv_heads": 1,
    "norm": nn.RMSNorm(1e-3),
    "positions": nn.Rope(50.0),
    "feed_forward": nn.Glu(),
    "tie_embeddings": False,
    "attention_dropout_rate": 0.2,
}
POST = SIZES | {
    "norm_placement": "post",
    "final_norm": False,
    "embedding_norm": True,
    "positions": nn.Learned(9),
    "feed_forward": nn.Mlp("gelu"),
    "attention_bias": True,
    "dropout_rate": 0.3,
}
BERT = POST | {"norm": nn.LayerNorm(1e-3), "token_types": 3}
BART = POST | {"n_decoder_layers": 1, "logits_bias": True}
FIELDS = {
    "gpt2": SIZES
    | {
        "positions": nn.Learned(9),
        "feed_forward": nn.Mlp("gelu_tanh"),
        "attention_bias": True,
        "dropout_rate": 0.3,
        "embedding_dropout_rate": 0.2,
    },
    "opt": SIZES
    | {
        "count_padding": False,
        "positions": nn.Learned(9),
        "feed_forward": nn.Mlp("relu", bias=False),
        "tie_embeddings": False,
        "dropout_rate": 0.3,
        "embedding_dropout_rate": 0.0,
    },
    "bloom": SIZES
    | {
        "d_ff": 24,
        "norm": nn.LayerNorm(1e-3),
        "embedding_norm": True,
        "positions": nn.Alibi(),
        "count_padding": False,
        "feed_forward": nn.Mlp("gelu_tanh"),
        "attention_bias": True,
        "dropout_rate": 0.3,
        "embedding_dropout_rate": 0.0,
    },
    "gpt_neox": SIZES
    | {
        "d_model": 12,
        "norm": nn.LayerNorm(1e-3),
        "norm_placement": "parallel",
        "positions": nn.Rope(100.0, fraction=0.5),
        "attention_bias": True,
        "tie_embeddings": False,
        "dropout_rate": 0.3,
        "attention_dropout_rate": 0.2,
    },
    "llama": ROTATED | {"attention_bias": True},
    "mistral": ROTATED | {"window": 4},
    "qwen2": ROTATED | {"attention_bias": True, "attention_output_bias": False, "window": 4},
    "qwen3": ROTATED | {"qk_norm": True, "head_dim": 4},
    "bert": BERT,
    "roberta": BERT | {"positions": nn.Learned(9, padding_id=4)},
    "distilbert": POST | {"norm": nn.LayerNorm(1e-12)},
    "t5": SIZES
    | {
        "norm": nn.RMSNorm(1e-3),
        "positions": nn.RelativeBias(8, 9),
        "feed_forward": nn.Glu("gelu_new"),
        "attention_scale": 1.0,
        "tie_embeddings": False,
    },
    "bart": BART,
    "mbart": BART | {"norm_placement": "pre", "final_norm": True, "scale_embeddings": True},
    "pegasus": BART
    | {
        "positions": nn.Sinusoidal(pairing="half"),
        "embedding_norm": False,
        "norm_placement": "pre",
        "final_norm": True,
    },
    "marian": BART
    | {"positions": nn.Sinusoidal(pairing="half"), "embedding_norm": False, "feed_forward_dropout_rate": 0.1},
    "vit": {
        "d_model": 6,
        "n_layers": 2,
        "n_heads": 3,
        "d_ff": 5,
        "norm": nn.LayerNorm(1e-3),
        "positions": nn.Learned(9),
        "feed_forward": nn.Mlp("gelu"),
        "attention_output_bias": True,
        "patches": nn.Patches(6, 8, 2, (3, 2), class_token=True),
        "dropout_rate": 0.3,
    },
}
# The pooler of each architecture that has one.
POOLERS = {
    "ViTModel": nn.Pooler("relu"),
    "BertModel": nn.Pooler("tanh"),
    "RobertaModel": nn.Pooler("tanh"),
    "BertForSequenceClassification": nn.Pooler("tanh"),
    "RobertaForSequenceClassification": nn.Pooler("tanh", 0.3),
    "DistilBertForSequenceClassification": nn.Pooler("relu"),
}
EVERY = [(family, name) for family in FAMILIES for name in family.architectures]


@pytest.mark.parametrize(("family", "name"), EVERY, ids=[name for _, name in EVERY])
def test_save_and_load_round_trip(family, name, tmp_path):
    config = pretrained.CheckpointConfig(
        name, nn.Config(**FIELDS[family.model_type], pooler=POOLERS.get(name))
    )
    shapes = jax.eval_shape(model_of(config, family).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    pretrained.save(tmp_path / "saved", params, config)
    _, got, found, _ = pretrained.load(tmp_path / "saved")
    jax.tree.map(np.testing.assert_array_equal, got, params)
    assert found.architecture == name
    pretrained.save(tmp_path / "again", got, found)
    one, other = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("saved", "again"))
    assert one == other

    def read(folder):
        return json.loads((tmp_path / folder / "config.json").read_text())

    assert read("saved") == read("again")
    assert dataclasses.replace(found, settings={}) == dataclasses.replace(config, model=found.model)


def test_a_missing_optional_tensor_is_zeros(tmp_path):
    config = pretrained.CheckpointConfig("BartForConditionalGeneration", nn.Config(**FIELDS["bart"]))
    params = nn.functionalize(nn.EncoderDecoder, config.model).init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 1.0, params)
    pretrained.save(tmp_path, params, config)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.pop("final_logits_bias").all()
    save_file(tensors, tmp_path / "model.safetensors")
    _, got, _, _ = pretrained.load(tmp_path)
    wanted = params | {"logits_bias": np.zeros_like(params["logits_bias"])}
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_every_architecture_is_known_once():
    names = [name for _, name in EVERY]
    assert len(names) == len(set(names)) == 27


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
        {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2}},
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e6}}},
        {"rope_parameters": {"partial_rotary_factor": 0.5}, "partial_rotary_factor": 1.0},
    ],
)
def test_unsupported_rotary_settings_are_errors(settings):
    assert rope_of({"rope_parameters": {"rope_type": "default", "rope_theta": 50}}) == nn.Rope(50.0)
    with pytest.raises(ValueError, match=r"^got rope_.*; wanted "):
        rope_of(settings)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, nn.Rope(10_000.0, fraction=0.25)),
        ({"rotary_pct": 0.5, "rotary_emb_base": 70}, nn.Rope(70.0, fraction=0.5)),
        (
            {"rope_parameters": {"rope_theta": 70.0, "partial_rotary_factor": 1.0}, "rotary_pct": 0.5},
            nn.Rope(70.0),
        ),
    ],
)
def test_partial_rotary_positions_by_old_and_new_keys(settings, wanted):
    sizes = {"vocab_size": 9, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    settings = {"architectures": ["GPTNeoXForCausalLM"], **sizes, "intermediate_size": 5, **settings}
    assert find_family("GPTNeoXForCausalLM").read_config(settings, "it").positions == wanted
    settings["rope_scaling"] = {"type": "linear", "factor": 2.0}
    with pytest.raises(ValueError, match="got rope_scaling of type 'linear'; wanted 'default'"):
        find_family("GPTNeoXForCausalLM").read_config(settings, "it")


def test_the_default_window_is_that_of_transformers():
    fields = ROTATED | {"window": 4}
    for name in ("MistralForCausalLM", "Qwen2ForCausalLM"):
        settings = find_family(name).write_config(
            pretrained.CheckpointConfig(name, nn.Config(**FIELDS[find_family(name).model_type]))
        )

        def read(settings, name=name):
            return find_family(name).read_config(settings, "it").window

        assert read(settings) == fields["window"]
        assert read({key: x for key, x in settings.items() if key != "sliding_window"}) == 4096
        assert read(settings | {"sliding_window": None}) is None


def test_an_architecture_of_another_model_type_is_an_error():
    with pytest.raises(ValueError, match="got model_type='granite' for LlamaForCausalLM; wanted 'llama'"):
        family_of({"architectures": ["LlamaForCausalLM"], "model_type": "granite"}, "config.json")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale", [1.0, 6**-0.5])
def test_t5_writes_tying_and_scaling_separately(tied, scale):
    name = "T5ForConditionalGeneration"
    model = nn.Config(**FIELDS["t5"] | {"tie_embeddings": tied, "logits_scale": scale})
    settings = find_family(name).write_config(pretrained.CheckpointConfig(name, model))
    assert settings["tie_word_embeddings"] == tied and settings["scale_decoder_outputs"] == (scale != 1.0)

"""Settings that families share: unsupported values, activations, rotary positions, T5's derived keys."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn, ops, pretrained
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.families._common import activation_of, activation_setting

SEQ2SEQ = {
    "vocab_size": 18,
    "d_model": 12,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 5,
    "decoder_ffn_dim": 5,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
}
LLAMA = {"vocab_size": 17, "hidden_size": 12, "num_attention_heads": 6, "num_hidden_layers": 2}
LLAMA |= {"intermediate_size": 11}
BART, MARIAN = "BartForConditionalGeneration", "MarianMTModel"


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        (BART, {"tie_word_embeddings": False}, "got tie_word_embeddings=False; wanted True, the only"),
        (
            BART,
            {"decoder_ffn_dim": 6, "decoder_attention_heads": 2},
            "heads=2; wanted 3.*got decoder_ffn_dim=6; wanted 5, the value of enc",
        ),
        (
            MARIAN,
            {"share_encoder_decoder_embeddings": False},
            "share_encoder_decoder_embeddings=False; wanted True",
        ),
        (MARIAN, {"decoder_vocab_size": 9}, "decoder_vocab_size=9; wanted 18, the value of vocab_size"),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling of type 'dynamic'; wanted 'default'",
        ),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"rope_type": "llama3"}},
            "rope_parameters of type 'llama3'; wanted 'default'",
        ),
        ("Qwen2ForCausalLM", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling of type 'yarn'"),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"full_attention": {}}},
            "got rope_parameters with .'full_attention'.; wanted the same rotation",
        ),
        ("LlamaForCausalLM", {"rope_theta": 9.0, "rms_norm_eps": "e"}, "RMSNorm: got eps='e'; wanted"),
        (
            "LlamaForCausalLM",
            {"rope_theta": 9.0, "vocab_size": None},
            "got vocab_size=None; wanted an integer of at least 1",
        ),
        (
            "LlamaForCausalLM",
            {"rope_theta": 9.0, "tie_word_embeddings": "no"},
            "got tie_embeddings='no'; wanted True or False",
        ),
        # Both are a division by zero in transformers; null is the computed default.
        ("LlamaForCausalLM", {"head_dim": 0}, "got head_dim=0; wanted an integer of at least 1"),
        ("LlamaForCausalLM", {"num_key_value_heads": 0}, "got num_key_value_heads=0; wanted an integer of"),
        ("GPTNeoXForCausalLM", {"rotary_pct": None}, "got fraction=None; wanted a number in"),
        ("GPTNeoXForCausalLM", {"rotary_pct": 0.3}, "which rotates 0 of the 2 elements of a head"),
        (BART, {"dropout": None}, "got dropout_rate=None; wanted a number in"),
    ],
)
def test_unsupported_settings_are_errors_that_name_the_file_and_the_key(
    tmp_path, architecture, settings, message
):
    sizes = SEQ2SEQ if architecture in (BART, MARIAN) else LLAMA
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": [architecture], **sizes, **settings}))
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load(tmp_path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parity
def test_every_activation_of_transformers_matches_and_is_written_by_its_name():
    reference = pytest.importorskip("transformers").activations.ACT2FN
    torch = pytest.importorskip("torch")
    x = np.linspace(-12, 12, 401, dtype=np.float32)
    for name in reference:
        if name in ("prelu", "xielu"):
            with pytest.raises(ValueError, match=f"activation: got '{name}', which has parameters"):
                activation_of(name)
            continue
        wanted = reference[name](torch.tensor(x)).numpy()
        converted = activation_of(name)
        np.testing.assert_allclose(ops.activation(converted)(jnp.asarray(x)), wanted, atol=1e-6, rtol=1e-6)
        again = reference[activation_setting(converted)](torch.tensor(x)).numpy()
        np.testing.assert_allclose(again, wanted, atol=1e-6, rtol=1e-6)
        assert activation_setting(converted) == name


@pytest.mark.parametrize("theta", ["rope_theta", "rope_parameters"])
@pytest.mark.parametrize(
    "architecture", [f"{x}ForCausalLM" for x in ("Llama", "Mistral", "Qwen2", "Qwen3", "GPTNeoX")]
)
def test_rope_scaling_takes_precedence_over_other_keys(architecture, theta):
    older = {"rope_theta": 7.0, "rotary_emb_base": 7.0, "rotary_pct": 1.0}
    older |= {"rope_parameters": {"rope_type": "default", "rope_theta": 8.0}} if theta != "rope_theta" else {}
    settings = {"architectures": [architecture], **LLAMA, **older}

    def read(**more):
        return find_family(architecture).read_config(settings | more, "it").positions.theta

    assert read() == (7.0 if theta == "rope_theta" else 8.0)
    assert read(rope_scaling={"rope_type": "default", "rope_theta": 9.0}) == 9.0
    assert read(rope_scaling={"type": "default"}) == 7.0  # and not the other object's
    assert read(rope_scaling={}) == read(rope_scaling=None) == read()


T5 = {"vocab_size": 18, "d_model": 12, "num_heads": 3, "d_kv": 5, "d_ff": 14, "num_layers": 2}


@pytest.mark.parametrize(
    ("settings", "field", "wanted"),
    [
        ({"feed_forward_proj": "gated-gelu"}, "feed_forward", nn.Glu("gelu_new")),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, "feed_forward", nn.Glu("gelu")),
        ({"feed_forward_proj": "relu", "is_gated_act": True}, "feed_forward", nn.Glu("relu")),
        (
            {"feed_forward_proj": "gated-silu", "is_gated_act": None},
            "feed_forward",
            nn.Mlp("silu", bias=False),
        ),
        ({"tie_word_embeddings": None}, "logits_scale", 12**-0.5),
        ({"tie_word_embeddings": False}, "logits_scale", 1.0),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, "logits_scale", 12**-0.5),
        ({"num_hidden_layers": 3}, "n_layers", 3),
        ({"num_hidden_layers": 3}, "n_decoder_layers", 2),
        ({"num_hidden_layers": 3, "num_decoder_layers": 1}, "n_decoder_layers", 1),
    ],
)
def test_derived_keys_of_t5_take_precedence_over_their_sources(settings, field, wanted):
    name = "T5ForConditionalGeneration"
    found = find_family(name).read_config({"architectures": [name], **T5, **settings}, "it")
    assert getattr(found, field) == wanted
    written = find_family(name).write_config(pretrained.CheckpointConfig(name, found, settings))
    assert getattr(find_family(name).read_config(written, "it"), field) == wanted


@pytest.mark.parametrize("head_dim", [None, 0])
def test_mistral_computes_a_head_dim_of_null_or_0(head_dim):
    settings = {"architectures": ["MistralForCausalLM"], **LLAMA}
    read = find_family("MistralForCausalLM").read_config
    assert read({**settings, "head_dim": head_dim}, "it").head_dim == read(settings, "it").head_dim


def test_gpt_neox_has_one_head_dim_for_attention_and_rotation():
    settings = {"architectures": ["GPTNeoXForCausalLM"], **LLAMA, "rotary_pct": 1.0}

    def read(**more):
        return find_family("GPTNeoXForCausalLM").read_config(settings | more, "it")

    assert read(head_dim=2) == read(head_dim=None) == read()
    with pytest.raises(ValueError, match="got head_dim=4; wanted 2, the only supported value"):
        read(head_dim=4)

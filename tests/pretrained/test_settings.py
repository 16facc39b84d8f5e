"""What an architecture of theirs can be and ours cannot is refused by name, when its config is read."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import ops, pretrained
from tfm_jax.pretrained.settings import activation_of, activation_setting

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
        (BART, {"tie_word_embeddings": False}, "tie_word_embeddings=False is not supported, only True"),
        (BART, {"decoder_ffn_dim": 6, "decoder_attention_heads": 2}, "heads=2 .*; decoder_ffn_dim=6 is not"),
        (
            MARIAN,
            {"share_encoder_decoder_embeddings": False},
            "share_encoder_decoder_embeddings=False is not",
        ),
        (MARIAN, {"decoder_vocab_size": 9}, "decoder_vocab_size=9 is not supported, only 18"),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling .* 'dynamic'",
        ),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"rope_type": "llama3"}},
            "rope_parameters .* 'llama3' is not",
        ),
        ("Qwen2ForCausalLM", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling of the type 'yarn'"),
        ("LlamaForCausalLM", {"rope_parameters": {"full_attention": {}}}, "not supported: .'full_attention'"),
        ("LlamaForCausalLM", {"rope_theta": 9.0, "rms_norm_eps": "e"}, "RMSNorm: got eps='e'; wanted"),
        (
            "LlamaForCausalLM",
            {"rope_theta": 9.0, "vocab_size": None},
            "got vocab_size=None; wanted",
        ),
        (
            "LlamaForCausalLM",
            {"rope_theta": 9.0, "tie_word_embeddings": "no"},
            "got tie_embeddings='no'; wanted True or False",
        ),
        ("GPTNeoXForCausalLM", {"rotary_pct": None}, "got fraction=None; wanted a number in"),
        ("GPTNeoXForCausalLM", {"rotary_pct": 0.3}, "would rotate 0 of the 2 elements of a head"),
        (BART, {"dropout": None}, "got dropout_rate=None; wanted a number in"),
    ],
)
def test_refused_by_name(tmp_path, architecture, settings, message):
    sizes = SEQ2SEQ if architecture in (BART, MARIAN) else LLAMA
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": [architecture], **sizes, **settings}))
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load(tmp_path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parity
def test_activations_are_theirs_by_every_name_and_written_by_one_of_theirs():
    theirs = pytest.importorskip("transformers").activations.ACT2FN
    torch = pytest.importorskip("torch")
    x = np.linspace(-12, 12, 401, dtype=np.float32)
    for name in theirs:
        if name in ("prelu", "xielu"):
            with pytest.raises(ValueError, match=f"activation: got '{name}', which has parameters"):
                activation_of(name)
            continue
        wanted = theirs[name](torch.tensor(x)).numpy()
        ours = activation_of(name)
        np.testing.assert_allclose(ops.activation(ours)(jnp.asarray(x)), wanted, atol=1e-6, rtol=1e-6)
        again = theirs[activation_setting(ours)](torch.tensor(x)).numpy()
        np.testing.assert_allclose(again, wanted, atol=1e-6, rtol=1e-6)
        assert activation_setting(ours) == name

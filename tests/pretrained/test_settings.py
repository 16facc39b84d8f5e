"""What an architecture of theirs can be and ours cannot is refused by name, when its config is read."""

import json

import pytest

from tfm_jax import pretrained

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
        ("LlamaForCausalLM", {"rope_theta": 9.0, "rms_norm_eps": "e"}, "eps must be a number, got 'e'"),
        (
            "LlamaForCausalLM",
            {"rope_theta": 9.0, "vocab_size": None},
            "vocab_size must be a whole number, at least 1, got None",
        ),
        (
            "LlamaForCausalLM",
            {"rope_theta": 9.0, "tie_word_embeddings": "no"},
            "tie_embeddings must be True or False, got 'no'",
        ),
        ("GPTNeoXForCausalLM", {"rotary_pct": None}, "fraction must be a number, got None"),
        ("GPTNeoXForCausalLM", {"rotary_pct": 0.3}, "would rotate 0 of the 2 elements of a head"),
        (BART, {"dropout": None}, "dropout_rate must be a number, got None"),
    ],
)
def test_refused_by_name(tmp_path, architecture, settings, message):
    sizes = SEQ2SEQ if architecture in (BART, MARIAN) else LLAMA
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": [architecture], **sizes, **settings}))
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load(tmp_path)
    assert str(error.value).startswith(f"{path}: ")

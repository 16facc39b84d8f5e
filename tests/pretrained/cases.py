"""Tiny configs of transformers, three or more per family: odd head counts, grouped, tied and untied."""

from typing import NamedTuple

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """A model of transformers: the names of its class and config class, and the fields of the config."""

    model: str
    config: str
    fields: dict


def _gpt2(**fields):
    common = {"vocab_size": 19, "n_positions": 24, "bos_token_id": 0, "eos_token_id": 2}
    return Case("GPT2LMHeadModel", "GPT2Config", common | fields)


GPT2 = {
    "tied": _gpt2(n_embd=15, n_head=3, n_layer=2, n_inner=22),
    "untied, relu": _gpt2(
        n_embd=10,
        n_head=5,
        n_layer=3,
        tie_word_embeddings=False,
        activation_function="relu",
        layer_norm_epsilon=1e-3,
    ),
    "one head": _gpt2(n_embd=7, n_head=1, n_layer=1, activation_function="gelu"),
}


def _opt(**fields):
    common = {
        "vocab_size": 19,
        "ffn_dim": 11,
        "max_position_embeddings": 24,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "word_embed_proj_dim": None}
    return Case("OPTForCausalLM", "OPTConfig", common | sizes | fields)


OPT = {
    "tied": _opt(),
    "untied, post-norm, gelu": _opt(
        hidden_size=10,
        num_attention_heads=5,
        do_layer_norm_before=False,
        activation_function="gelu",
        tie_word_embeddings=False,
    ),
    "no biases, no last norm": _opt(
        hidden_size=7,
        num_attention_heads=1,
        num_hidden_layers=3,
        enable_bias=False,
        _remove_final_layer_norm=True,
    ),
}


def _bloom(**fields):
    common = {"vocab_size": 19, "n_layer": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return Case("BloomForCausalLM", "BloomConfig", common | fields)


BLOOM = {
    "tied": _bloom(hidden_size=15, n_head=3),
    "untied": _bloom(hidden_size=10, n_head=5, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
    "one head": _bloom(hidden_size=7, n_head=1, n_layer=3),
}


def _gpt_neox(**fields):
    common = {"vocab_size": 19, "intermediate_size": 11, "bos_token_id": 0, "eos_token_id": 2}
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2}
    return Case("GPTNeoXForCausalLM", "GPTNeoXConfig", common | sizes | fields)


GPT_NEOX = {
    "untied": _gpt_neox(),
    "tied, one after another, complete heads, gelu_new": _gpt_neox(
        hidden_size=20,
        num_attention_heads=5,
        use_parallel_residual=False,
        rotary_pct=1.0,
        rotary_emb_base=100,
        hidden_act="gelu_new",
        tie_word_embeddings=True,
    ),
    "one head, no biases": _gpt_neox(
        hidden_size=12,
        num_attention_heads=1,
        num_hidden_layers=3,
        attention_bias=False,
        rotary_pct=0.7,
        layer_norm_eps=1e-3,
    ),
}

GROUPED = {"hidden_size": 12, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2}
ODD = {
    "hidden_size": 10,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "num_hidden_layers": 1,
    "tie_word_embeddings": True,
}
WHOLE = {
    "hidden_size": 18,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-3,
}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}


def _llama(kind, *fields):
    common = {
        "vocab_size": 17,
        "intermediate_size": 11,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    merged = dict(common)
    for more in fields:
        merged |= more
    return Case(f"{kind}ForCausalLM", f"{kind}Config", merged)


LLAMA = {
    "grouped": _llama("Llama", GROUPED, {"head_dim": 2}, THETA),
    "tied, biased": _llama("Llama", ODD, {"attention_bias": True}),
    "gelu": _llama("Llama", WHOLE, {"hidden_act": "gelu"}),
}
MISTRAL = {
    "grouped, window": _llama("Mistral", GROUPED, {"head_dim": 2, "sliding_window": 4}),
    "tied": _llama("Mistral", ODD, {"sliding_window": None}),
    "untied": _llama("Mistral", WHOLE, {"sliding_window": 24}, THETA),
}
QWEN2 = {
    "grouped, window": _llama("Qwen2", GROUPED, WINDOW),
    "tied": _llama("Qwen2", ODD),
    "untied": _llama("Qwen2", WHOLE, THETA),
}
QWEN3 = {
    "grouped, window": _llama("Qwen3", GROUPED, {"head_dim": 4}, WINDOW),
    "tied, biased": _llama("Qwen3", ODD, {"attention_bias": True}),
    "untied": _llama("Qwen3", WHOLE, {"head_dim": 6}, THETA),
}


SEQUENCES, TOKENS = "ForSequenceClassification", "ForTokenClassification"
NAMED = {0: "good", 1: "bad", 2: "so so"}


def _bert(kind, model, **fields):
    common = {"vocab_size": 21, "intermediate_size": 11, "pad_token_id": 1}
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2}
    return Case(f"{kind}{model}", f"{kind}Config", common | sizes | fields)


BERT = {
    "masked": _bert("Bert", "ForMaskedLM", max_position_embeddings=16),
    "masked, relu": _bert(
        "Bert",
        "ForMaskedLM",
        hidden_size=10,
        num_attention_heads=5,
        num_hidden_layers=1,
        hidden_act="relu",
        type_vocab_size=3,
        layer_norm_eps=1e-3,
    ),
    "body": _bert("Bert", "Model", hidden_size=7, num_attention_heads=1, num_hidden_layers=3),
    "sequences": _bert("Bert", SEQUENCES, id2label=NAMED, label2id={"good": 0, "bad": 1, "so so": 2}),
    "sequences, several labels": _bert(
        "Bert",
        SEQUENCES,
        hidden_size=10,
        num_attention_heads=5,
        num_labels=4,
        problem_type="multi_label_classification",
    ),
    "sequences, a number": _bert(
        "Bert",
        SEQUENCES,
        hidden_size=15,
        num_labels=1,
        problem_type="regression",
        type_vocab_size=1,
        classifier_dropout=0.3,
    ),
    "tokens": _bert("Bert", TOKENS, num_labels=5),
    "tokens, relu": _bert("Bert", TOKENS, hidden_size=10, num_attention_heads=5, hidden_act="relu"),
    "tokens, named": _bert("Bert", TOKENS, hidden_size=7, num_attention_heads=1, id2label=NAMED),
}
ROBERTA = {
    "masked": _bert("Roberta", "ForMaskedLM", max_position_embeddings=18, type_vocab_size=1),
    "masked, gelu_new": _bert("Roberta", "ForMaskedLM", hidden_size=15, hidden_act="gelu_new"),
    "body": _bert("Roberta", "Model", hidden_size=8, num_attention_heads=2, num_hidden_layers=1),
    "sequences": _bert("Roberta", SEQUENCES, num_labels=3, type_vocab_size=1),
    "sequences, named": _bert("Roberta", SEQUENCES, hidden_size=15, id2label=NAMED, classifier_dropout=0.3),
    "sequences, one head": _bert("Roberta", SEQUENCES, hidden_size=7, num_attention_heads=1),
    "tokens": _bert("Roberta", TOKENS, num_labels=5, type_vocab_size=1),
    "tokens, named": _bert("Roberta", TOKENS, hidden_size=15, id2label=NAMED, classifier_dropout=0.3),
    "tokens, one head": _bert("Roberta", TOKENS, hidden_size=7, num_attention_heads=1),
}


def _distilbert(model, **fields):
    common = {"vocab_size": 21, "dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 11}
    return Case(f"DistilBert{model}", "DistilBertConfig", common | fields)


DISTILBERT = {
    "masked": _distilbert("ForMaskedLM", max_position_embeddings=16),
    "masked, untied, relu": _distilbert(
        "ForMaskedLM", dim=10, n_heads=5, n_layers=1, activation="relu", tie_word_embeddings=False
    ),
    "body": _distilbert("Model", dim=7, n_heads=1, n_layers=3),
    "sequences": _distilbert(SEQUENCES, num_labels=3),
    "sequences, relu": _distilbert(SEQUENCES, dim=10, n_heads=5, activation="relu", seq_classif_dropout=0.3),
    "sequences, named": _distilbert(SEQUENCES, dim=7, n_heads=1, id2label=NAMED),
    "tokens": _distilbert(TOKENS, num_labels=5),
    "tokens, relu": _distilbert(TOKENS, dim=10, n_heads=5, activation="relu"),
    "tokens, named": _distilbert(TOKENS, dim=7, n_heads=1, id2label=NAMED),
}


def _t5(**fields):
    common = {
        "vocab_size": 18,
        "num_layers": 2,
        "num_decoder_layers": 1,  # its cache has room for as many layers as the encoder has
        "d_ff": 14,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 7,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    return Case("T5ForConditionalGeneration", "T5Config", common | fields)


T5 = {
    "tied": _t5(d_model=12, num_heads=3, d_kv=5),
    "1.1": _t5(d_model=10, num_heads=5, d_kv=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "gated silu": _t5(d_model=7, num_heads=1, d_kv=7, num_layers=1, feed_forward_proj="gated-silu"),
}


def _bart(kind, **fields):
    heads, width = fields.pop("heads"), 13
    common = {
        "vocab_size": 18,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": width,
        "decoder_ffn_dim": width,
        "max_position_embeddings": 16,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }
    model = "MarianMTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration"
    return Case(model, f"{kind}Config", common | fields)


BART = {
    "tied": _bart("Bart", d_model=12, heads=3),
    "scaled, relu": _bart(
        "Bart", d_model=10, heads=5, scale_embedding=True, activation_function="relu", decoder_layers=2
    ),
    "one head": _bart("Bart", d_model=7, heads=1, encoder_layers=1),
}
MBART = {
    "tied": _bart("MBart", d_model=12, heads=3),
    "scaled, relu": _bart(
        "MBart", d_model=10, heads=5, scale_embedding=True, activation_function="relu", decoder_layers=2
    ),
    "one head": _bart("MBart", d_model=7, heads=1, encoder_layers=1),
}
PEGASUS = {
    "tied": _bart("Pegasus", d_model=12, heads=3, scale_embedding=True, activation_function="relu"),
    "unscaled": _bart("Pegasus", d_model=10, heads=5, decoder_layers=2),
    "one head": _bart("Pegasus", d_model=6, heads=1, encoder_layers=1),
}
MARIAN = {
    "tied": _bart("Marian", d_model=12, heads=3, activation_function="swish", scale_embedding=True),
    "unscaled": _bart("Marian", d_model=10, heads=5, decoder_layers=2),
    "one head": _bart("Marian", d_model=6, heads=1, encoder_layers=1),
}


def _vit(model, **fields):
    common = {
        "hidden_size": 12,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 11,
        "image_size": 8,
        "patch_size": 4,
    }
    return Case(f"ViT{model}", "ViTConfig", common | fields)


VIT = {
    "images": _vit("ForImageClassification", num_labels=3),
    "images, patches of 3 x 2, no biases": _vit(
        "ForImageClassification",
        hidden_size=10,
        num_attention_heads=5,
        image_size=[6, 8],
        patch_size=[3, 2],
        qkv_bias=False,
        id2label=NAMED,
    ),
    "body": _vit("Model", hidden_size=7, num_attention_heads=1, num_hidden_layers=3, num_channels=1),
    "body, relu": _vit("Model", image_size=[4, 8], hidden_act="relu", pooler_act="relu", layer_norm_eps=1e-3),
}

CASES: dict[str, Case] = {
    f"{family}: {name}": case
    for family, cases in {
        "gpt2": GPT2,
        "opt": OPT,
        "bloom": BLOOM,
        "gpt_neox": GPT_NEOX,
        "llama": LLAMA,
        "mistral": MISTRAL,
        "qwen2": QWEN2,
        "qwen3": QWEN3,
        "bert": BERT,
        "roberta": ROBERTA,
        "distilbert": DISTILBERT,
        "t5": T5,
        "bart": BART,
        "mbart": MBART,
        "pegasus": PEGASUS,
        "marian": MARIAN,
        "vit": VIT,
    }.items()
    for name, case in cases.items()
}

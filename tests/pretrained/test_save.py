"""Saving: models that an architecture can express, files, tokenizers and shards."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from tests.pretrained.weights.test_files import CONFIG, params  # noqa: F401  - a fixture
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.families import find_family


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm_placement": "post"}, "norm_placement: 'post', which would come back as 'pre'"),
        ({"positions": nn.Rope(7.0, "interleaved")}, "positions: .*which would come back as"),
        ({"window": 3}, "window: 3, which would come back as None"),
        (
            {"attention_scale": 1.0, "scale_embeddings": True},
            r"attention_scale: 1.0.*\n  scale_embeddings: True",
        ),
    ],
)
def test_a_model_that_the_architecture_cannot_express_is_an_error(params, tmp_path, fields, message):  # noqa: F811
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **fields))
    with pytest.raises(
        ValueError, match=f"^save: got a model that LlamaForCausalLM cannot express; wanted.*\n +{message}"
    ):
        pretrained.save(tmp_path / "new", params, config)
    assert not (tmp_path / "new").exists()


def test_runtime_fields_are_not_saved(params, tmp_path):  # noqa: F811
    runtime = {"remat": "full", "unroll": True, "attention_implementation": "reference", "dtype": "bfloat16"}
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **runtime))
    pretrained.save(tmp_path / "new", params, config)
    assert pretrained.load(tmp_path / "new")[2].model == CONFIG.model


def test_parameters_of_another_model_are_errors(params, tmp_path):  # noqa: F811
    wrong = {**params, "embedding": {"table": np.ones((12, 6), np.float32)}}
    with pytest.raises(ValueError, match=r"embedding/table: got \(12, 6\), wanted \(11, 6\)"):
        pretrained.save(tmp_path / "new", wrong, CONFIG)


def test_a_directory_that_is_not_empty_is_an_error(params, tmp_path):  # noqa: F811
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; wanted a new directory"):
        pretrained.save(tmp_path, params, CONFIG)


def test_an_unknown_architecture_is_an_error(params, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match="got architecture 'SpamForCausalLM'; wanted one of"):
        pretrained.save(tmp_path / "new", params, dataclasses.replace(CONFIG, architecture="SpamForCausalLM"))


def test_other_settings_are_kept(params, tmp_path):  # noqa: F811
    config = dataclasses.replace(CONFIG, settings={"eos_token_id": [3, 4]}, generation={"max_length": 9})
    pretrained.save(tmp_path / "new", params, config)
    loaded = pretrained.load(tmp_path / "new")[2]
    assert loaded.settings["eos_token_id"] == [3, 4] and loaded.generation == {"max_length": 9}
    wider = dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, d_ff=7))
    model = nn.functionalize(nn.Decoder, wider.model)
    pretrained.save(tmp_path / "wider", model.init(jax.random.key(0)), wider)
    again = pretrained.load(tmp_path / "wider")[2]
    assert again.settings["eos_token_id"] == [3, 4] and again.model.d_ff == 7


def cased():
    """A new WordPiece tokenizer."""
    words = ["[PAD]", "[UNK]", "The", "the", "dog", "##s"]
    it = tokenizers.Tokenizer(models.WordPiece({x: i for i, x in enumerate(words)}, unk_token="[UNK]"))
    it.pre_tokenizer = pre_tokenizers.Whitespace()
    it.add_special_tokens(words[:2])
    return it


def test_a_new_tokenizer_is_read_back_unchanged(params, tmp_path):  # noqa: F811
    config = dataclasses.replace(CONFIG, settings={"pad_token_id": 0, "eos_token_id": 3})
    pretrained.save(tmp_path / "new", params, config, cased())
    settings = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    wanted = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    assert settings == wanted | {"padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}
    assert pretrained.load(tmp_path / "new")[3].to_str() == cased().to_str()


def test_loaded_files_are_saved(params, tmp_path):  # noqa: F811
    pretrained.save(tmp_path / "source", params, CONFIG)
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "the"])
    files = {
        "vocab.txt": words,
        "tokenizer_config.json": '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}',
        "chat_template.jinja": "{{ messages }}",
        "modules.json": "[]",
        "preprocessor_config.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / "source" / name).write_text(text)
    _, _, config, tokenizer = pretrained.load(tmp_path / "source")
    assert tokenizer.encode("The the").ids == [2, 5, 6, 3]
    pretrained.save(tmp_path / "new", params, config, tokenizer)
    found = {path.name: path.read_text() for path in (tmp_path / "new").iterdir() if path.name in files}
    assert found == files and not (tmp_path / "new" / "tokenizer.json").exists()
    # Without a tokenizer none of its files are saved; with another one, not those of the loaded one.
    pretrained.save(tmp_path / "bare", params, config)
    assert not {path.name for path in (tmp_path / "bare").iterdir()} & {"vocab.txt", "tokenizer_config.json"}
    pretrained.save(tmp_path / "other", params, config, cased())
    assert pretrained.load(tmp_path / "other")[3].to_str() == cased().to_str()
    assert (tmp_path / "other" / "chat_template.jinja").exists()
    assert not (tmp_path / "other" / "vocab.txt").exists()


@pytest.mark.parametrize(
    "architecture, fields",
    [
        ("LlamaForCausalLM", {"norm": nn.RMSNorm(), "positions": nn.Sinusoidal(pairing="half")}),
        ("LlamaForCausalLM", {"norm": nn.LayerNorm(1e-6), "positions": nn.Rope()}),
    ],
)
def test_variants_with_equal_fields_are_distinguished(architecture, fields):
    model = nn.Config(
        vocab_size=9, d_model=8, n_heads=2, d_ff=6, n_layers=1, feed_forward=nn.Glu(), scale_embeddings=False
    )
    config = pretrained.CheckpointConfig(architecture, dataclasses.replace(model, **fields))
    with pytest.raises(
        ValueError, match=r"^save: got (norm=Lay|positions=Sin).*; wanted (RMSNorm as norm|Rope)"
    ):
        find_family(architecture).write_config(config)
    right = {"norm": nn.RMSNorm(), "positions": nn.Rope()}
    find_family(architecture).write_config(
        pretrained.CheckpointConfig(architecture, dataclasses.replace(model, **right))
    )


@pytest.mark.parity
@pytest.mark.parametrize("limit", [2_000, 10**9])
@pytest.mark.parametrize("name", ["gpt2: tied", "llama: grouped", "t5: tied"])
def test_file_names_are_those_of_transformers(name, limit, tmp_path):
    pytest.importorskip("transformers")
    from tests.pretrained import transformers_models
    from tests.pretrained.cases import CASES

    model = transformers_models.random(CASES[name])
    model.save_pretrained(tmp_path / "reference", max_shard_size=limit)
    _, weights, config, _ = pretrained.load(tmp_path / "reference")
    pretrained.save(tmp_path / "ours", weights, config, max_file_bytes=limit)

    def names(folder):
        return sorted(path.name for path in (tmp_path / folder).iterdir())

    assert names("ours") == names("reference")
    if limit < 10_000:

        def index(folder):
            return json.loads((tmp_path / folder / "model.safetensors.index.json").read_text())

        assert index("ours")["metadata"] == index("reference")["metadata"]
        assert index("ours")["weight_map"].keys() == index("reference")["weight_map"].keys()

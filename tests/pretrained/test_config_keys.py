"""Keys of a config.json: aliases, sizes, keys that every family rejects, and unknown keys."""

import json

import pytest

from tests.pretrained.families.test_families import FIELDS
from tests.pretrained.weights.test_match import changed, made, saved  # noqa: F401  - fixtures
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.families import FAMILIES, find_family
from tfm_jax.pretrained.field_map import SIZES, Group, Same

ALIASES = [(family, alias) for family in FAMILIES for alias in family.aliases]


def settings_of(family):
    """The config.json of a family's first architecture."""
    name = next(iter(family.architectures))
    return find_family(name).write_config(
        pretrained.CheckpointConfig(name, nn.Config(**FIELDS[family.model_type]))
    )


@pytest.mark.parametrize(
    ("family", "alias"), ALIASES, ids=[f"{x.model_type}-{alias}" for x, alias in ALIASES]
)
def test_an_alias_replaces_its_key_and_takes_precedence(family, alias):
    settings, key = settings_of(family), family.aliases[alias]
    wanted = family.read_config(settings, "it")
    alone = {(alias if name == key else name): value for name, value in settings.items()}
    if (family.model_type, key) != ("t5", "num_layers"):  # the decoder reads the key, not the alias
        assert family.read_config(alone, "it") == wanted
    # Beside its key the alias counts.
    beside = settings | {alias: settings[key], key: settings[key] * 2}
    if family.model_type == "t5" and key == "num_layers":
        beside["num_decoder_layers"] = wanted.n_decoder_layers
    assert family.read_config(beside, "it") == wanted


SIZE = r"(an integer of at least 1|\d+, the value of encoder_)"


def sizes_of(family):
    """The settings that are integers of at least 1, and for which null is invalid too."""
    for row in family.fields.rows:
        if isinstance(row, Group):
            yield from row.sizes
        elif isinstance(row, Same):
            yield from () if row.unset else (row.setting,)
        elif row.paths[0] in SIZES and not callable(row.default):
            yield row.setting


@pytest.mark.parametrize("family", FAMILIES, ids=[family.model_type for family in FAMILIES])
def test_an_invalid_size_is_an_error_with_the_name_in_the_file(family):
    settings = settings_of(family)
    by_key = {key: alias for alias, key in family.aliases.items()}
    for key in sizes_of(family):
        for name in {key, by_key.get(key, key)}:
            for value in (0, None, 2.0, True, "3"):
                with pytest.raises(ValueError, match=rf"^it: .*got {name}=.*; wanted {SIZE}"):
                    family.read_config(settings | {name: value}, "it")


def test_a_changed_key_is_written_without_its_alias():
    import dataclasses

    family = find_family("BloomForCausalLM")
    settings = settings_of(family) | {"num_attention_heads": 3, "n_embed": 6}
    model = dataclasses.replace(family.read_config(settings, "it"), d_model=12, d_ff=48)
    written = family.write_config(pretrained.CheckpointConfig("BloomForCausalLM", model, settings))
    assert "num_attention_heads" not in written and family.read_config(written, "it") == model


def test_unknown_keys_are_logged_once_and_written_back(changed, tmp_path, caplog):  # noqa: F811
    extra = {"my_key": [1, {"a": None}], "another": True, "_private": 3, "use_cache": False}
    extra["rope_parameters"] = {"rope_type": "default", "rope_theta": 50.0, "factor": 2.0}
    directory, _ = changed("LlamaForCausalLM", lambda tensors: tensors, extra)
    for _ in range(3):
        _, params, config, _ = pretrained.load(directory)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{directory / 'config.json'}: ignored unknown keys")
    assert line.endswith(": another, my_key, rope_parameters.factor")
    pretrained.save(tmp_path / "again", params, config)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: written[name] for name in extra} == extra


@pytest.mark.parametrize(
    ("key", "value"),
    [("quantization_config", {"quant_method": "gptq"}), ("per_layer_config", {"0": {"a": 1}})],
)
@pytest.mark.parametrize("family", FAMILIES, ids=[family.model_type for family in FAMILIES])
def test_keys_that_every_family_rejects(family, key, value):
    with pytest.raises(ValueError, match=f"^it: got {key}=.*; wanted None"):
        family.read_config(settings_of(family) | {key: value}, "it")
    assert family.read_config(settings_of(family) | {key: None}, "it")


# As in BLOOM's own checkpoints.
BLOOM = {
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "architectures": ["BloomForCausalLM"],
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "model_type": "bloom",
    "n_embed": 24,
    "n_inner": None,
    "n_layer": 2,
    "num_attention_heads": 3,
    "offset_alibi": 100,
    "pad_token_id": 3,
    "pretraining_tp": 4,
    "seq_length": 2048,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "slow_but_exact": False,
    "unk_token_id": 0,
    "use_cache": True,
    "vocab_size": 19,
}


@pytest.mark.parity
def test_a_config_and_tensor_names_as_in_blooms_own_checkpoints(tmp_path):
    pytest.importorskip("transformers")
    from safetensors.numpy import load_file, save_file

    from tests.pretrained import transformers_models
    from tests.pretrained.cases import Case

    case = Case(
        "BloomForCausalLM", "BloomConfig", {"vocab_size": 19, "n_layer": 2, "n_head": 3, "hidden_size": 24}
    )
    model = transformers_models.random(case)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(BLOOM))
    again = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    ours, params, config, _ = pretrained.load(tmp_path)
    transformers_models.check_logits(transformers_models.Pair(again, ours, params, config, tmp_path))

"""Matching tensor names: wrapper prefixes, tied tensors, unknown classes, unread buffers."""

import ast
import json
import logging
import re

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import load_file, save_file

from tests.pretrained.cases import CASES
from tests.pretrained.families.test_families import EVERY, FIELDS, POOLERS
from tfm_jax import nn, ops, pretrained
from tfm_jax.pretrained.families import FAMILIES, find_family
from tfm_jax.pretrained.load import model_of

TABLES = ("embed_tokens", "wte", "word_embeddings", "embed_in", "shared")


def made(name, **fields):
    """Config of an architecture, and random parameters."""
    family = find_family(name)
    common = FIELDS[family.model_type] | {"tie_embeddings": True}
    config = pretrained.CheckpointConfig(name, nn.Config(**common | {"pooler": POOLERS.get(name)} | fields))
    shapes = jax.eval_shape(model_of(config, family).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return config, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function: architecture -> (checkpoint directory, parameters, tensors by name)."""
    found = {}

    def get(name, **fields):
        key = (name, *fields)
        if key not in found:
            config, params = made(name, **fields)
            directory = tmp_path_factory.mktemp("saved") / "it"
            pretrained.save(directory, params, config)
            found[key] = directory, params, load_file(directory / "model.safetensors")
        return found[key]

    return get


@pytest.fixture
def changed(saved, tmp_path):
    """A function that saves edited tensors of an architecture; returns the directory and the parameters."""

    def change(name, edit, settings=None, **fields):
        directory, params, tensors = saved(name, **fields)
        kept = json.loads((directory / "config.json").read_text()) | (settings or {})
        tmp_path.joinpath("config.json").write_text(json.dumps(kept))
        save_file(edit(dict(tensors)), tmp_path / "model.safetensors")
        return tmp_path, params

    return change


def equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def renamed(names):
    """A function that renames some of the tensors."""
    return lambda tensors: {names.get(name, name): x for name, x in tensors.items()}


# Of each architecture: the tensor that `save` writes, and each name that safetensors' `save_model` may keep.
TIED = [
    ("GPT2LMHeadModel", "transformer.wte.weight", "lm_head.weight"),
    ("OPTForCausalLM", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    ("BloomForCausalLM", "transformer.word_embeddings.weight", "lm_head.weight"),
    ("GPTNeoXForCausalLM", "gpt_neox.embed_in.weight", "embed_out.weight"),
    ("GPTNeoXForCausalLM", "gpt_neox.embed_in.weight", "lm_head.weight"),
    ("LlamaForCausalLM", "model.embed_tokens.weight", "lm_head.weight"),
    ("MistralForCausalLM", "model.embed_tokens.weight", "lm_head.weight"),
    ("Qwen2ForCausalLM", "model.embed_tokens.weight", "lm_head.weight"),
    ("Qwen3ForCausalLM", "model.embed_tokens.weight", "lm_head.weight"),
    ("BertForMaskedLM", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ("BertForMaskedLM", "cls.predictions.bias", "cls.predictions.decoder.bias"),
    ("RobertaForMaskedLM", "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    ("RobertaForMaskedLM", "lm_head.bias", "lm_head.decoder.bias"),
    ("DistilBertForMaskedLM", "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    *(
        (name, f"{prefix}shared.weight", other)
        for name, prefix in (
            ("T5ForConditionalGeneration", ""),
            ("BartForConditionalGeneration", "model."),
            ("MBartForConditionalGeneration", "model."),
            ("MarianMTModel", "model."),
        )
        for other in (
            f"{prefix}encoder.embed_tokens.weight",
            f"{prefix}decoder.embed_tokens.weight",
            "lm_head.weight",
        )
    ),
]


@pytest.mark.parametrize(("architecture", "name", "other"), TIED)
def test_tied_tensor_under_its_other_name(changed, architecture, name, other):
    directory, params = changed(architecture, renamed({name: other}))
    _, got, config, _ = pretrained.load(directory, tokenizer=False)
    equal(got, params)
    assert config.model.tie_embeddings


def test_an_untied_head_does_not_replace_the_embedding(changed):
    names = {"model.embed_tokens.weight": "lm_head.weight"}
    directory, _ = changed("LlamaForCausalLM", renamed(names), {"tie_word_embeddings": False})
    with pytest.raises(ValueError, match=r"\(1 missing\)\.\n  model\.embed_tokens\.weight: missing"):
        pretrained.load(directory)


@pytest.mark.parametrize("architecture", [list(family.architectures)[-1] for family in FAMILIES])
def test_a_wrapper_prefix_is_removed_with_a_warning(changed, caplog, architecture):
    """For each family's last architecture, with its head and the family's prefix."""
    prefix = "module._orig_mod.model."
    directory, params = changed(
        architecture, lambda tensors: {prefix + name: x for name, x in tensors.items()}
    )
    with caplog.at_level(logging.WARNING, "tfm_jax.pretrained"):
        equal(pretrained.load(directory, tokenizer=False)[1], params)
    (record,) = caplog.records
    assert f"{directory}: removed the wrapper prefix 'module._orig_mod." in record.getMessage()


@given(st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "encoder", "bert"]), max_size=3))
def test_any_common_prefix(saved, tmp_path_factory, parts):
    directory, params, tensors = saved("BertForMaskedLM")
    prefix = "".join(f"{part}." for part in parts)
    copy = tmp_path_factory.mktemp("prefixed")
    (copy / "config.json").write_bytes((directory / "config.json").read_bytes())
    save_file({prefix + name: x for name, x in tensors.items()}, copy / "model.safetensors")
    equal(pretrained.load(copy, tokenizer=False)[1], params)


def test_a_prefix_is_logged_once_when_the_architecture_is_inferred(changed, caplog):
    directory, params = changed(
        "BertForMaskedLM",
        lambda tensors: {f"module.{name}": x for name, x in tensors.items()},
        {"architectures": None},
    )
    _, got, config, _ = pretrained.load(directory, tokenizer=False)
    equal(got, params)
    assert config.architecture == "BertForMaskedLM" and len(caplog.records) == 1


def test_no_warning_where_the_names_match(changed, caplog):
    """All names of a body without its head share the family's own prefix."""
    directory, params = changed("LlamaForCausalLM", lambda tensors: tensors)
    assert all(name.startswith("model.") for name in load_file(directory / "model.safetensors"))
    equal(pretrained.load(directory)[1], params)
    assert not caplog.records


def test_a_prefix_of_some_names_is_not_removed(changed):
    directory, _ = changed(
        "LlamaForCausalLM",
        lambda tensors: {f"module.{name}" if "attn" in name else name: x for name, x in tensors.items()},
    )
    with pytest.raises(ValueError, match="16 missing, 16 unknown") as error:
        pretrained.load(directory)
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + 2 * (4 + 1) and lines[5] == "  and 12 more"


# By architecture: buffers that transformers recomputes.
BUFFERS = {
    "GPT2LMHeadModel": ("transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"),
    "GPTNeoXForCausalLM": ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.1.attention.masked_bias"),
    "BertForMaskedLM": ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    "RobertaModel": ("embeddings.position_ids", "embeddings.token_type_ids"),
    "DistilBertForMaskedLM": ("distilbert.embeddings.position_ids",),
    "BartForConditionalGeneration": ("model.encoder.version", "model.decoder.version"),
    "OPTForCausalLM": ("model.decoder.version",),
    "LlamaForCausalLM": ("model.version", "position_ids"),
}


@pytest.mark.parametrize("architecture", BUFFERS)
def test_recomputed_buffers_are_skipped(changed, architecture):
    buffers = {name: np.full((1, 3), 7, np.int64) for name in BUFFERS[architecture]}
    directory, params = changed(architecture, lambda tensors: tensors | buffers)
    equal(pretrained.load(directory)[1], params)


def test_rotary_frequencies_must_match_the_config(changed):
    rope = FIELDS["gpt_neox"]["positions"]
    wanted = np.asarray(rope.theta ** (-np.arange(1) / 1), np.float32)  # half of 4 elements, in pairs
    name = "gpt_neox.layers.{}.attention.rotary_emb.inv_freq"

    def add(x):
        return lambda tensors: tensors | {name.format(i): x for i in range(2)}

    directory, params = changed("GPTNeoXForCausalLM", add(wanted))
    equal(pretrained.load(directory)[1], params)
    directory, _ = changed("GPTNeoXForCausalLM", add(wanted * 1.1))
    with pytest.raises(ValueError, match=r"got other values of gpt_neox.*inv_freq than config\.json implies"):
        pretrained.load(directory)
    ignore = [r".*inv_freq"]
    equal(pretrained.load(directory, ignore=ignore)[1], params)


def test_marian_position_table_must_be_the_sinusoidal_one(changed):
    D = FIELDS["marian"]["d_model"]
    table = np.asarray(ops.sinusoidal(np.arange(9), D, pairing="half"))

    def add(x):
        return lambda tensors: tensors | {"model.encoder.embed_positions.weight": x}

    for same in (table, table.astype("float16")):
        directory, params = changed("MarianMTModel", add(same))
        equal(pretrained.load(directory)[1], params)
    for other in (table[:, ::-1].copy(), table[1:], table[:, :2].copy()):
        directory, _ = changed("MarianMTModel", add(other))
        with pytest.raises(ValueError, match=r"got other values of model\.encoder\.embed_positions\.weight"):
            pretrained.load(directory)


def test_unknown_class_with_custom_heads(changed):
    heads = {f"classifier_{x}.weight": np.ones((2, 6), np.float32) for x in "abc"}
    directory, params = changed(
        "BertModel",
        lambda tensors: {f"encoder.{name}": x for name, x in tensors.items()} | heads,
        {"architectures": ["Mine"], "model_type": "mine"},
    )
    with pytest.raises(ValueError, match=r"got architecture 'Mine'; wanted .* pass architecture= to load"):
        pretrained.load(directory)
    _, got, config, _ = pretrained.load(
        directory,
        tokenizer=False,
        architecture="BertModel",
        ignore=["classifier_[ab].*", r"classifier_c\.weight"],
    )
    equal(got, params)
    assert config.architecture == "BertModel"
    pretrained.save(directory / "again", got, config)
    equal(pretrained.load(directory / "again")[1], params)


def test_masked_lm_checkpoint_as_a_body(changed):
    directory, params = changed("BertForMaskedLM", lambda tensors: tensors)
    with pytest.raises(ValueError, match=r"5 unknown(.|\n)*names are those of BertForMaskedLM: .* pass"):
        pretrained.load(directory, architecture="BertModel")
    _, got, config, _ = pretrained.load(directory, architecture="BertModel", ignore=["cls.*"])
    equal(got, params["encoder"])
    assert config.model.pooler is None


def test_the_advice_on_mismatched_names_works(changed):
    """The printed ignore= argument makes the file load."""
    head = {f"head_{x}.weight": np.ones(3, np.float32) for x in "abc"}
    directory, params = changed(
        "BertModel",
        lambda tensors: {f"inner.{name}": x for name, x in tensors.items()} | head,
        {"architectures": ["Mine"], "model_type": "mine"},
    )
    with pytest.raises(ValueError, match=r"that begin with 'inner.' fit: to leave out the others") as failed:
        pretrained.load(directory, architecture="BertModel")
    ignore = ast.literal_eval(re.search(r"ignore=(\[.*\])", str(failed.value))[1])
    equal(pretrained.load(directory, architecture="BertModel", ignore=ignore)[1], params)


def test_a_body_without_its_declared_head(changed):
    directory, params = changed("BertModel", lambda tensors: tensors, {"architectures": ["BertForMaskedLM"]})
    with pytest.raises(
        ValueError,
        match=r"names are those of BertModel: .* in Python pass architecture='BertModel' to load\.$",
    ):
        pretrained.load(directory)
    equal(pretrained.load(directory, architecture="BertModel")[1], params)


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        (["head.*"], r"ignore: got 'head\.\*', which matches no tensor of .*; wanted a regular expression"),
        (["("], r"ignore: got '\('; wanted a regular expression"),
    ],
)
def test_invalid_ignore(changed, ignore, message):
    directory, _ = changed("BertModel", lambda tensors: tensors)
    with pytest.raises(ValueError, match=message):
        pretrained.load(directory, ignore=ignore)


@pytest.mark.parametrize("architecture", [name for family, name in EVERY if len(family.architectures) > 1])
def test_architecture_is_inferred_from_tensor_names(changed, architecture):
    directory, params = changed(architecture, lambda tensors: tensors, {"architectures": None})
    _, got, config, _ = pretrained.load(directory, tokenizer=False)
    equal(got, params)
    assert config.architecture == architecture


def test_architecture_is_the_body_where_no_names_match(changed):
    directory, params = changed(
        "BertModel", lambda tensors: tensors | {"mine": np.ones(3, np.float32)}, {"architectures": None}
    )
    with pytest.raises(
        ValueError, match=r"mine: unknown(.|\n)*To leave out .* of another head, in Python pass ignore="
    ):
        pretrained.load(directory)
    equal(pretrained.load(directory, ignore=["mine"])[1], params)


@pytest.mark.parity
@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(": tied") or "masked" in name])
def test_files_of_safetensors_save_model(name, tmp_path):
    """safetensors' `save_model` keeps any one name of each group of tied tensors."""
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    from tests.pretrained import transformers_models

    model = transformers_models.random(CASES[name])
    transformers_models.pair(tmp_path / "wanted", model)
    (tmp_path / "got").mkdir()
    save.save_model(model, str(tmp_path / "got" / "model.safetensors"))
    (tmp_path / "got" / "config.json").write_bytes((tmp_path / "wanted" / "config.json").read_bytes())
    wanted, got = (pretrained.load(tmp_path / x, tokenizer=False)[1] for x in ("wanted", "got"))
    equal(got, wanted)
    # As torch's training wrappers write them.
    state = {f"module._orig_mod.{x}": y.clone() for x, y in model.state_dict().items()}
    torch.save(state, tmp_path / "got" / "pytorch_model.bin")
    (tmp_path / "got" / "model.safetensors").unlink()
    equal(pretrained.load(tmp_path / "got", tokenizer=False, allow_pickle=True)[1], wanted)

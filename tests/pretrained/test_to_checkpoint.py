"""Models of our own as checkpoints of transformers: the architecture that holds them, and equal logits."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm_jax import nn, pretrained
from tfm_jax.nn.functional import check_params
from tfm_jax.ops import masks
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of, shapes_of
from tfm_jax.pretrained.to_checkpoint import NoFamilyError

SIZES = {"vocab_size": 19, "d_model": 12, "n_layers": 2, "n_heads": 3, "d_ff": 10, "dropout_rate": 0.1}
POST = {"norm_placement": "post", "final_norm": False}
BERT = POST | {"embedding_norm": True, "positions": nn.Learned(16), "attention_bias": True}
T5 = {"norm": nn.RMSNorm(), "positions": nn.RelativeBias(8, 9)}
PATCHES = {"vocab_size": 0, "patches": nn.Patches(4, 6, 1, 2, class_token=True)}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
LENGTH = 11

Decoder = functools.partial(nn.functionalize, nn.Decoder)
EncoderDecoder = functools.partial(nn.functionalize, nn.EncoderDecoder)


def classifier(config, *, pooling="first"):
    return nn.functionalize(nn.Classifier, config, 3, pooling, 0.25)


# The module, the fields that differ from the sizes, and the architecture.
CASES = {
    "the language model of the experiment": (
        Decoder,
        {"norm": nn.RMSNorm(), "positions": nn.Rope(), "feed_forward": nn.Glu(), "unroll": True},
        "LlamaForCausalLM",
    ),
    "grouped, untied": (
        Decoder,
        {
            "norm": nn.RMSNorm(),
            "positions": nn.Rope(50.0, "interleaved"),
            "feed_forward": nn.Glu("gelu"),
            "n_kv_heads": 1,
            "tie_embeddings": False,
        },
        "LlamaForCausalLM",
    ),
    "window": (
        Decoder,
        {"norm": nn.RMSNorm(), "positions": nn.Rope(), "feed_forward": nn.Glu(), "window": 3},
        "MistralForCausalLM",
    ),
    "window, biases": (
        Decoder,
        {
            "norm": nn.RMSNorm(),
            "positions": nn.Rope(),
            "feed_forward": nn.Glu(),
            "window": 3,
            "attention_bias": True,
            "attention_output_bias": False,
        },
        "Qwen2ForCausalLM",
    ),
    "normed queries, interleaved": (
        Decoder,
        {
            "norm": nn.RMSNorm(),
            "positions": nn.Rope(pairing="interleaved"),
            "feed_forward": nn.Glu(),
            "qk_norm": True,
            "scale_embeddings": False,
        },
        "Qwen3ForCausalLM",
    ),
    "the defaults": (Decoder, {}, "GPT2LMHeadModel"),
    "without any bias": (
        Decoder,
        {"positions": nn.Learned(16), "feed_forward": nn.Mlp("gelu", bias=False)},
        "OPTForCausalLM",
    ),
    "without biases of attention": (
        Decoder,
        {"positions": nn.Learned(16), "attention_scale": 0.3, "count_padding": True},
        "GPT2LMHeadModel",
    ),
    "rotary": (
        Decoder,
        {"positions": nn.Rope(pairing="interleaved", fraction=0.5), "n_heads": 1},
        "GPTNeoXForCausalLM",
    ),
    "parallel": (
        Decoder,
        {"positions": nn.Rope(), "norm_placement": "parallel", "attention_bias": True},
        "GPTNeoXForCausalLM",
    ),
    "post-norm": (Decoder, POST | {"positions": nn.Learned(16), "attention_bias": True}, "OPTForCausalLM"),
    "alibi": (
        Decoder,
        {"positions": nn.Alibi(), "embedding_norm": True, "d_ff": 48, "feed_forward": nn.Mlp("gelu_tanh")},
        "BloomForCausalLM",
    ),
    "the translation model of the experiment": (EncoderDecoder, {}, "PegasusForConditionalGeneration"),
    "the paper's": (EncoderDecoder, POST, "MarianMTModel"),
    "learned, post-norm": (
        EncoderDecoder,
        POST | {"embedding_norm": True, "n_decoder_layers": 1, "positions": nn.Learned(16)},
        "BartForConditionalGeneration",
    ),
    "sinusoidal with a norm": (EncoderDecoder, {"embedding_norm": True}, "MBartForConditionalGeneration"),
    "T5-like": (
        EncoderDecoder,
        T5 | {"feed_forward": nn.Mlp("relu", bias=False)},
        "T5ForConditionalGeneration",
    ),
    "T5-like, gated": (
        EncoderDecoder,
        T5 | {"feed_forward": nn.Glu("gelu_new"), "head_dim": 5, "attention_scale": 1.0},
        "T5ForConditionalGeneration",
    ),
    "texts": (classifier, BERT | {"pooler": nn.Pooler()}, "BertForSequenceClassification"),
    "texts, with token types": (
        classifier,
        BERT | {"pooler": nn.Pooler(), "token_types": 3, "scale_embeddings": False},
        "BertForSequenceClassification",
    ),
    "texts, without token types": (
        classifier,
        BERT | {"pooler": nn.Pooler("relu"), "norm": nn.LayerNorm(1e-12)},
        "DistilBertForSequenceClassification",
    ),
    "texts, counted without padding": (
        classifier,
        BERT | {"pooler": nn.Pooler(), "positions": nn.Learned(14, padding_id=0)},
        "RobertaForSequenceClassification",
    ),
    "tokens": (functools.partial(classifier, pooling=None), BERT, "BertForTokenClassification"),
    "images": (
        classifier,
        PATCHES | {"positions": nn.Learned(9), "attention_bias": True},
        "ViTForImageClassification",
    ),
    "vectors": (functools.partial(nn.functionalize, nn.Encoder), BERT, "BertModel"),
    "masked tokens": (
        functools.partial(nn.functionalize, nn.MaskedLanguageModel, activation="relu"),
        BERT | {"scale_embeddings": False},
        "BertForMaskedLM",
    ),
}


def random_params(model, seed=0):
    """No norm's scale is 1 and no bias is 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (rng.normal(size=x.shape) * 0.3 + (path[-1].key == "scale")).astype(np.float32),
        shapes,
    )


def converted(model, directory, **settings):
    params = random_params(model)
    found, config = pretrained.to_checkpoint(model, params, {**IDS, **settings}, max_length=16)
    pretrained.save(directory, found, config)
    return params, config.architecture


@pytest.mark.parametrize("name", CASES)
def test_the_architecture_by_the_config(name):
    make, fields, wanted = CASES[name]
    model = make(nn.Config(**{**SIZES, **fields}))
    params, config = pretrained.to_checkpoint(model, random_params(model), IDS, max_length=16)
    assert config.architecture == wanted
    family = find_family(wanted)
    assert not family.misfits(config)
    check_params(params, shapes_of(model_of(config, family)))


def logits_of_transformers(directory, architecture, inputs, valid):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    kind = getattr(transformers, architecture)
    reference, report = kind.from_pretrained(directory, attn_implementation="eager", output_loading_info=True)
    assert not [name for name in report["missing_keys"] if "pooler" not in name]
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    if inputs.ndim == 4:
        return reference(torch.tensor(inputs.transpose(0, 3, 1, 2)))[0].detach().numpy()
    options = {"attention_mask": torch.tensor(valid, dtype=torch.long)}
    if reference.config.is_encoder_decoder:
        options["decoder_input_ids"] = torch.tensor(inputs[:, ::-1].copy())
    with torch.no_grad():
        return reference(torch.tensor(inputs), **options)[0].numpy()


def logits_of_ours(model, params, inputs, valid):
    if inputs.ndim == 4:
        return np.asarray(model.apply(params, inputs))
    valid, module = jnp.asarray(valid), model.module
    if module is nn.EncoderDecoder:
        return np.asarray(model.apply(params, inputs, inputs[:, ::-1], source_mask=masks.padding(valid)))
    return np.asarray(model.apply(params, inputs, valid if module is nn.Classifier else masks.padding(valid)))


def check(make, fields, directory):
    """Saves a model and compares the logits at valid positions of a batch with padding on the right."""
    model = make(nn.Config(**{**SIZES, **fields}))
    params, architecture = converted(model, directory)
    valid = np.arange(LENGTH) < np.array([[LENGTH], [4]])
    rng = np.random.default_rng(1)
    inputs = np.where(valid, rng.integers(3, 19, (2, LENGTH)), 0)
    if model.config.patches is not None:
        inputs = rng.normal(size=(2, 4, 6, 1)).astype(np.float32)
    wanted = logits_of_transformers(directory, architecture, inputs, valid)
    got = logits_of_ours(model, params, inputs, valid)
    assert got.shape == wanted.shape and np.ptp(wanted) > 0.1
    is_padded = got.shape[1:2] == (LENGTH,) and model.module is not nn.EncoderDecoder
    compared = valid if is_padded else np.ones(2, bool)
    np.testing.assert_allclose(got[compared], wanted[compared], rtol=0, atol=2e-5)
    return architecture


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_transformers_has_the_same_logits(name, tmp_path):
    make, fields, wanted = CASES[name]
    assert check(make, fields, tmp_path / "new") == wanted


CHANGES = st.fixed_dictionaries(
    {
        "n_heads": st.sampled_from([1, 3]),
        "attention_scale": st.sampled_from([None, 1.0, 0.3]),
        **{name: st.booleans() for name in ("attention_bias", "scale_embeddings", "tie_embeddings")},
        "attention_dropout_rate": st.sampled_from([0.0, 0.2]),
    }
)


@pytest.mark.parity
@pytest.mark.slow
@settings(max_examples=100)
@given(name=st.sampled_from(list(CASES)), changes=CHANGES)
def test_a_config_fits_or_is_refused(name, changes, tmp_path_factory):
    make, fields, _ = CASES[name]
    fields = {**fields, **changes}
    try:
        check(make, fields, tmp_path_factory.mktemp("any") / "new")
    except NoFamilyError as error:
        assert error.misfits and error.architecture in str(error)


def refused(model, **options):
    with pytest.raises(NoFamilyError) as error:
        pretrained.to_checkpoint(model, random_params(model), **options)
    return error.value


def test_the_error_names_the_nearest_architecture_and_the_fields():
    model = classifier(nn.Config(**SIZES, **BERT, token_types=2), pooling="mean")
    error = refused(model)
    assert error.architecture == "BertForSequenceClassification"
    assert [x.field for x in error.misfits] == ["pooling", "pooler"]
    assert str(error) == (
        "to_checkpoint: got a model that no family of transformers holds; wanted one that fits. The nearest "
        "is BertForSequenceClassification, with pooling 'first' (not 'mean'), pooler Pooler (not None)."
    )


def test_a_long_list_of_fields_is_cut():
    fields = {"norm": nn.RMSNorm(), "positions": nn.Alibi(), "qk_norm": True, "feed_forward": nn.Glu()}
    error = refused(classifier(nn.Config(**SIZES, **fields), pooling="mean"))
    assert re.search(r"Classification, with .*\) and \d more\.$", str(error))


def test_an_architecture_that_has_the_size_is_nearer_than_one_that_has_not():
    error = refused(Decoder(nn.Config(**SIZES, positions=nn.Learned(16), head_dim=5)))
    assert error.architecture == "GPT2LMHeadModel"  # not one of rotary positions, of even sizes only
    assert [(x.field, x.wanted) for x in error.misfits] == [("head_dim", 4)]


@dataclasses.dataclass(frozen=True)
class Swish(nn.Activation):
    """An activation from outside the library, for which no format has a name."""

    def __call__(self, x):
        return x * jax.nn.sigmoid(2 * x)


def test_an_activation_without_a_name_is_a_misfit_of_its_variant():
    error = refused(Decoder(nn.Config(**SIZES, positions=nn.Learned(16), feed_forward=nn.Mlp(Swish()))))
    assert [(x.field, x.wanted) for x in error.misfits] == [("feed_forward", nn.Mlp("gelu"))]
    assert "feed_forward Mlp(activation='gelu', bias=True) (not Mlp(activation=Swish()" in str(error)


def test_sinusoidal_positions_become_learned_ones_of_a_length():
    model = Decoder(nn.Config(**SIZES))
    assert [x.field for x in refused(model).misfits] == ["positions"]
    _, config = pretrained.to_checkpoint(model, random_params(model), max_length=7)
    assert config.model.positions == nn.Learned(7)


def test_a_model_that_fits_keeps_its_parameters():
    model = Decoder(
        nn.Config(**SIZES, **POST, positions=nn.Learned(16), attention_bias=True, scale_embeddings=False)
    )
    params = random_params(model)
    assert pretrained.to_checkpoint(model, params)[0] is params


def test_another_class_is_an_error():
    class Mine(nn.Classifier):
        pass

    model = nn.functionalize(Mine, nn.Config(**SIZES, **BERT), 3, "first")
    with pytest.raises(ValueError, match=r"got functionalize\(Mine.*wanted one of nn.Classifier, nn.Decoder"):
        pretrained.to_checkpoint(model, {})


def test_labels_that_are_not_those_of_the_head_are_an_error():
    model = classifier(nn.Config(**SIZES, **BERT, pooler=nn.Pooler()))
    for wrong in ({"id2label": {"0": "a"}}, {"num_labels": 1}):
        with pytest.raises(ValueError, match="got settings for 1 labels; wanted 3, one per class"):
            pretrained.to_checkpoint(model, random_params(model), wrong)


def test_bfloat16_parameters_stay_so():
    config = nn.Config(
        **SIZES, norm=nn.RMSNorm(), positions=nn.Rope(), feed_forward=nn.Glu(), dtype="bfloat16"
    )
    model = Decoder(dataclasses.replace(config, param_dtype="bfloat16"))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), random_params(model))
    found, _ = pretrained.to_checkpoint(model, params)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}

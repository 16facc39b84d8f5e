"""Labels of a config.json, and the heads and poolers of classifiers."""

import jax
import numpy as np
import pytest

from tests.pretrained.families.test_families import FIELDS
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.families._common import labels_of
from tfm_jax.pretrained.load import model_of


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 1}, ("LABEL_0",)),
        ({"id2label": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "bad", "0": "good"}, "num_labels": 2}, ("good", "bad")),
        ({"id2label": {0: "x"}}, ("x",)),
    ],
)
def test_labels_are_in_the_order_of_the_logits(settings, wanted):
    assert labels_of(settings) == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 0}, "got num_labels=0; wanted an integer of at least 1"),
        ({"num_labels": "3"}, "got num_labels='3'; wanted an integer of at least 1"),
        ({"id2label": {"0": "a", "2": "b"}}, "got id2label=.*; wanted a name for each logit 0, 1, ..."),
        ({"id2label": {"zero": "a"}}, "got id2label=.*; wanted a name for each logit 0, 1"),
        ({"id2label": {"0": "a", "00": "b"}}, "got id2label=.*; wanted a name for each logit 0, 1"),
        ({"id2label": {}}, "got id2label=.*; wanted a name for each logit 0, 1"),
        ({"id2label": ["a"]}, "got id2label=.*; wanted a name for each logit 0, 1"),
        ({"id2label": {"0": "a"}, "num_labels": 2}, "got num_labels=2 beside id2label=.*; wanted 1"),
    ],
)
def test_labels_that_do_not_match_the_logits_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        labels_of(settings)


def saved(directory, architecture, pooler, settings):
    config = pretrained.CheckpointConfig(architecture, nn.Config(**FIELDS["bert"], pooler=pooler), settings)
    shapes = jax.eval_shape(model_of(config, find_family(architecture)).init, jax.random.key(0))
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    pretrained.save(directory, params, config)
    return pretrained.load(directory)


def test_a_classifier_has_one_logit_per_label(tmp_path):
    settings = {"id2label": {"0": "a", "1": "b", "2": "c"}, "problem_type": "multi_label_classification"}
    model, params, config, _ = saved(
        tmp_path / "it", "BertForSequenceClassification", nn.Pooler("tanh"), settings
    )
    assert model.apply(params, np.ones((2, 4), np.int32)).shape == (2, 3)
    assert {name: config.settings[name] for name in settings} == settings


def test_a_body_has_a_pooler_where_its_file_has_one(tmp_path):
    _, with_it, config, _ = saved(tmp_path / "with", "BertModel", nn.Pooler("tanh"), {})
    assert config.model.pooler == nn.Pooler("tanh") and "pooler" in with_it
    model, without, config, _ = saved(tmp_path / "without", "BertModel", None, {})
    assert config.model.pooler is None and with_it.keys() - without.keys() == {"pooler"}
    with pytest.raises(ValueError, match=r"got config.pooler=None; wanted a Pooler"):
        model.bind(without).pooled(np.ones(4, np.int32))


@pytest.mark.parametrize(
    ("architecture", "pooler"),
    [
        ("BertForSequenceClassification", None),
        ("BertForSequenceClassification", nn.Pooler("relu")),
        ("BertModel", nn.Pooler("relu")),
        ("RobertaForSequenceClassification", nn.Pooler("tanh")),  # without the dropout before it
    ],
)
def test_a_pooler_that_the_architecture_lacks_is_an_error(architecture, pooler):
    config = pretrained.CheckpointConfig(architecture, nn.Config(**FIELDS["bert"], pooler=pooler))
    with pytest.raises(ValueError, match=r"pooler: .*, which would come back as Pooler"):
        find_family(architecture).write_config(config)


@pytest.mark.parametrize(
    "architecture", ["BertForTokenClassification", "BertForMaskedLM", "DistilBertForMaskedLM"]
)
def test_a_pooler_without_a_reader_is_an_error(architecture):
    config = pretrained.CheckpointConfig(architecture, nn.Config(**FIELDS["bert"], pooler=nn.Pooler()))
    with pytest.raises(ValueError, match="pooler"):
        model_of(config, find_family(architecture))

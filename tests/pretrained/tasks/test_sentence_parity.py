"""Sentence embeddings equal those of sentence-transformers 5.4 and later, for models that it saves."""

import json

import numpy as np
import pytest

from tests.pretrained.tokenizers.tokenizer_files import BUILT, TEXTS, write
from tfm_jax import pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
library = pytest.importorskip("sentence_transformers")
base = pytest.importorskip("sentence_transformers.base.modules")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

D = 12
SIZES = {
    "hidden_size": D,
    "num_attention_heads": 3,
    "num_hidden_layers": 1,
    "intermediate_size": 11,
    "max_position_embeddings": 40,
}
BODIES = {
    "bert": lambda n: transformers.BertModel(transformers.BertConfig(vocab_size=n, **SIZES)),
    "roberta": lambda n: transformers.RobertaModel(
        transformers.RobertaConfig(vocab_size=n, pad_token_id=1, **SIZES)
    ),
    "distilbert": lambda n: transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=n, dim=D, n_heads=3, n_layers=1, hidden_dim=11, max_position_embeddings=40
        )
    ),
}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """Directories of an encoder of each family, with its tokenizer."""
    found = {}
    for name, make in BODIES.items():
        directory = tmp_path_factory.mktemp(name)
        tokenizer = write(directory, BUILT["bert, cased" if name == "bert" else name])
        torch.manual_seed(0)
        model = make(len(tokenizer))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.5)
        model.save_pretrained(directory)
        found[name] = directory
    return found


def saved(directory, body, *behind, change=None, **options):
    """A model of sentence-transformers, saved and loaded again."""
    torch.manual_seed(1)
    made = library.SentenceTransformer(modules=[base.Transformer(str(body)), *behind], **options)
    made.save(str(directory))
    if change:
        change(directory)
    return library.SentenceTransformer(str(directory), device="cpu", local_files_only=True)


def close(got, wanted):
    assert got.shape == wanted.shape and np.ptp(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


def check(reference, directory, texts=TEXTS[::3], **options):
    encoder = pretrained.load_sentence_encoder(directory, **options)
    wanted = reference.encode(texts, batch_size=7)
    close(encoder(texts), wanted)
    assert encoder.width == wanted.shape[1]
    return encoder


def rewrite(name, **settings):
    """A function that changes keys of a JSON file."""

    def change(directory):
        path = directory / name
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(found | settings))

    return change


MODES = ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"]


def test_every_pooling_and_their_concatenation(bodies, tmp_path):
    reference = saved(tmp_path / "all", bodies["bert"], modules.Pooling(D, tuple(MODES)))
    encoder = check(reference, tmp_path / "all")
    # The vectors of a single pooling are a slice of the concatenation.
    wanted = reference.encode(TEXTS[:9])
    for i, mode in enumerate(MODES):
        rewrite("1_Pooling/config.json", pooling_mode=mode)(tmp_path / "all")
        one = pretrained.load_sentence_encoder(tmp_path / "all")
        assert isinstance(one.pooling, str) and one.pooling == encoder.pooling[i]
        if mode in ("max", "lasttoken"):
            close(one(TEXTS[:9]), wanted[:, i * D : (i + 1) * D])


@pytest.mark.parametrize(
    ("legacy", "wanted"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("first", "mean")),
        (
            {"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True},
            ("weighted_mean", "last"),
        ),
        ({"pooling_mode_mean_tokens": False}, "mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode": "cls"}, "first"),
    ],
)
def test_pooling_flags_of_older_versions(bodies, tmp_path, legacy, wanted):
    settings = {"word_embedding_dimension": D, **legacy}

    def change(directory):
        return (directory / "1_Pooling" / "config.json").write_text(json.dumps(settings))

    reference = saved(tmp_path / "new", bodies["bert"], modules.Pooling(D), change=change)
    modes = reference[1].pooling_mode
    encoder = pretrained.load_sentence_encoder(tmp_path / "new")
    assert encoder.pooling == wanted
    assert len(modes if isinstance(modes, tuple) else (modes,)) == encoder.width // D


@pytest.mark.parametrize("body", ["roberta", "distilbert"])
def test_layers_after_pooling(bodies, tmp_path, body):
    behind = [
        base.Dense(2 * D, 9, activation_function=torch.nn.GELU()),
        base.Normalize(),
        modules.Dropout(0.3),
        base.Dense(9, 7, bias=False, activation_function=torch.nn.Identity()),
        modules.LayerNorm(7),
        base.Dense(7, 7, use_residual=True),
        base.Dense(7, 5, use_residual=True, activation_function=torch.nn.SiLU()),
        base.Normalize(),
    ]
    torch.nn.init.normal_(behind[4].norm.weight)
    reference = saved(
        tmp_path / "new", bodies[body], modules.Pooling(D, ("mean", "max")), *behind, truncate_dim=3
    )
    encoder = check(reference, tmp_path / "new")
    assert encoder.normalize and encoder.width == 3 and len(encoder.layers) == 6


def test_a_layer_in_a_pickle_is_read_only_if_allowed(bodies, tmp_path):
    dense = base.Dense(D, 4)

    def as_pickle(directory):
        (directory / "2_Dense" / "model.safetensors").unlink()
        torch.save(dense.state_dict(), directory / "2_Dense" / "pytorch_model.bin")

    reference = saved(tmp_path / "new", bodies["bert"], modules.Pooling(D), dense, change=as_pickle)
    with pytest.raises(ValueError, match="2_Dense: got a pickle, which can run any code"):
        pretrained.load_sentence_encoder(tmp_path / "new")
    check(reference, tmp_path / "new", allow_pickle=True)


@pytest.mark.parametrize("include", [True, False])
def test_prompts(bodies, tmp_path, include):
    pooling = modules.Pooling(D, ("mean", "cls", "weightedmean"), include_prompt=include)
    prompts = {"query": "the dog: ", "fox": "fox "}
    reference = saved(tmp_path / "new", bodies["bert"], pooling, prompts=prompts, default_prompt_name="query")
    encoder, texts = check(reference, tmp_path / "new"), TEXTS[7:20]
    for name in ("fox", "document"):
        close(encoder(texts, prompt_name=name), reference.encode(texts, prompt_name=name))
    with pytest.raises(
        ValueError, match=r"got prompt_name='x'; wanted one of \['document', 'fox', 'query'\]"
    ):
        encoder(texts, prompt_name="x")


CHANGES = {
    "the left is cut": rewrite("tokenizer_config.json", truncation_side="left", model_max_length=5),
    "tokenizer_config": rewrite("tokenizer_config.json", model_max_length=6, do_lower_case=True),
    "max_seq_length": rewrite("sentence_bert_config.json", max_seq_length=4),
    "lower case": rewrite("sentence_bert_config.json", do_lower_case=True),
    "truncate_dim": rewrite("config_sentence_transformers.json", truncate_dim=7),
    "similarity": rewrite("config_sentence_transformers.json", similarity_fn_name="dot"),
    "padding on the left": rewrite("tokenizer_config.json", padding_side="left"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_setting_changes_the_vectors_alike(bodies, tmp_path, name):
    reference = saved(tmp_path / "new", bodies["bert"], modules.Pooling(D), change=CHANGES[name])
    plain = library.SentenceTransformer(str(bodies["bert"]), device="cpu", local_files_only=True)
    texts = TEXTS[::3]

    def one_by_one(model):
        return np.concatenate([model.encode([text]) for text in texts])

    wanted = one_by_one(reference)
    changed = wanted.shape != (len(texts), D) or np.abs(wanted - one_by_one(plain)).max() > 1e-3
    assert changed == (name not in ("similarity", "padding on the left"))
    close(pretrained.load_sentence_encoder(tmp_path / "new")(texts), wanted)


def test_without_modules_no_other_file_has_an_effect(bodies, tmp_path):
    saved(tmp_path / "new", bodies["bert"], modules.Pooling(D), truncate_dim=3, prompts={"query": "the "})
    rewrite("sentence_bert_config.json", max_seq_length=4)(tmp_path / "new")
    rewrite("config_sentence_transformers.json", default_prompt_name="query")(tmp_path / "new")
    (tmp_path / "new" / "modules.json").unlink()
    reference = library.SentenceTransformer(str(tmp_path / "new"), device="cpu", local_files_only=True)
    check(reference, tmp_path / "new")

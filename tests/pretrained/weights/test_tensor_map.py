"""The map of names: every form has its inverse, and every parameter has one name."""

import numpy as np
import pytest

from tfm_jax.pretrained.weights.tensor_map import FLAT, SAME, Entry, Form, after, conv1d, layout, transposed


@pytest.mark.parametrize(
    ("form", "ours", "theirs"),
    [
        (SAME, (3, 4), (3, 4)),
        (FLAT, (3, 4), (12,)),
        (transposed(2), (5, 3, 4), (12, 5)),
        (transposed(1), (3, 4, 5), (5, 12)),
        (conv1d(2), (5, 3, 4), (5, 12)),
        (conv1d(1), (3, 4, 5), (12, 5)),
        (after(2), (3, 4), (5, 4)),
    ],
)
def test_a_form_has_its_inverse(form, ours, theirs):
    x = np.random.default_rng(0).normal(size=ours)
    written = form.write(x)
    assert written.shape == theirs
    np.testing.assert_array_equal(form.read(written, ours), x)


def test_a_linear_map_is_that_of_torch():
    x, kernel = np.random.default_rng(0).normal(size=(2, 5)), np.random.default_rng(1).normal(size=(5, 3, 4))
    weight = transposed(2).write(kernel)  # torch: x @ weight.T
    np.testing.assert_allclose(x @ weight.T, np.einsum("TD,DNH->TNH", x, kernel).reshape(2, 12))


def test_a_layout():
    entries = [
        Entry("q", "h.{layer}.qk", conv1d(1), join=1),
        Entry("k", "h.{layer}.qk", conv1d(1), join=1),
        Entry("table", "table"),
        Entry("bias", "bias"),  # this model has none
    ]
    found = layout(entries, {"q": (2, 5, 3), "k": (2, 5, 4), "table": (7, 5)})
    assert {name: tensor.shape for name, tensor in found.items()} == {
        "h.0.qk": (5, 7),
        "h.1.qk": (5, 7),
        "table": (7, 5),
    }
    assert [(p.path, p.layer, p.size) for p in found["h.1.qk"].places] == [("q", 1, 3), ("k", 1, 4)]


def test_parts_that_stand_side_by_side_in_each_head():
    """Theirs [N * 3 * H, D], of which ours are three [D, N, H]."""
    form = Form(lambda x, shape: x[:, 0].transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0)[:, None])
    entries = [Entry(name, "fused", form, join=1, merged=3) for name in "qkv"]
    (tensor,) = layout(entries, dict.fromkeys("qkv", (5, 2, 4))).values()
    assert tensor.shape == (24, 5) and tensor.joined == (2, 3, 4, 5)
    whole = np.random.default_rng(0).normal(size=(24, 5))
    parts = tensor.split(whole)
    for i, part in enumerate(parts):
        wanted = np.stack([whole[n * 12 + i * 4 : n * 12 + i * 4 + 4] for n in range(2)])
        np.testing.assert_array_equal(form.read(part, (5, 2, 4)), wanted.transpose(2, 0, 1))
    np.testing.assert_array_equal(tensor.whole([form.write(form.read(x, None)) for x in parts]), whole)


def test_a_parameter_without_a_name_or_with_two():
    entries = [Entry("a", "x"), Entry("a", "y")]
    with pytest.raises(ValueError, match=r"no names for \['b'\], two for \['a'\]"):
        layout(entries, {"a": (1,), "b": (1,)})

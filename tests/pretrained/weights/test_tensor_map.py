"""Tensor maps: every conversion has an inverse, and every parameter has one mapping."""

import numpy as np
import pytest

from tfm_jax.pretrained.weights.tensor_map import (
    FLATTEN,
    IDENTITY,
    Conversion,
    WeightMapping,
    build_tensor_map,
    conv1d,
    skip_rows,
    transpose,
)


@pytest.mark.parametrize(
    ("conversion", "param_shape", "tensor_shape"),
    [
        (IDENTITY, (3, 4), (3, 4)),
        (FLATTEN, (3, 4), (12,)),
        (transpose(2), (5, 3, 4), (12, 5)),
        (transpose(1), (3, 4, 5), (5, 12)),
        (conv1d(2), (5, 3, 4), (5, 12)),
        (conv1d(1), (3, 4, 5), (12, 5)),
        (skip_rows(2), (3, 4), (5, 4)),
    ],
)
def test_save_is_the_inverse_of_load(conversion, param_shape, tensor_shape):
    x = np.random.default_rng(0).normal(size=param_shape)
    tensor = conversion.save(x)
    assert tensor.shape == tensor_shape
    np.testing.assert_array_equal(conversion.load(tensor, param_shape), x)


def test_transpose_matches_torch_linear():
    x, kernel = np.random.default_rng(0).normal(size=(2, 5)), np.random.default_rng(1).normal(size=(5, 3, 4))
    weight = transpose(2).save(kernel)  # torch: x @ weight.T
    np.testing.assert_allclose(x @ weight.T, np.einsum("TD,DNH->TNH", x, kernel).reshape(2, 12))


def test_layers_and_concatenation():
    mappings = [
        WeightMapping("q", "h.{layer}.qk", conv1d(1), concat_axis=1),
        WeightMapping("k", "h.{layer}.qk", conv1d(1), concat_axis=1),
        WeightMapping("table", "table"),
        WeightMapping("bias", "bias"),  # this model has none
    ]
    tensors = build_tensor_map(mappings, {"q": (2, 5, 3), "k": (2, 5, 4), "table": (7, 5)})
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "h.0.qk": (5, 7),
        "h.1.qk": (5, 7),
        "table": (7, 5),
    }
    slices = tensors["h.1.qk"].slices
    assert [(x.path, x.layer, x.size) for x in slices] == [("q", 1, 3), ("k", 1, 4)]


def test_parts_interleaved_by_head():
    """The tensor is [N * 3 * H, D], the three parameters are [D, N, H]."""
    conversion = Conversion(
        lambda x, shape: x[:, 0].transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0)[:, None]
    )
    mappings = [WeightMapping(name, "fused", conversion, concat_axis=1, merged_axes=3) for name in "qkv"]
    (tensor,) = build_tensor_map(mappings, dict.fromkeys("qkv", (5, 2, 4))).values()
    assert tensor.shape == (24, 5) and tensor.concat_shape == (2, 3, 4, 5)
    array = np.random.default_rng(0).normal(size=(24, 5))
    parts = tensor.split(array)
    for i, part in enumerate(parts):
        wanted = np.stack([array[n * 12 + i * 4 : n * 12 + i * 4 + 4] for n in range(2)])
        np.testing.assert_array_equal(conversion.load(part, (5, 2, 4)), wanted.transpose(2, 0, 1))
    saved = [conversion.save(conversion.load(part, (5, 2, 4))) for part in parts]
    np.testing.assert_array_equal(tensor.join(saved), array)


def test_parameters_with_no_mapping_or_two():
    mappings = [WeightMapping("a", "x"), WeightMapping("a", "y")]
    with pytest.raises(ValueError, match=r"build_tensor_map: got no mapping for \['b'\], two for \['a'\]"):
        build_tensor_map(mappings, {"a": (1,), "b": (1,)})

import importlib.metadata

import jax
import ml_dtypes
import numpy as np
import pytest

from tfm_jax.cli import doctor
from tfm_jax.cli.doctor import classify_product, find_extras, product_error


def test_doctor_prints_every_section(tfm):
    status, out, err = tfm("doctor")
    assert (status, err) == (0, "")
    headings = [line.removesuffix(":") for line in out.splitlines() if not line.startswith(" ")]
    assert tuple(headings) == doctor.Doctor.SECTIONS
    assert f"jax {jax.__version__}, jaxlib" in out and "8 x cpu (cpu), process 0 of 1" in out
    assert "precision default: float32; relative error" in out
    assert "causal, heads of 64: chunked\n    not cudnn: runs on gpu, not on cpu\n" in out
    assert "GiB of memory" in out


def test_doctor_names_what_an_extra_lacks(tfm, monkeypatch):
    requirements = ["jax>=0.1", "nothing-of-this-name>=2; extra == 'more'", "numpy; extra == 'less'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    _, out, _ = tfm("doctor")
    assert "  less: installed\n  more: missing nothing-of-this-name; pip install 'tfm_jax[more]'\n" in out


def test_extras_of_jax_are_their_plugins():
    found = find_extras(
        ["jax[tpu]>=0.10; extra == 'tpu'", 'jax[cuda13]; extra == "cuda13"', "a-b; extra == 'x'"]
    )
    assert found == {"tpu": ["libtpu"], "cuda13": ["jax-cuda13-plugin", "jax-cuda13-pjrt"], "x": ["a-b"]}


def bfloat16(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def tf32(x):
    """x rounded to 11 bits."""
    bits = x.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def three_products(a, b):
    a_low, b_low = bfloat16(a - bfloat16(a)), bfloat16(b - bfloat16(b))
    return bfloat16(a) @ bfloat16(b) + bfloat16(a) @ b_low + a_low @ bfloat16(b)


@pytest.mark.parametrize(
    ("name", "multiply"),
    [
        ("float32", np.matmul),
        ("float32", lambda a, b: a.astype(np.float64) @ b),
        ("three bfloat16 products", three_products),
        ("TensorFloat-32", lambda a, b: tf32(a) @ tf32(b)),
        ("one bfloat16 product", lambda a, b: bfloat16(a) @ bfloat16(b)),
        ("no product", lambda a, b: a @ -b),
    ],
)
def test_a_product_is_named_by_its_error(name, multiply):
    assert classify_product(product_error(multiply)).startswith(name)

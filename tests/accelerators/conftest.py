"""Tests of this folder compile for TPUs and GPUs; they skip where the compilers are not installed."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.accelerator)


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    """Answers JAX's check of the version of cuDNN, which need not be installed to compile for it."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)

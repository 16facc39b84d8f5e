"""Attention maps, confusion matrices and training curves as PNG files."""

from tfm_jax.viz.heatmaps import attention_map, confusion_matrix
from tfm_jax.viz.training_curves import curves

__all__ = ["attention_map", "confusion_matrix", "curves"]

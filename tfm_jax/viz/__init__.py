"""Pictures as PNG files: attention maps, confusion matrices, training curves."""

from tfm_jax.viz.lines import curves
from tfm_jax.viz.matrices import attention_map, confusion_matrix

__all__ = ["attention_map", "confusion_matrix", "curves"]

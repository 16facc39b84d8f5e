"""What ``nnx.tabulate`` needs: masks without arrays, such as ``causal()``, in its table of inputs.

It writes the inputs of each module as YAML. A mask without arrays has no leaf that it converts to text, and
YAML knows it only by this rule.
"""

import yaml

from tfm_jax.ops.masks import Mask

__all__ = []


def _as_text(dumper: yaml.SafeDumper, mask: Mask) -> yaml.ScalarNode:
    return dumper.represent_str(mask.expression())


yaml.SafeDumper.add_multi_representer(Mask, _as_text)

"""The families of checkpoints, one file each: a config, and the names of the tensors."""

from collections.abc import Mapping
from typing import Any

from tfm_jax.pretrained.config import Family
from tfm_jax.pretrained.families import bart, bert, bloom, distilbert, gpt2, gpt_neox, llama, opt, t5, vit

__all__ = ["FAMILIES", "family_of", "known"]

FAMILIES: tuple[Family, ...] = (
    gpt2.GPT2,
    opt.OPT,
    bloom.BLOOM,
    gpt_neox.GPT_NEOX,
    *llama.FAMILIES,
    *bert.FAMILIES,
    distilbert.DISTILBERT,
    t5.T5,
    *bart.FAMILIES,
    vit.VIT,
)
_BY_ARCHITECTURE = {name: family for family in FAMILIES for name in family.architectures}


def known(architecture: str) -> Family:
    """The family of an architecture; a ValueError that lists those known where there is none."""
    if architecture not in _BY_ARCHITECTURE:
        raise ValueError(
            f"the architecture {architecture!r} is not known; known are {', '.join(sorted(_BY_ARCHITECTURE))}"
        )
    return _BY_ARCHITECTURE[architecture]


def family_of(settings: Mapping[str, Any], source: object) -> tuple[str, Family]:
    """The architecture that a ``config.json`` names, and its family."""
    names = settings.get("architectures")
    if not isinstance(names, list) or len(names) != 1:
        raise ValueError(f"{source} must name one architecture, got architectures={names!r}")
    family, kind = known(str(names[0])), settings.get("model_type")
    if kind not in (None, family.model_type):
        raise ValueError(
            f"{source}: a {names[0]} of model_type={kind!r} is not known, only {family.model_type!r}"
        )
    return str(names[0]), family

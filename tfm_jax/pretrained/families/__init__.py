"""The families of checkpoints, one file each: a config, and the names of the tensors."""

from collections.abc import Mapping
from typing import Any

from tfm_jax.pretrained.families import bart, bert, bloom, distilbert, gpt2, gpt_neox, llama, opt, t5, vit
from tfm_jax.pretrained.family import Family

__all__ = ["FAMILIES", "architecture_in", "family_by_type", "family_of", "known"]

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
            "; of an unknown class pass architecture= to load"
        )
    return _BY_ARCHITECTURE[architecture]


def architecture_in(settings: Mapping[str, Any], source: object) -> str | None:
    """The architecture that a ``config.json`` names; None where it names none, and says ``model_type``.

    Raises:
      ValueError: for several, one that is not known, and one of another ``model_type``.
    """
    names, kind = settings.get("architectures"), settings.get("model_type")
    if names in (None, []) and kind is not None:
        return None
    if not isinstance(names, list) or len(names) != 1:
        raise ValueError(
            f"{source} must name one architecture, got architectures={names!r}; add it there, or pass "
            "architecture= to load"
        )
    family = known(str(names[0]))
    if kind not in (None, family.model_type):
        raise ValueError(
            f"{source}: a {names[0]} of model_type={kind!r} is not known, only {family.model_type!r}"
        )
    return str(names[0])


def family_by_type(settings: Mapping[str, Any], source: object) -> Family:
    """The family of the ``model_type`` of a ``config.json``; a ValueError that lists those known."""
    families = {family.model_type: family for family in FAMILIES}
    if (kind := settings.get("model_type")) not in families:
        raise ValueError(
            f"{source} names no architecture, and its model_type={kind!r} is not known; known are "
            f"{', '.join(sorted(families))}"
        )
    return families[kind]


def family_of(settings: Mapping[str, Any], source: object) -> tuple[str, Family]:
    """The architecture that a ``config.json`` names, and its family; the first of it where it names none."""
    name = architecture_in(settings, source)
    if name is None:
        family = family_by_type(settings, source)
        return next(iter(family.architectures)), family
    return name, known(name)

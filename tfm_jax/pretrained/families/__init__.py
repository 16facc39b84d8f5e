"""The families of checkpoints, one file each: settings and tensor names."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.families import bart, bert, bloom, distilbert, gpt2, gpt_neox, llama, opt, t5, vit
from tfm_jax.pretrained.families._common import labels_of
from tfm_jax.pretrained.family import Architecture, Family

__all__ = [
    "FAMILIES",
    "architecture_in",
    "classifier_pooler",
    "family_by_type",
    "family_of",
    "find_architecture",
    "find_family",
    "labels_of",
]

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


def find_family(architecture: str) -> Family:
    """The family of an architecture; a ValueError that lists the supported ones where there is none."""
    if architecture not in _BY_ARCHITECTURE:
        raise ValueError(
            f"load: got architecture {architecture!r}; wanted one of {', '.join(sorted(_BY_ARCHITECTURE))}. "
            "For another class with the same tensors name one of these in config.json, or in Python pass "
            "architecture= to load."
        )
    return _BY_ARCHITECTURE[architecture]


def find_architecture(name: str) -> Architecture:
    """The architecture of a name, from its family; a ValueError as of ``find_family``."""
    return find_family(name).architectures[name]


def architecture_in(settings: Settings, source: object) -> str | None:
    """The architecture in a ``config.json``; None where the file has only a ``model_type``.

    Raises:
      ValueError: for several architectures, an unknown one, one of another ``model_type``, and the config of
        a run.
    """
    names, kind = settings.get("architectures"), settings.get("model_type")
    if names is None and kind is None and isinstance(settings.get("model"), dict):
        raise ValueError(
            f"{source}: got the config of a run; wanted that of a pretrained checkpoint. Runs are for tfm "
            "generate RUN, tfm translate RUN and, in Python, tfm_jax.runs.load_run."
        )
    if names in (None, []) and kind is not None:
        return None
    if not isinstance(names, list) or len(names) != 1:
        raise ValueError(
            f"{source}: got architectures={names!r}; wanted one in a list. Add it to the file, or in Python "
            "pass architecture= to load."
        )
    family = find_family(str(names[0]))
    if kind not in (None, family.model_type):
        raise ValueError(
            f"{source}: got model_type={kind!r} for {names[0]}; wanted {family.model_type!r}, the only "
            "supported one."
        )
    return str(names[0])


def family_by_type(settings: Settings, source: object) -> Family:
    """The family of the ``model_type`` in a ``config.json``; a ValueError for an unknown one."""
    families = {family.model_type: family for family in FAMILIES}
    if (kind := settings.get("model_type")) not in families:
        raise ValueError(
            f"{source}: got no architectures and model_type={kind!r}; wanted one of "
            f"{', '.join(sorted(families))}."
        )
    return families[kind]


def family_of(settings: Settings, source: object) -> tuple[str, Family]:
    """The architecture in a ``config.json`` and its family; the family's first where there is none."""
    name = architecture_in(settings, source)
    if name is None:
        family = family_by_type(settings, source)
        return next(iter(family.architectures)), family
    return name, find_family(name)


def classifier_pooler(settings: Settings, source: object) -> nn.Pooling | None:
    """The pooler of the sequence classifier in the family of a ``config.json``; None where there is none.

    Args:
      settings: the parsed file, of any architecture of the family.
      source: the file, for messages.
    """
    family = family_of(settings, source)[1]
    names = [name for name in family.architectures if name.endswith("ForSequenceClassification")]
    if not names:
        return None
    return family.read_config({**settings, "architectures": names}, source).pooler

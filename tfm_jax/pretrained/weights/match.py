"""Matches a checkpoint's tensor names to a model's: wrapper prefixes, old names, copies, tied embeddings."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import warn_once
from tfm_jax.pretrained.family import CheckpointConfig, Family
from tfm_jax.pretrained.weights.files import Weights
from tfm_jax.pretrained.weights.read import check_copies, tensors_equal

__all__ = ["drop_ignored", "match_names", "skipped_patterns"]

# Buffers that transformers recomputes instead of reading them: the causal mask and its fill value, positions,
# token types, and the version of a class.
_BUFFERS = (
    r"(.*\.)?version",
    r"(.*\.)?(position_ids|token_type_ids)",
    r"(.*\.)?(attn|self_attn|attention|crossattention)\.(masked_)?bias",
)


def drop_ignored(weights: Weights, ignore: Iterable[str], source: object) -> Weights:
    """Drops the tensors whose whole name matches one of these regular expressions.

    Raises:
      ValueError: an invalid expression, or one that matches no name.
    """
    shapes = dict(weights.shapes)
    for pattern in ignore:
        try:
            matches = [name for name in weights.shapes if re.fullmatch(pattern, name)]
        except re.error as error:
            raise ValueError(f"ignore: got {pattern!r}; wanted a regular expression ({error}).") from error
        if not matches:
            raise ValueError(
                f"ignore: got {pattern!r}, which matches no tensor of {source}; wanted a regular expression "
                f"of whole names, such as {next(iter(weights.shapes), '')!r}."
            )
        shapes = {name: shape for name, shape in shapes.items() if name not in matches}
    return Weights(shapes, weights.read)


def skipped_patterns(family: Family) -> tuple[str, ...]:
    """Regular expressions of tensors that a checkpoint may have and that are not parameters."""
    copies = (pattern for pattern, _ in family.copies)
    constants = (pattern for pattern, _ in family.constants)
    return (*family.skipped, *copies, *constants, *_BUFFERS)


def match_names(
    config: CheckpointConfig, family: Family, weights: Weights, source: object
) -> tuple[CheckpointConfig, Weights]:
    """Renames a checkpoint's tensors to the model's names, and adapts the config to the checkpoint.

    Args:
      config: of the model. The checkpoint decides its ``by_file`` fields, and whether embeddings are tied.
      family: of the model.
      weights: by the names in the file.
      source: for messages.

    Returns:
      The config and the renamed weights.

    Raises:
      ValueError: two tensors with one name, tied tensors or copies that differ, or constants with other
        values than the config implies.
    """
    weights = _restore_originals(_rename(config, family, weights, source), family)
    check_copies(weights, family.copies, source)
    _check_constants(weights, family, config.model, source)
    return _resolve_tying(_drop_absent(config, family, weights), family, weights, source)


def _rename(config: CheckpointConfig, family: Family, weights: Weights, source: object) -> Weights:
    """Removes a wrapper's prefix, updates old names, and adds the family's prefix."""
    is_known = _known_names(config, family)
    for prefix in ("", *_common_prefixes(list(weights.shapes))):
        names = [_current_name(old.removeprefix(prefix), is_known, family) for old in weights.shapes]
        if all(map(is_known, names)):
            break
    else:
        prefix, names = "", [_current_name(old, is_known, family) for old in weights.shapes]
    if prefix:
        warn_once(f"{source}: removed the wrapper prefix {prefix!r}, which all tensor names share")
    old_names: dict[str, str] = {}
    for new, old in zip(names, weights.shapes, strict=True):
        if new in old_names:
            raise ValueError(
                f"{source}: got {old_names[new]} and {old}, both of which are {new}; wanted one. Leave one "
                f"out of the file, or in Python pass ignore=[{re.escape(old)!r}] to load."
            )
        old_names[new] = old
    return Weights(
        {new: weights.shapes[old] for new, old in old_names.items()},
        lambda name: weights.read(old_names[name]),
    )


def _known_names(config: CheckpointConfig, family: Family) -> Callable[[str], bool]:
    """A predicate: whether a tensor of this name is a parameter or may be skipped."""
    mappings = family.architectures[config.architecture].names(config.model)
    params = {re.escape(mapping.tensor).replace(r"\{layer\}", r"\d+") for mapping in mappings}
    pattern = re.compile("|".join(f"(?:{x})" for x in (*params, *skipped_patterns(family))))
    return lambda name: pattern.fullmatch(name) is not None


def _current_name(old: str, is_known: Callable[[str], bool], family: Family) -> str:
    name = old
    for pattern, replacement in family.renamed:
        name = re.sub(pattern, replacement, name)
    # A checkpoint of the body alone has no family prefix.
    return family.prefix + name if not is_known(name) and is_known(family.prefix + name) else name


def _common_prefixes(names: Sequence[str]) -> Iterator[str]:
    """Yields the prefixes that all names share, up to each dot, shortest first."""
    if names:
        first, last = min(names), max(names)
        for i, letter in enumerate(first):
            if first[: i + 1] != last[: i + 1]:
                return
            if letter == ".":
                yield first[: i + 1]


def _restore_originals(weights: Weights, family: Family) -> Weights:
    """Renames a copy to its original where the checkpoint has only the copy."""
    for pattern, original in family.copies:
        if original not in weights.shapes:
            copies = [name for name in weights.shapes if re.fullmatch(pattern, name)]
            weights = _rename_one(weights, copies[0], original) if copies else weights
    return weights


def _rename_one(weights: Weights, old: str, new: str) -> Weights:
    shapes = {new if name == old else name: shape for name, shape in weights.shapes.items()}
    return Weights(shapes, lambda name: weights.read(old if name == new else name))


def _check_constants(weights: Weights, family: Family, model: nn.Config, source: object) -> None:
    """Checks tensors that this library computes from the config, but transformers reads from the file."""
    for pattern, make in family.constants:
        for name in (name for name in weights.shapes if re.fullmatch(pattern, name)):
            got, wanted = np.asarray(weights.read(name), np.float32), make(model, weights.shapes[name])
            if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=1e-2, atol=1e-2):
                raise ValueError(
                    f"{source}: got other values of {name} than config.json implies; wanted those, which are "
                    f"computed and not read. Correct config.json, or in Python pass "
                    f"ignore=[{re.escape(name)!r}] to load."
                )


def _drop_absent(config: CheckpointConfig, family: Family, weights: Weights) -> CheckpointConfig:
    """Sets to None the ``by_file`` fields of the config whose tensors the checkpoint lacks."""
    architecture = family.architectures[config.architecture]
    mappings = architecture.names(config.model)
    present = {mapping.param.split("/")[0] for mapping in mappings if mapping.tensor in weights.shapes}
    absent = {field: None for field in architecture.by_file if field not in present}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **absent))


def _resolve_tying(
    config: CheckpointConfig, family: Family, weights: Weights, source: object
) -> tuple[CheckpointConfig, Weights]:
    """Decides whether the output projection is tied to the embedding, and checks that both agree."""
    mappings = family.architectures[config.architecture].names(config.model)
    names = {mapping.param: mapping.tensor for mapping in mappings}
    head = names.get("head/projection/kernel")
    table = names.get("embedding/table", names.get("encoder/embedding/table"))
    tied = config.model.tie_embeddings
    if head is None or table is None or not {head, table} & weights.shapes.keys():
        return config, weights
    if head not in weights.shapes:
        tied = tied or family.tied_by_file
    elif table not in weights.shapes:
        tied = tied or family.tied_by_file
        weights = _rename_one(weights, head, table) if tied else weights
    elif tied:
        tied = tensors_equal(weights, head, table)
        if not tied and not family.tied_by_file:
            raise ValueError(
                f"{source}: got {head} and {table}, which differ; wanted equal tensors, as config.json "
                "ties them. Set tie_word_embeddings=false there if the model has two, or leave one out of "
                "the file."
            )
    if tied:
        weights = Weights({name: s for name, s in weights.shapes.items() if name != head}, weights.read)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, tie_embeddings=tied)), weights

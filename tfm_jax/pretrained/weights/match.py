"""Tensors of a file by the names of a model: without a wrapper's prefix, and with those that are tied."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import warn_once
from tfm_jax.pretrained.family import CheckpointConfig, Family
from tfm_jax.pretrained.weights.files import Weights
from tfm_jax.pretrained.weights.read import check_copies, same

__all__ = ["matched", "skipped_of", "without"]

# Buffers that transformers makes anew and reads from no file: the causal mask, its value, the positions from
# 0 on, the first token type, the version of a class.
_BUFFERS = (
    r"(.*\.)?version",
    r"(.*\.)?(position_ids|token_type_ids)",
    r"(.*\.)?(attn|self_attn|attention|crossattention)\.(masked_)?bias",
)


def without(weights: Weights, ignore: Iterable[str], source: object) -> Weights:
    """The weights without the tensors whose names match one of these regular expressions.

    Raises:
      ValueError: for an expression that is none, and one that no name matches.
    """
    kept = dict(weights.shapes)
    for pattern in ignore:
        try:
            found = [name for name in weights.shapes if re.fullmatch(pattern, name)]
        except re.error as error:
            raise ValueError(f"ignore: {pattern!r} is no regular expression: {error}") from error
        if not found:
            raise ValueError(
                f"ignore: got {pattern!r}, which matches no tensor of {source}; wanted a regular expression "
                f"of whole names, such as {next(iter(weights.shapes), '')!r}"
            )
        kept = {name: shape for name, shape in kept.items() if name not in found}
    return Weights(kept, weights.read)


def skipped_of(family: Family) -> tuple[str, ...]:
    """Regular expressions of the tensors that a file may have, and that are no parameters."""
    copies = (pattern for pattern, _ in family.copies)
    constants = (pattern for pattern, _ in family.constants)
    return (*family.skipped, *copies, *constants, *_BUFFERS)


def matched(
    config: CheckpointConfig, family: Family, weights: Weights, source: object
) -> tuple[CheckpointConfig, Weights]:
    """The weights by the names of the model, and the config without the parts that the file lacks.

    Args:
      config: of the model; its ``by_file`` parts and whether its output projection is tied are the file's.
      family: of it.
      weights: by the names in the file.
      source: for messages.

    Returns:
      The config and the weights.

    Raises:
      ValueError: for two tensors of one name, for tied tensors that differ, and for tensors that are no
        parameters and must have certain values, and have others.
    """
    weights = _completed(_renamed(config, family, weights, source), family)
    check_copies(weights, family.copies, source)
    _check_constants(weights, family, config.model, source)
    return _untied(_without_absent(config, family, weights), family, weights, source)


def _renamed(config: CheckpointConfig, family: Family, weights: Weights, source: object) -> Weights:
    """The weights by the names of today, with the family's prefix, and without a wrapper's."""
    known = _known(config, family)
    for prefix in ("", *_common_prefixes(list(weights.shapes))):
        names = [_name_of(old.removeprefix(prefix), known, family) for old in weights.shapes]
        if all(map(known, names)):
            break
    else:
        prefix, names = "", [_name_of(old, known, family) for old in weights.shapes]
    if prefix:
        warn_once(f"{source}: all names of tensors begin with {prefix!r}, a wrapper's prefix: it is left out")
    files_names: dict[str, str] = {}
    for new, old in zip(names, weights.shapes, strict=True):
        if new in files_names:
            raise ValueError(
                f"two tensors are both {new}: {files_names[new]} and {old}; leave one out of the file, or "
                f"pass ignore=[{re.escape(old)!r}]"
            )
        files_names[new] = old
    return Weights(
        {new: weights.shapes[old] for new, old in files_names.items()},
        lambda name: weights.read(files_names[name]),
    )


def _known(config: CheckpointConfig, family: Family) -> Callable[[str], bool]:
    """Whether a name is of a tensor that is read, or may be skipped."""
    entries = family.architectures[config.architecture].names(config.model)
    read = {re.escape(entry.theirs).replace(r"\{layer\}", r"\d+") for entry in entries}
    pattern = re.compile("|".join(f"(?:{x})" for x in (*read, *skipped_of(family))))
    return lambda name: pattern.fullmatch(name) is not None


def _name_of(old: str, known: Callable[[str], bool], family: Family) -> str:
    name = old
    for pattern, replacement in family.renamed:
        name = re.sub(pattern, replacement, name)
    # Without any prefix the tensors are those of the body alone.
    return family.prefix + name if not known(name) and known(family.prefix + name) else name


def _common_prefixes(names: Sequence[str]) -> Iterator[str]:
    """What all names begin with, up to each dot."""
    if names:
        first, last = min(names), max(names)
        for i, letter in enumerate(first):
            if first[: i + 1] != last[: i + 1]:
                return
            if letter == ".":
                yield first[: i + 1]


def _completed(weights: Weights, family: Family) -> Weights:
    """The weights with each tensor that the file has by the name of one of its copies alone."""
    for pattern, original in family.copies:
        if original not in weights.shapes:
            copies = [name for name in weights.shapes if re.fullmatch(pattern, name)]
            weights = _moved(weights, copies[0], original) if copies else weights
    return weights


def _moved(weights: Weights, old: str, new: str) -> Weights:
    """The weights with one tensor by another name."""
    shapes = {new if name == old else name: shape for name, shape in weights.shapes.items()}
    return Weights(shapes, lambda name: weights.read(old if name == new else name))


def _check_constants(weights: Weights, family: Family, model: nn.Config, source: object) -> None:
    """Raises for tensors that ours makes anew, where the file has other values, by which theirs would run."""
    for pattern, make in family.constants:
        for name in (name for name in weights.shapes if re.fullmatch(pattern, name)):
            found, wanted = np.asarray(weights.read(name), np.float32), make(model, weights.shapes[name])
            if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-2, atol=1e-2):
                raise ValueError(
                    f"{source}: {name} has other values than those that config.json gives, and is not read: "
                    f"correct config.json, or leave it out by ignore=[{re.escape(name)!r}]"
                )


def _without_absent(config: CheckpointConfig, family: Family, weights: Weights) -> CheckpointConfig:
    """The config without those parts that a file may lack, and this one does."""
    architecture = family.architectures[config.architecture]
    entries = architecture.names(config.model)
    there = {entry.ours.split("/")[0] for entry in entries if entry.theirs in weights.shapes}
    absent = {field: None for field in architecture.by_file if field not in there}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **absent))


def _untied(
    config: CheckpointConfig, family: Family, weights: Weights, source: object
) -> tuple[CheckpointConfig, Weights]:
    """Whether the output projection is the embedding: by the settings, with which the tensors must agree."""
    entries = family.architectures[config.architecture].names(config.model)
    names = {entry.ours: entry.theirs for entry in entries}
    head = names.get("head/projection/kernel")
    table = names.get("embedding/table", names.get("encoder/embedding/table"))
    tied = config.model.tie_embeddings
    if head is None or table is None or not {head, table} & weights.shapes.keys():
        return config, weights
    if head not in weights.shapes:
        tied = tied or family.tied_by_file
    elif table not in weights.shapes:
        tied = tied or family.tied_by_file
        weights = _moved(weights, head, table) if tied else weights
    elif tied:
        tied = same(weights, head, table)
        if not tied and not family.tied_by_file:
            raise ValueError(
                f"{source}: by its config.json {head} is {table} (tie_word_embeddings), and the two differ: "
                "say tie_word_embeddings=false there if the model has two, or leave one out of the file"
            )
    if tied:
        weights = Weights({name: s for name, s in weights.shapes.items() if name != head}, weights.read)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, tie_embeddings=tied)), weights

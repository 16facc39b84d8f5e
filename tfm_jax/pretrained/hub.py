"""Checkpoints of the Hugging Face hub, with an answer within seconds when the hub cannot be reached."""

import functools
import re
from pathlib import Path

import huggingface_hub

from tfm_jax.hub import HubUnavailableError, why_unreachable
from tfm_jax.pretrained.weights.files import what_file

__all__ = ["HubUnavailableError", "directory_of"]

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "*/config.json"]
_FILES += ["[0-9]_*/pytorch_model.bin"]  # a layer behind an encoder, read only where it is allowed
_PICKLES = ["*.bin"]
_LEGACY = ["*.msgpack"]
"""What is fetched where there is no safetensors file."""


def directory_of(path_or_repo_id: str | Path, *, allow_pickle: bool = False) -> Path:
    """The directory of a checkpoint: the one that was named, or a snapshot of a repository of the hub.

    Args:
      path_or_repo_id: a directory, or "owner/name".
      allow_pickle: fetch ``*.bin`` too.

    Returns:
      The directory, which exists. What is in the local cache is served where the hub cannot be reached, and
      where it has no such repository any more, or none that may be read without a login.

    Raises:
      FileNotFoundError: for what is neither a directory nor the name of a repository.
      ValueError: for a file, with what it is and how to go on.
      HubUnavailableError: where the hub cannot be reached, and the cache has no such repository.
      ValueError: where neither the hub nor the cache has a repository that may be read.
    """
    path = Path(path_or_repo_id)
    if path.is_dir():
        return path
    name = str(path_or_repo_id)
    if what := what_file(name):
        if path.is_file():
            raise ValueError(what)
        raise FileNotFoundError(f"there is no file {name}, and it would be no checkpoint: {what}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or path.is_file():
        raise FileNotFoundError(f"there is no directory {name}, and it is no name of the hub's: owner/name")
    patterns = _FILES + _PICKLES * allow_pickle
    fetch = functools.partial(_fetch, name, patterns)
    error = _why_not(name)
    if error is None:
        try:
            return Path(fetch())
        except huggingface_hub.errors.HfHubHTTPError as failed:
            # Of a gated repository everybody may know, and not everybody read.
            error = _not_there(name, failed)
        except (ConnectionError, TimeoutError, huggingface_hub.errors.LocalEntryNotFoundError) as failed:
            error = _unreachable(name, failed)
    try:
        return Path(fetch(local_files_only=True))
    except (huggingface_hub.errors.LocalEntryNotFoundError, huggingface_hub.errors.HFValidationError):
        raise error from error.__cause__


def _fetch(name: str, patterns: list[str], **options: bool) -> str:
    fetch = functools.partial(huggingface_hub.snapshot_download, name, **options)
    directory = fetch(allow_patterns=patterns)
    if any(Path(directory).glob("*.safetensors")):
        return directory
    return fetch(allow_patterns=[*patterns, *_LEGACY])


def _why_not(name: str) -> Exception | None:
    """Ask the hub for the repository; None if it answers that it has it, else the error to raise."""
    if huggingface_hub.is_offline_mode():
        return _unreachable(name, "offline mode: HF_HUB_OFFLINE is set")
    not_there = functools.partial(_not_there, name)
    try:
        reason = why_unreachable(huggingface_hub.HfApi().model_info, name, not_there)
    except ValueError as error:
        return error
    return None if reason is None else _unreachable(name, reason)


def _unreachable(name: str, reason: object) -> HubUnavailableError:
    return HubUnavailableError(
        f"the Hugging Face hub cannot be reached for {name!r} ({reason}), the local cache does not have it, "
        "and there is no such directory"
    )


def _not_there(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"the Hugging Face hub has no model {name!r} that may be read (mistyped, private, or in need of a "
        f"login: hf auth login), the local cache does not have it, and there is no such directory: {error}"
    )

"""Models and data sets of the Hugging Face hub, with an error within seconds when it cannot be reached."""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

if TYPE_CHECKING:
    import datasets

__all__ = ["TIMEOUT", "HubUnavailableError", "download_model", "load_dataset"]

Kind = Literal["model", "data set"]
TIMEOUT = 5.0
"""Seconds after which the hub counts as unreachable."""
# The base class of the hub's HTTP error is that of all errors of its HTTP client.
_NETWORK_ERRORS: tuple[type[Exception], ...] = (ConnectionError, TimeoutError, HfHubHTTPError.__bases__[0])


class HubUnavailableError(ConnectionError):
    """The hub cannot be reached, and the local cache lacks the files."""


def download_model(repo_id: str, patterns: Sequence[str], *, legacy_patterns: Sequence[str] = ()) -> Path:
    """Downloads a model repository to the local cache.

    Args:
      repo_id: "owner/name" or "name".
      patterns: globs of the files to download.
      legacy_patterns: downloaded too where ``patterns`` find no safetensors file.

    Returns:
      The directory of the snapshot. The cached one is returned where the hub cannot be reached or refuses the
      repository (deleted, private, gated).

    Raises:
      HubUnavailableError: within ``TIMEOUT`` seconds; the hub cannot be reached, and the cache lacks the
        repository.
      ValueError: neither the hub nor the cache has a repository of this name that you may read.
    """
    download = functools.partial(_download, repo_id, patterns, legacy_patterns)
    error = _probe(repo_id, "model")
    if error is None:
        try:
            return download()
        except (*_NETWORK_ERRORS, LocalEntryNotFoundError) as failure:
            # The hub lists a gated repository and refuses only its files.
            error = _explain(failure, repo_id, "model")
    try:
        return download(local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        raise error from error.__cause__


@overload
def load_dataset(
    name: str,
    config: str | None,
    split: str,
    *,
    streaming: bool = False,
    cache_dir: str | None = None,
    alternatives: Sequence[str] = (),
) -> "datasets.Dataset | datasets.IterableDataset": ...
@overload
def load_dataset(
    name: str,
    config: str | None,
    split: None,
    *,
    streaming: Literal[False] = False,
    cache_dir: str | None = None,
    alternatives: Sequence[str] = (),
) -> "datasets.DatasetDict": ...
def load_dataset(
    name: str,
    config: str | None,
    split: str | None,
    *,
    streaming: bool = False,
    cache_dir: str | None = None,
    alternatives: Sequence[str] = (),
) -> object:
    """Loads a data set from the hub, or from the local cache of ``datasets`` where the hub fails.

    Args:
      name: "owner/name" or "name".
      config: one of the data set's configurations; None for its only or default one.
      split: None for all of them.
      streaming: read while iterating, without a download first.
      cache_dir: of ``datasets``; None for its default.
      alternatives: sources without a network, for the error message.

    Returns:
      The result of ``datasets.load_dataset``.

    Raises:
      HubUnavailableError: within ``TIMEOUT`` seconds, or when a download fails.
      ValueError: neither the hub nor the cache has a data set of this name that you may read.
    """
    import datasets.config
    import datasets.exceptions

    options = {"split": split, "streaming": streaming, "cache_dir": cache_dir}
    error = _probe(name, "data set", offline=datasets.config.HF_HUB_OFFLINE, alternatives=alternatives)
    if error is None:
        try:
            return datasets.load_dataset(name, config, **options)
        except datasets.exceptions.DatasetNotFoundError as failure:  # such as a gated one
            raise _not_found(name, "data set", failure) from failure
        except Exception as failure:
            network_error = _network_error(failure)
            if network_error is None:
                raise
            raise _unavailable(name, "data set", network_error, alternatives) from failure
    try:
        return _load_cached_dataset(name, config, **options)
    except (OSError, ValueError) as failure:
        if isinstance(failure, ValueError) and not str(failure).startswith("Couldn't find cache"):
            raise  # the cache has the data set, but not the split, say
        raise error from error.__cause__


def _probe(
    repo_id: str, kind: Kind, *, offline: bool = False, alternatives: Sequence[str] = ()
) -> Exception | None:
    """Asks the hub for a repository; None if it has it, else the error to raise unless the cache does."""
    if offline or huggingface_hub.is_offline_mode():
        reason = "offline mode: HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set"
        return _unavailable(repo_id, kind, reason, alternatives)
    api = huggingface_hub.HfApi()
    info = api.model_info if kind == "model" else api.dataset_info
    answers: list[Exception | None] = []

    def request() -> None:
        try:
            # One small field: listing all files may take longer than the timeout.
            info(repo_id, timeout=TIMEOUT, expand=["sha"])
            answers.append(None)
        except Exception as error:
            answers.append(error)

    # The HTTP timeout does not cover the look-up of the host's name, nor the sum of its steps.
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if not answers:
        return _unavailable(repo_id, kind, f"no answer within {TIMEOUT:g} seconds", alternatives)
    return None if answers[0] is None else _explain(answers[0], repo_id, kind, alternatives)


def _download(
    repo_id: str, patterns: Sequence[str], legacy_patterns: Sequence[str], *, local_files_only: bool = False
) -> Path:
    download = functools.partial(
        huggingface_hub.snapshot_download, repo_id, local_files_only=local_files_only
    )
    directory = Path(download(allow_patterns=[*patterns]))
    if any(directory.glob("*.safetensors")):
        return directory
    return Path(download(allow_patterns=[*patterns, *legacy_patterns]))


def _load_cached_dataset(
    name: str, config: str | None, *, split: str | None, streaming: bool, cache_dir: str | None
) -> object:
    """Loads a data set as ``datasets`` does in its offline mode, which is fixed when it is imported."""
    from datasets.packaged_modules.cache.cache import Cache

    builder = Cache(
        cache_dir=cache_dir,
        dataset_name=name.rpartition("/")[2],
        repo_id=name,
        config_name=config,
        version="auto",
        hash="auto",
    )
    return builder.as_streaming_dataset(split=split) if streaming else builder.as_dataset(split=split)


def _explain(failure: Exception, repo_id: str, kind: Kind, alternatives: Sequence[str] = ()) -> Exception:
    """The error to raise for a failed request: the repository is not readable, or the hub not reachable."""
    status = getattr(getattr(failure, "response", None), "status_code", None)
    if status in (401, 403, 404) or isinstance(failure, HFValidationError):
        error: Exception = _not_found(repo_id, kind, failure)
    else:
        error = _unavailable(repo_id, kind, failure, alternatives)
    error.__cause__ = failure
    return error


def _unavailable(
    repo_id: str, kind: Kind, reason: object, alternatives: Sequence[str] = ()
) -> HubUnavailableError:
    if isinstance(reason, BaseException):
        reason = f"{type(reason).__name__}: {reason}"
    sources = f", or one of {', '.join(map(repr, alternatives))}" if alternatives else ""
    return HubUnavailableError(
        f"hub: got {repo_id!r}; wanted a {kind} in the local cache, because the Hugging Face hub cannot be "
        f"reached ({reason}). Try again with a network, or pass a directory{sources}."
    )


def _not_found(repo_id: str, kind: Kind, reason: Exception) -> ValueError:
    return ValueError(
        f"hub: got {repo_id!r}; wanted a {kind} that the Hugging Face hub has and lets you read ({reason}), "
        "or one in the local cache. Correct the name, log in (hf auth login), or pass a directory."
    )


def _network_error(error: BaseException | None) -> BaseException | None:
    """The error of the network or the hub in a chain of causes, if there is one."""
    while error is not None and not isinstance(error, _NETWORK_ERRORS):
        error = error.__cause__
    return error

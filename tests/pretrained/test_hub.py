"""Checkpoints of the hub: the cache is honoured, and no hub is one clear error."""

import threading
import types

import huggingface_hub
import huggingface_hub.constants
import pytest

import tfm_jax.hub
from tfm_jax import pretrained
from tfm_jax.pretrained import hub


def test_neither_a_directory_nor_a_name(tmp_path):
    for name in (tmp_path / "nowhere" / "at" / "all", "a/b/c", "what is this"):
        with pytest.raises(FileNotFoundError, match="there is no directory"):
            pretrained.load(name)


def test_offline_without_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(pretrained.HubUnavailableError, match=r"'owner/name' .*offline mode"):
        pretrained.load("owner/name")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A checkpoint in the cache."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_offline_with_the_checkpoint(cached):
    assert hub.directory_of("owner/name") == cached


def answers(monkeypatch, error):
    def model_info(self, name, **options):
        if error is not None:
            raise error

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    answers(monkeypatch, ConnectionError("no route"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(pretrained.HubUnavailableError, match="ConnectionError: no route"):
        hub.directory_of("owner/name")


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    answers(monkeypatch, None)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *args, **options: threading.Event().wait(9)
    )
    monkeypatch.setattr(tfm_jax.hub, "TIMEOUT", -0.9)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(pretrained.HubUnavailableError, match="no answer within"):
        hub.directory_of("owner/name")


def refused(status):
    class Refused(Exception):
        class response:
            status_code = status

    return Refused("no such repository")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_cached_is_served_though_the_hub_refuses(cached, monkeypatch, status):
    answers(monkeypatch, refused(status))
    assert hub.directory_of("owner/name") == cached


def test_what_is_cached_is_served_though_the_hub_is_away(cached, monkeypatch):
    answers(monkeypatch, ConnectionError("no route"))
    assert hub.directory_of("owner/name") == cached


def test_what_is_cached_is_served_though_it_may_not_be_fetched(cached, monkeypatch):
    """Of a gated repository the hub says that it is there; only its files are refused."""
    fetch = huggingface_hub.snapshot_download

    def gated(name, *, local_files_only=False, **options):
        if local_files_only:
            return fetch(name, local_files_only=True, **options)
        response = types.SimpleNamespace(headers={}, request=None, status_code=403)
        raise huggingface_hub.errors.GatedRepoError("gated", response=response)

    answers(monkeypatch, None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    assert hub.directory_of("owner/name") == cached
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cached / "other"))
    with pytest.raises(ValueError, match="has no model 'owner/name' that may be read"):
        hub.directory_of("owner/name")


def test_a_name_that_the_hub_does_not_have(tmp_path, monkeypatch):
    answers(monkeypatch, refused(404))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="has no model 'owner/name' that may be read"):
        hub.directory_of("owner/name")


def test_weights_of_flax_are_fetched_where_there_are_no_others(tmp_path, monkeypatch):
    asked = []

    def fetch(name, *, allow_patterns):
        asked.append("*.msgpack" in allow_patterns)
        return tmp_path

    answers(monkeypatch, None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub.directory_of("owner/name") == tmp_path and asked == [False, True]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert hub.directory_of("owner/name") == tmp_path and asked == [False, True, False]

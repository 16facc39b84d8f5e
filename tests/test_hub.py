"""The Hugging Face hub: downloads, the local cache, and errors within seconds when it cannot be reached."""

import socket
import threading
import time
import types

import datasets
import huggingface_hub
import pytest

from tfm_jax import data, hub, pretrained
from tfm_jax.hub import HubUnavailableError

MODEL, DATA_SET = "owner/name", "nobody/no-such-data-set"
SECONDS = 6.0
"""Within which an unreachable hub is an error, or the cache answers."""


class StatusError(Exception):
    """An HTTP error of the hub's client."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = types.SimpleNamespace(status_code=status)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """Empty caches of models and data sets."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "models"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "data_sets")


@pytest.fixture
def online(monkeypatch):
    """Leaves offline mode."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


@pytest.fixture
def answer(online, monkeypatch):
    """A function that makes the hub answer: with success (None), or with an error."""

    def set_answer(error=None):
        def info(self, name, **options):
            if error is not None:
                raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)

    return set_answer


@pytest.fixture
def refused_connection(online, monkeypatch):
    """A hub at a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def black_hole(online, monkeypatch):
    """A hub that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def accept():
            try:
                while True:
                    connections.append(server.accept()[0])
            except OSError:  # closed
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


@pytest.fixture
def cached_model(tmp_path):
    """A model in the cache."""
    snapshot = tmp_path / "models" / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    return snapshot


@pytest.fixture
def cached_data_set(tmp_path):
    """A data set in the cache, as the library leaves it: cache/owner___name/config/version/hash/*.arrow."""
    builder_dir = (
        tmp_path / "data_sets" / "nobody___no-such-data-set" / "default" / "0.0.0" / "0123456789abcdef"
    )
    examples = datasets.Dataset.from_dict({"text": ["a", "b"]})
    builder_dir.mkdir(parents=True)
    writer = datasets.arrow_writer.ArrowWriter(
        features=examples.features, path=str(builder_dir / "no-such-data-set-train.arrow")
    )
    for example in examples:
        writer.write(example)
    writer.finalize()
    split = datasets.SplitInfo("train", num_bytes=1, num_examples=2, dataset_name="no-such-data-set")
    info = datasets.DatasetInfo(
        features=examples.features,
        splits=datasets.SplitDict({"train": split}, dataset_name="no-such-data-set"),
        builder_name="parquet",
        dataset_name="no-such-data-set",
        config_name="default",
        version="0.0.0",
    )
    info.write_to_directory(str(builder_dir))


def load_model(**options):
    return hub.download_model(MODEL, ["*.json"], **options)


def load_data_set(*args, **options):
    return data.load(DATA_SET, *args, **options)


LOADERS = pytest.mark.parametrize("load", [load_model, load_data_set])


def assert_unavailable(load, reason):
    start = time.monotonic()
    with pytest.raises(hub.HubUnavailableError, match=reason) as caught:
        load()
    assert time.monotonic() - start < SECONDS
    message = str(caught.value)
    assert (
        isinstance(caught.value, ConnectionError) and (MODEL if load is load_model else DATA_SET) in message
    )
    assert "Try again with a network, or pass a directory" in message
    if load is load_data_set:
        assert all(repr(source) in message for source in ("digits", "dates", "stdlib"))


@LOADERS
def test_offline_mode(load):
    assert_unavailable(load, "hub cannot be reached .*offline mode: HF_HUB_OFFLINE")


@LOADERS
def test_refused_connection(load, refused_connection):
    assert_unavailable(load, "hub cannot be reached .*ConnectError")


def test_black_hole(black_hole):
    assert_unavailable(load_model, "hub cannot be reached .*(no answer within 5 seconds|Timeout)")


@pytest.fixture
def short_timeout(monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.5)


def test_black_hole_for_a_data_set(black_hole, short_timeout):
    assert_unavailable(load_data_set, r"hub cannot be reached .*(no answer within 0\.5 seconds|Timeout)")


def test_black_hole_with_a_full_cache(black_hole, short_timeout, cached_model, cached_data_set):
    assert load_model() == cached_model
    assert list(load_data_set()["text"]) == ["a", "b"]


def test_a_request_without_an_end(answer, monkeypatch):
    """Such as the look-up of a host's name, which no HTTP timeout covers."""
    answer()
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *args, **options: threading.Event().wait(9)
    )
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    assert_unavailable(load_model, r"no answer within 0\.1 seconds")


@LOADERS
@pytest.mark.parametrize("status", [429, 503])
def test_a_failing_hub(load, status, answer):
    answer(StatusError(status))
    assert_unavailable(load, f"status {status}")


@LOADERS
@pytest.mark.parametrize("status", [401, 403, 404])
def test_unknown_name(load, status, answer):
    answer(StatusError(status))
    kind = "model" if load is load_model else "data set"
    with pytest.raises(ValueError, match=f"wanted a {kind} that the Hugging Face hub has .*status {status}"):
        load()


def test_invalid_names(answer):
    answer(huggingface_hub.errors.HFValidationError("not a name"))
    with pytest.raises(ValueError, match="hub: got 'what is this'; wanted a data set that"):
        data.load("what is this")
    with pytest.raises(ValueError, match="hub: got 'a--b'; wanted a model that"):
        hub.download_model("a--b", [])


@pytest.mark.parametrize("error", [ConnectionError("no route"), *map(StatusError, (401, 403, 404, 503))])
def test_the_cache_is_used_where_the_hub_fails(error, answer, cached_model, cached_data_set):
    answer(error)
    assert load_model() == cached_model
    assert list(load_data_set()["text"]) == ["a", "b"]


def test_the_cache_in_offline_mode(cached_model, cached_data_set):
    assert load_model() == cached_model
    assert list(load_data_set()["text"]) == ["a", "b"]
    assert [example["text"] for example in load_data_set(streaming=True)] == ["a", "b"]
    with pytest.raises(ValueError, match="got split 'dev'"):
        load_data_set("dev")
    with pytest.raises(hub.HubUnavailableError, match="offline mode"):
        data.load(f"{DATA_SET}:other")


def test_an_incomplete_cache(cached_data_set, tmp_path):
    for path in (tmp_path / "data_sets").rglob("dataset_info.json"):
        path.unlink()
    assert_unavailable(load_data_set, "offline mode")


def test_a_cached_data_set_in_a_directory(tmp_path, cached_data_set, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other")
    assert list(load_data_set(cache_dir=str(tmp_path / "data_sets"))["text"]) == ["a", "b"]


def test_a_gated_model(answer, cached_model, monkeypatch, tmp_path):
    """The hub lists it and refuses its files."""
    snapshot_download = huggingface_hub.snapshot_download

    def gated(name, *, local_files_only, **options):
        if local_files_only:
            return snapshot_download(name, local_files_only=True, **options)
        response = types.SimpleNamespace(headers={}, request=None, status_code=403)
        raise huggingface_hub.errors.GatedRepoError("gated", response=response)

    answer()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    assert load_model() == cached_model
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"hub: got 'owner/name'; wanted a model that .*lets you read"):
        load_model()


def test_legacy_patterns_where_there_is_no_safetensors_file(answer, tmp_path, monkeypatch):
    calls = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        calls.append(allow_patterns)
        return str(tmp_path)

    answer()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_model(legacy_patterns=["*.msgpack"]) == tmp_path
    assert calls == [["*.json"], ["*.json", "*.msgpack"]]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert load_model(legacy_patterns=["*.msgpack"]) == tmp_path
    assert calls[2:] == [["*.json"]]


def connect_error():
    """The error of the hub's HTTP client for a lost network."""
    try:
        huggingface_hub.get_session().get("http://127.0.0.1:9")
    except Exception as error:
        return error


def generation_error():
    error = datasets.exceptions.DatasetGenerationError("while generating")
    error.__cause__ = connect_error()
    return error


@pytest.fixture
def fail_downloads(answer, monkeypatch):
    """A function that makes downloads fail with an error, with a hub that answers."""

    def set_error(error):
        def fail(*args, local_files_only=False, **options):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here") if local_files_only else error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)

    answer()
    return set_error


@LOADERS
@pytest.mark.parametrize("make_error", [connect_error, TimeoutError])
def test_a_network_that_fails_during_the_download(load, make_error, fail_downloads):
    fail_downloads(make_error())
    assert_unavailable(load, r"hub cannot be reached \(\w+Error: .*Try again")


def test_a_network_that_fails_while_a_data_set_is_generated(fail_downloads):
    fail_downloads(generation_error())
    assert_unavailable(load_data_set, "ConnectError")


def test_a_gated_data_set(fail_downloads):
    fail_downloads(datasets.exceptions.DatasetNotFoundError("is gated"))
    with pytest.raises(ValueError, match=r"\(is gated\).*log in"):
        load_data_set()


@LOADERS
def test_other_errors_of_a_download_propagate(load, fail_downloads):
    fail_downloads(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        load()


def test_arguments_of_load_dataset(answer, tmp_path, monkeypatch):
    answer()
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return datasets.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert data.load(DATA_SET + ":plain", "train[:10%]", cache_dir=str(tmp_path))["text"] == ["a"]
    options = {"split": "train[:10%]", "streaming": False, "cache_dir": str(tmp_path)}
    assert calls == [((DATA_SET, "plain"), options)]


def test_the_error_is_exported():
    assert HubUnavailableError is pretrained.HubUnavailableError is hub.HubUnavailableError

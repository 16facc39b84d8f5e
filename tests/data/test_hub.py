import time

import datasets
import huggingface_hub
import pytest

import tfm_jax.hub
from tfm_jax import data
from tfm_jax.data import hub

NAME = "nobody/no-such-data-set"


class Answer(Exception):
    """An error of the hub's client, as it comes with a response."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status})


@pytest.fixture
def online(monkeypatch):
    """As if HF_HUB_OFFLINE were not set, with an endpoint that nobody serves."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def answer(reply):
        monkeypatch.setattr(
            huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout, expand: reply(timeout)
        )

    return answer


def assert_unavailable(cache_dir, reason, seconds=3.0):
    start = time.monotonic()
    with pytest.raises(data.HubUnavailableError, match=reason) as error:
        data.load(NAME, cache_dir=str(cache_dir))
    assert time.monotonic() - start < seconds
    assert isinstance(error.value, ConnectionError) and NAME in str(error.value)
    assert all(repr(source) in str(error.value) for source in ("digits", "dates", "stdlib"))


def test_offline_mode_fails_at_once(tmp_path):
    assert_unavailable(tmp_path, "offline mode: HF_HUB_OFFLINE")


def test_a_hub_that_refuses_the_connection(tmp_path, online, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert_unavailable(tmp_path, "ConnectError", seconds=tfm_jax.hub.TIMEOUT + 3)


def test_a_hub_that_never_answers(tmp_path, online, monkeypatch):
    monkeypatch.setattr(tfm_jax.hub, "TIMEOUT", 0.2)
    online(lambda timeout: time.sleep(5))
    assert_unavailable(tmp_path, "no answer within")


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_in_trouble(status, tmp_path, online):
    def reply(timeout):
        raise Answer(status)

    online(reply)
    assert_unavailable(tmp_path, f"status {status}")


def connect_error():
    """What the hub's own http client raises when the network goes away."""
    try:
        huggingface_hub.get_session().get("http://127.0.0.1:9")
    except Exception as error:
        return error


def wrapped(error):
    made = datasets.exceptions.DatasetGenerationError("while generating")
    made.__cause__ = error
    return made


@pytest.mark.parametrize("make", [connect_error, lambda: wrapped(connect_error()), TimeoutError])
def test_a_hub_that_goes_away_during_the_download(make, tmp_path, online, monkeypatch):
    error = make()

    def load_dataset(*args, **options):
        raise error

    online(lambda timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert_unavailable(tmp_path, "Error.*try again")


def test_other_failures_of_a_download_stay_what_they_are(tmp_path, online, monkeypatch):
    def load_dataset(*args, **options):
        raise errors.pop()

    online(lambda timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    errors = [OSError("disk full"), datasets.exceptions.DatasetNotFoundError("is gated")]
    with pytest.raises(ValueError, match=r"in need of a login.*is gated"):
        data.load(NAME, cache_dir=str(tmp_path))
    with pytest.raises(OSError, match="disk full"):
        data.load(NAME, cache_dir=str(tmp_path))


@pytest.mark.parametrize("status", [401, 404])
def test_a_name_that_the_hub_does_not_have(status, tmp_path, online):
    def reply(timeout):
        raise Answer(status)

    online(reply)
    with pytest.raises(ValueError, match=f"the Hugging Face hub has no data set '{NAME}'"):
        data.load(NAME, cache_dir=str(tmp_path))


def test_a_name_that_cannot_be_one(tmp_path, online):
    with pytest.raises(ValueError, match="has no data set 'what is this'"):
        data.load("what is this", cache_dir=str(tmp_path))


def test_the_libraries_are_offline_for_the_while_only():
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    with hub._offline():
        assert huggingface_hub.is_offline_mode() and datasets.config.HF_HUB_OFFLINE
    assert before == (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


def test_what_is_passed_on_when_the_hub_answers(tmp_path, online, monkeypatch):
    online(lambda timeout: None)
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return datasets.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert data.load(NAME + ":plain", "train[:10%]", cache_dir=str(tmp_path))["text"] == ["a"]
    options = {"split": "train[:10%]", "streaming": False, "cache_dir": str(tmp_path)}
    assert calls == [((NAME, "plain"), options)]


def test_a_data_set_in_the_cache_needs_no_hub(tmp_path):
    # What the library leaves behind after a download: cache/owner___name/config/version/hash/*.arrow.
    builder_dir = tmp_path / "nobody___no-such-data-set" / "default" / "0.0.0" / "0123456789abcdef"
    made = datasets.Dataset.from_dict({"text": ["a", "b"]})
    builder_dir.mkdir(parents=True)
    writer = datasets.arrow_writer.ArrowWriter(
        features=made.features, path=str(builder_dir / "no-such-data-set-train.arrow")
    )
    for row in made:
        writer.write(row)
    writer.finalize()
    split = datasets.SplitInfo("train", num_bytes=1, num_examples=2, dataset_name="no-such-data-set")
    info = datasets.DatasetInfo(
        features=made.features,
        splits=datasets.SplitDict({"train": split}, dataset_name="no-such-data-set"),
        builder_name="parquet",
        dataset_name="no-such-data-set",
        config_name="default",
        version="0.0.0",
    )
    info.write_to_directory(str(builder_dir))
    assert list(data.load(NAME, cache_dir=str(tmp_path))["text"]) == ["a", "b"]
    with pytest.raises(ValueError, match="got split 'dev'"):
        data.load(NAME, "dev", cache_dir=str(tmp_path))

"""Tokenizer classes: each setting has its effect in transformers, or is an error that names it."""

import inspect
import json

import pytest

for package in ("torch", "transformers"):  # before the imports of modules that need them
    pytest.importorskip(package)

from tests.pretrained.tasks.test_text_generation_parity import KINDS, files  # noqa: E402
from tests.pretrained.tokenizers.test_sentencepiece import trained  # noqa: E402, F401  - a fixture
from tests.pretrained.tokenizers.tokenizer_files import BUILT, TEXTS, write  # noqa: E402
from tfm_jax.pretrained.tokenizers.classes import CLASS_SETTINGS, CLASSES, COMMON_SETTINGS  # noqa: E402
from tfm_jax.pretrained.tokenizers.read import read_tokenizer  # noqa: E402
from tfm_jax.pretrained.tokenizers.tokenizer_config import read_tokenizer_config, truncation_side  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

NEW = {"content": "<new>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
# Other values of each key that any class of transformers uses.
VALUES = {
    "do_lower_case": [True, False],
    "strip_accents": [True, False],
    "tokenize_chinese_chars": [True, False],
    "add_prefix_space": [True, False],
    "trim_offsets": [False],
    "legacy": [True, False],
    "extra_ids": [100, 0, 7],
    "src_lang": ["ro_RO", "xx_XX"],
    "tgt_lang": ["de_DE"],
    "bos_token": ["</s>", "<bos2>", None],
    "eos_token": ["<s>", "<eos2>"],
    "unk_token": ["<unk2>", "</s>"],
    "sep_token": ["<sep2>", "[MASK]"],
    "cls_token": ["<cls2>", "<s>"],
    "pad_token": ["<pad2>", "</s>"],
    "mask_token": ["<new>", {"__type": "AddedToken", "special": True, **NEW}],
    "image_token": ["<image>"],
    "additional_special_tokens": [["<new>", "<image>"]],
    "extra_special_tokens": [["<new>"], {"image_token": "<image>"}],
    "added_tokens_decoder": [{}],
    "add_bos_token": [True, False],
    "add_eos_token": [True, False],
    "model_max_length": [7],
    "truncation_side": ["left"],
    "padding_side": ["left"],
    "clean_up_tokenization_spaces": [True],
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": [True],
    "split_special_tokens": [True],
    "fix_mistral_regex": [True],
    "fast_tokenizer_files": [["tokenizer.json"], ["tokenizer.9.0.0.json"]],
    "sp_model_kwargs": [{"enable_sampling": True}],
    "errors": ["ignore"],
    "use_default_system_prompt": [True],
    "spaces_between_special_tokens": [True],
    "do_basic_tokenize": [False],
    "never_split": [["dog"]],
    "pad_to_multiple_of": [8],
    "max_length": [4],
    "stride": [2],
    "tokenizer_class": ["PreTrainedTokenizerFast", "TokenizersBackend"],
}


def outcome(encode, decode, truncate):
    """Ids of texts and pairs, decoded texts, and truncated ids."""
    ids = encode(TEXTS)
    return {
        "ids": ids,
        "pairs": encode([(a, b) for a, b in zip(TEXTS, reversed(TEXTS), strict=True) if a and b]),
        "decoded": [decode(x) for x in ids],
        "truncated": truncate(TEXTS),
    }


def reference_outcome(transformers, directory):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def encode(texts):
        columns = [texts] if isinstance(texts[0], str) else [list(x) for x in zip(*texts, strict=True)]
        return tokenizer(*columns)["input_ids"]

    return outcome(
        encode,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        lambda texts: tokenizer(texts, truncation=True, max_length=5)["input_ids"],
    )


def our_outcome(directory):
    tokenizer = read_tokenizer(directory)

    def encode(texts):
        return [x.ids for x in tokenizer.encode_batch(texts)]

    def truncate(texts):
        side = truncation_side(directory, read_tokenizer_config(directory))
        tokenizer.enable_truncation(5, direction=side)
        ids = encode(texts)
        tokenizer.no_truncation()
        return ids

    return outcome(encode, lambda ids: tokenizer.decode(ids, skip_special_tokens=False), truncate)


def check_arguments(transformers, name):
    """Checks that VALUES has every argument of a class."""
    parameters = inspect.signature(getattr(transformers, name).__init__).parameters
    files = {"self", "vocab", "merges", "kwargs", "args", "_spm_precompiled_charsmap"}
    assert parameters.keys() - files <= VALUES.keys(), "the class has arguments that the test does not change"


FEW = ("bert", "roberta", "gpt2", "llama", "t5", "mbart", "bloom")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in BUILT]
)
def test_each_setting_is_supported_or_an_error(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    write(tmp_path, BUILT[name])
    path = tmp_path / "tokenizer_config.json"
    plain = json.loads(path.read_text())
    base = reference_outcome(transformers, tmp_path)
    assert our_outcome(tmp_path) == base
    check_arguments(transformers, BUILT[name].name)
    changed, supported, unsupported = 0, [], []
    for key, values in VALUES.items():
        for value in values:
            path.write_text(json.dumps(plain | {key: value}))
            try:
                wanted = reference_outcome(transformers, tmp_path)
            except Exception:  # not a setting of this class
                continue
            changed += wanted != base
            try:
                got = our_outcome(tmp_path)
            except ValueError as error:
                assert key in str(error) or str(value) in str(error), error
                unsupported.append(key)
                continue
            for what in wanted:
                assert got[what] == wanted[what], (key, value, what)
            supported += [key] * (wanted != base)
    print(f"{name}: {changed} changed, supported {sorted(set(supported))}, errors for {unsupported}")
    known = {*COMMON_SETTINGS, "tokenizer_class", "image_token", "fast_tokenizer_files"}
    assert set(supported) <= known | {*CLASS_SETTINGS}
    assert supported and set(unsupported) <= {"split_special_tokens", "fix_mistral_regex", "src_lang", *known}


@pytest.mark.parametrize("name", ["bert", "roberta", "qwen2", "t5", "mbart", "bloom"])
def test_config_files_of_older_versions(tmp_path, name):
    """special_tokens_map.json and added_tokens.json, which an added_tokens_decoder overrides."""
    transformers = pytest.importorskip("transformers")
    reference = write(tmp_path, BUILT[name])
    path = tmp_path / "tokenizer_config.json"
    plain = json.loads(path.read_text())
    base = reference_outcome(transformers, tmp_path)
    n = len(reference)
    special = {
        "pad_token": "<pad2>",
        "mask_token": {**NEW, "normalized": True},
        "sep_token": {"content": "dog"},
    }
    special |= {"additional_special_tokens": ["<image>"]}

    def write_json(name, value):
        (tmp_path / name).write_text(json.dumps(value))

    write_json("special_tokens_map.json", special)
    assert (wanted := reference_outcome(transformers, tmp_path)) != base and our_outcome(tmp_path) == wanted
    write_json("added_tokens.json", {"<image>": n, "quick": n + 1})
    assert (more := reference_outcome(transformers, tmp_path)) != wanted and our_outcome(tmp_path) == more
    added = {str(i): token.__getstate__() for i, token in reference.added_tokens_decoder.items()}
    added[str(n)] = {**NEW, "special": True}
    write_json("tokenizer_config.json", plain | {"added_tokens_decoder": added})
    assert (last := reference_outcome(transformers, tmp_path)) != more and our_outcome(tmp_path) == last


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "bloom"])
def test_truncation_and_padding_in_a_tokenizer_json(tmp_path, name):
    """The truncation side and a pad token are read from it."""
    transformers = pytest.importorskip("transformers")
    write(tmp_path, BUILT[name])
    base = reference_outcome(transformers, tmp_path)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    state["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    state["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    state["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad2>"}
    path.write_text(json.dumps(state))
    assert (wanted := reference_outcome(transformers, tmp_path)) != base and our_outcome(tmp_path) == wanted


@pytest.mark.parametrize("name", ["t5", "mbart", "mbart50", "llama", "marian"])
def test_sentencepiece_models_saved_by_transformers(tmp_path, trained, name):  # noqa: F811
    """With charsmaps. transformers does not read a Marian's tokenizer.json."""
    transformers = pytest.importorskip("transformers")
    _, directory = files(tmp_path, KINDS[name], trained, "written")
    model_type = getattr(transformers, KINDS[name].case.config).model_type
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    if name == "marian":
        write(tmp_path / "other", BUILT["t5"])
        (tmp_path / "other" / "tokenizer.json").rename(directory / "tokenizer.json")
    reference, loaded = transformers.AutoTokenizer.from_pretrained(directory), read_tokenizer(directory)
    texts = TEXTS if name != "marian" else [text for text in TEXTS if "<" not in text and "ｆ" not in text]
    for text in texts:
        assert loaded.encode(text).ids == reference(text)["input_ids"], text


def test_a_tokenizer_json_without_a_config_is_used_as_it_is(tmp_path):
    """As version 0.1 saved it."""
    reference = write(tmp_path, BUILT["bert, cased"])
    (tmp_path / "tokenizer_config.json").unlink()
    assert [x.ids for x in read_tokenizer(tmp_path).encode_batch(TEXTS)] == reference(TEXTS)["input_ids"]


def test_the_tables_name_known_keys_and_classes():
    assert set(CLASS_SETTINGS) | set(COMMON_SETTINGS) <= VALUES.keys() | {"model_input_names"}
    assert {kind for kinds in CLASS_SETTINGS.values() for kind in kinds} <= CLASSES.keys()

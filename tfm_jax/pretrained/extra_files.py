"""Files of a checkpoint beside its weights: what is kept of them from loading to saving."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path

from tfm_jax.pretrained.weights.files import read_json

__all__ = ["is_of_tokenizer", "read_files", "unkept", "write_files"]

_OF_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm"),
)
_OTHERS = (
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)
_WRITTEN = ("config.json", "generation_config.json", "*.index.json")
_TEXTS = ("*.json", "*.txt", "*.md", "*.jinja", "*.model", "*.spm", "LICENSE*", "NOTICE*")
_WEIGHTS = ("*.safetensors", "*.msgpack", "*.h5", "*.onnx", "*.ot", "*.gguf", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS += ("pytorch_model*.bin", "*/pytorch_model*.bin", "model_*.bin")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_of_tokenizer(name: str) -> bool:
    """Whether a file, by its path within a checkpoint, is a tokenizer's."""
    return _matches(name, _OF_TOKENIZER)


def read_files(directory: Path) -> dict[str, bytes]:
    """The files of a checkpoint that ``save`` writes as they are.

    Args:
      directory: of the checkpoint.

    Returns:
      What is in each, by its path within the directory: the tokenizer's files, chat templates, the modules of
      sentence-transformers with their folders, and processors' settings.
    """
    root = Path(directory)
    found = [path for pattern in (*_OF_TOKENIZER, *_OTHERS) for path in root.glob(pattern)]
    found += [path for folder in _modules(directory) for path in (root / folder).glob("*")]
    names = [path.relative_to(root).as_posix() for path in found if path.is_file()]
    return {name: (directory / name).read_bytes() for name in names}


def _modules(directory: Path) -> list[Path]:
    """The folders of a sentence model's steps, without that of its encoder."""
    path = directory / "modules.json"
    steps = read_json(path, list) if path.is_file() else []
    names = [Path(str(step.get("path", ""))) for step in steps[1:] if isinstance(step, dict)]
    return [name for name in names if name.parts and not name.is_absolute() and ".." not in name.parts]


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their paths within a directory."""
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


def unkept(directory: Path, kept: Mapping[str, bytes]) -> tuple[list[Path], list[str]]:
    """The other files of a checkpoint that are not weights.

    Args:
      directory: of the checkpoint.
      kept: of ``read_files``.

    Returns:
      Paths of texts and of settings, within the directory, and the names of those that are neither.
    """
    texts, others = [], []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or not path.is_file() or _matches(name.as_posix(), _WEIGHTS) or name.as_posix() in kept:
            continue
        if not _matches(name.as_posix(), _WRITTEN):
            (texts if _matches(name.name, _TEXTS) else others).append(name)
    return texts, [name.as_posix() for name in others]

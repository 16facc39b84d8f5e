"""Files of a checkpoint other than weights and configs: tokenizer, chat templates, processors."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path

from tfm_jax.pretrained.weights.files import Directory, read_json

__all__ = ["find_other_files", "is_tokenizer_file", "read_extra_files", "write_files"]

_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm"),
)
_PROCESSORS = (
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)
# ``save`` writes these from the model.
_WRITTEN = ("config.json", "generation_config.json", "*.index.json")
_TEXTS = ("*.json", "*.txt", "*.md", "*.jinja", "*.model", "*.spm", "LICENSE*", "NOTICE*")
_WEIGHTS = ("*.safetensors", "*.msgpack", "*.h5", "*.onnx", "*.ot", "*.gguf", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS += ("pytorch_model*.bin", "*/pytorch_model*.bin", "model_*.bin")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file, given by its path within a checkpoint, belongs to the tokenizer."""
    return _matches(name, _TOKENIZER)


def read_extra_files(directory: Directory) -> dict[str, bytes]:
    """Reads the files of a checkpoint that ``save`` writes back unchanged.

    Args:
      directory: of the checkpoint.

    Returns:
      Contents by path within the directory: the tokenizer's files, chat templates, processor configs, and the
      modules of a sentence-transformers model with their folders.
    """
    root = Path(directory)
    paths = [path for pattern in (*_TOKENIZER, *_PROCESSORS) for path in root.glob(pattern)]
    paths += [path for folder in _module_folders(directory) for path in (root / folder).glob("*")]
    names = [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    return {name: (directory / name).read_bytes() for name in names}


def _module_folders(directory: Directory) -> list[Path]:
    """Folders of a sentence model's modules, without the first, its encoder."""
    path = directory / "modules.json"
    modules = read_json(path, list) if path.is_file() else []
    names = [Path(str(module.get("path", ""))) for module in modules[1:] if isinstance(module, dict)]
    return [name for name in names if name.parts and not name.is_absolute() and ".." not in name.parts]


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their paths within a directory."""
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


def find_other_files(directory: Path, kept: Mapping[str, bytes]) -> tuple[list[Path], list[str]]:
    """Finds the files of a checkpoint that are neither weights nor kept.

    Args:
      directory: of the checkpoint.
      kept: from ``read_extra_files``.

    Returns:
      Paths of text and config files, within the directory, and the names of all others. Hidden files and
      those that ``save`` writes are left out.
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

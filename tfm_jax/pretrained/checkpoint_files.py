"""The files of a checkpoint directory, each opened and parsed once."""

import functools
import io
import json
from pathlib import Path

import tokenizers

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.read import read_tokenizer
from tfm_jax.pretrained.tokenizers.tokenizer_config import read_tokenizer_config
from tfm_jax.pretrained.weights.files import Weights, checkpoint_directory, open_weights, read_json

__all__ = ["CheckpointFile", "CheckpointFiles"]


class CheckpointFile:
    """A file of a checkpoint that is read and parsed once; a ``weights.files.File``.

    Args:
      parent: the directory.
      name: the name of the file.
    """

    def __init__(self, parent: "CheckpointFiles", name: str):
        self.parent, self.name = parent, name
        self._path = parent.directory / name

    def __fspath__(self) -> str:
        return str(self._path)

    __str__ = __fspath__

    def is_file(self) -> bool:
        """Whether the file exists."""
        return self._path.is_file()

    def with_name(self, name: str) -> "CheckpointFile":
        """Another file of the same directory."""
        return self.parent / name

    @functools.cached_property
    def _bytes(self) -> bytes:
        return self._path.read_bytes()

    def read_bytes(self) -> bytes:
        """The contents."""
        return self._bytes

    def read_text(self, encoding: str = "utf-8") -> str:
        """The contents as text, with line ends as ``pathlib.Path.read_text`` has them."""
        return io.StringIO(self._bytes.decode(encoding), newline=None).getvalue()

    @functools.cached_property
    def _json(self) -> object:
        return json.loads(self.read_text())

    def read_json(self) -> object:
        """The value in a JSON file; one object for all callers, which they do not change."""
        return self._json


class CheckpointFiles:
    """A checkpoint directory: its configs, tokenizer and weights, each read once, when it is first used.

    ``files / "vocab.txt"`` is the same ``CheckpointFile`` at each use.

    Args:
      directory: of the checkpoint.
      allow_pickle: read ``pytorch_model.bin`` where there are no other weights; this needs torch.
    """

    def __init__(self, directory: Path, *, allow_pickle: bool = False):
        self.directory, self.allow_pickle = Path(directory), allow_pickle
        self._files: dict[str, CheckpointFile] = {}
        self._folders: dict[str, CheckpointFiles] = {}

    @classmethod
    def find(cls, path_or_repo_id: str | Path, *, allow_pickle: bool = False) -> "CheckpointFiles":
        """The files of a directory, or of a repository on the hub, as ``checkpoint_directory`` finds it."""
        directory = checkpoint_directory(path_or_repo_id, allow_pickle=allow_pickle)
        return cls(directory, allow_pickle=allow_pickle)

    def __fspath__(self) -> str:
        return str(self.directory)

    __str__ = __fspath__

    def __truediv__(self, name: str) -> CheckpointFile:
        folder, _, name = name.rpartition("/")
        if folder:
            return self.folder(folder) / name
        return self._files.setdefault(name, CheckpointFile(self, name))

    def folder(self, name: str) -> "CheckpointFiles":
        """The files of a folder; this directory itself for an empty name."""
        if self.directory / name == self.directory:
            return self
        made = CheckpointFiles(self.directory / name, allow_pickle=self.allow_pickle)
        return self._folders.setdefault(name, made)

    @property
    def config(self) -> Settings:
        """The parsed ``config.json``; an error where there is none."""
        return read_json(self / "config.json")

    @property
    def generation_config(self) -> Settings:
        """The parsed ``generation_config.json``; empty where there is none."""
        file = self / "generation_config.json"
        return read_json(file) if file.is_file() else {}

    @functools.cached_property
    def tokenizer_config(self) -> Settings:
        """The settings of ``tokenizer_config.json`` and ``special_tokens_map.json``."""
        return read_tokenizer_config(self)

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer | None:
        """The tokenizer; None where there is none."""
        return read_tokenizer(self)

    @functools.cached_property
    def weights(self) -> Weights:
        """The weights, opened; each tensor is read from its file when it is used."""
        return open_weights(self.directory, allow_pickle=self.allow_pickle)

"""Tokenizers: bytes, characters, a trained byte-level BPE, or any ``tokenizer.json``.

Ids 0, 1 and 2 of the tokenizers made here are padding, BOS and EOS; id 3 is an unknown character if there can
be one. Text never encodes to ids 0 to 2: ``"<pad>"`` is five characters. Nothing is normalized: composed and
decomposed accents (NFC, NFD) are different texts, and ``decode(encode(text)) == text``. Normalize a corpus
that mixes the two before tokenizing.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tfm_jax.checks import as_texts, iter_texts

__all__ = [
    "ByteTokenizer",
    "JsonTokenizer",
    "char_tokenizer",
    "load_tokenizer",
    "train_bpe",
    "with_special_tokens",
]

_SPECIAL = {"pad": "<pad>", "bos": "<bos>", "eos": "<eos>"}
_UNKNOWN = "<unk>"
# The names that files of other projects use, most specific first.
_USUAL_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "[BOS]", "[CLS]", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("<eos>", "</s>", "[EOS]", "[SEP]", "<|end_of_text|>", "<|endoftext|>"),
}
_BYTE_IDS = len(_SPECIAL) + 256


class JsonTokenizer:
    """A tokenizer of the ``tokenizers`` library, the content of a ``tokenizer.json``.

    Args:
      backend: the library's tokenizer. Truncation and padding of its file are switched off: the functions
        that make examples do both, and count what they drop.
      pad, bos, eos: the special tokens, as text; None looks for the usual names.

    Raises:
      ValueError: a named special token is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        pad: str | None = None,
        bos: str | None = None,
        eos: str | None = None,
    ):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        # The largest id, not the number of tokens: some vocabularies have gaps.
        self.vocab_size = max(backend.get_vocab().values(), default=-1) + 1
        self.pad_id = self._special_id("pad", pad)
        self.bos_id = self._special_id("bos", bos)
        self.eos_id = self._special_id("eos", eos)
        model = json.loads(backend.to_str())["model"]
        unknown = model.get("unk_token")
        self.unk_id = model.get("unk_id") if unknown is None else backend.token_to_id(unknown)

    def _special_id(self, role: str, token: str | None) -> int | None:
        if token is not None and self.backend.token_to_id(token) is None:
            raise ValueError(
                f"load_tokenizer: got {role}={token!r}; wanted one of the {self.vocab_size} tokens of the "
                f"vocabulary. Name one: load_tokenizer(path, {role}='...')."
            )
        names = _USUAL_NAMES[role] if token is None else (token,)
        return next((i for i in map(self.backend.token_to_id, names) if i is not None), None)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32, without special tokens."""
        texts = as_texts("encode_batch", "texts", texts)
        for text in texts:
            text.encode()  # names a lone surrogate; the library only says that the text is no str
        ids = []
        # An Encoding takes some 100 bytes per token, so few are kept at a time.
        for start in range(0, len(texts), 256):
            chunk = texts[start : start + 256]
            encodings = self.backend.encode_batch_fast(chunk, add_special_tokens=False)
            ids += [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, without padding, BOS and EOS.

        Raises:
          ValueError: an id is out of range.
        """
        ids = np.asarray(ids, np.int64).reshape(-1).tolist()
        if bad := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(
                f"decode: got token id {bad[0]}; wanted 0 to {self.vocab_size - 1}. Use the tokenizer that "
                "made the ids."
            )
        special = {self.pad_id, self.bos_id, self.eos_id}
        return self.backend.decode([i for i in ids if i not in special], skip_special_tokens=True)

    def save(self, path: str | Path) -> Path:
        """Writes the ``tokenizer.json``, or one in the directory ``path``; returns its path."""
        path = _json_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(path))
        return path


class ByteTokenizer(JsonTokenizer):
    """One id per UTF-8 byte: 259 ids, no training, no unknown characters.

    Its ``tokenizer.json`` is a byte-level BPE without merges, which other libraries read.

    Equivalent to::

        encode(text) == [byte + 3 for byte in text.encode()]
        decode(ids) == bytes(id - 3 for id in ids if id >= 3).decode(errors="replace")
    """

    def __init__(self):
        super().__init__(tokenizers.Tokenizer.from_str(_byte_level_json()))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32; those of the backend, 100 times as fast."""
        checked = iter_texts("encode_batch", "texts", texts)
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + len(_SPECIAL) for text in checked]


def char_tokenizer(texts: Iterable[str]) -> JsonTokenizer:
    """Character-level tokenizer with one id per character (code point) of the texts.

    Equivalent to::

        ids = {c: i for i, c in enumerate(sorted(set("".join(texts))), start=4)}
        encode(text) == [ids.get(c, 3) for c in text]

    Args:
      texts: the texts to take the characters from, or one text.

    Returns:
      The tokenizer. An unseen character is ``unk_id``, 3, and decodes to ``<unk>``.

    Raises:
      ValueError: the texts have no characters.
    """
    texts = [texts] if isinstance(texts, str) else texts
    characters = sorted(set().union(*iter_texts("char_tokenizer", "texts", texts)))
    if not characters:
        raise ValueError(
            "char_tokenizer: got no characters; wanted a vocabulary. Pass texts that are not empty."
        )
    vocab = {token: i for i, token in enumerate([*_SPECIAL.values(), _UNKNOWN, *characters])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(_SPECIAL.values()))
    return JsonTokenizer(backend)


def train_bpe(texts: Iterable[str], vocab_size: int = 8000, *, progress: bool = False) -> JsonTokenizer:
    """Trains a byte-level byte-pair encoding, which is lossless for any text.

    Args:
      texts: the texts to learn the merges from.
      vocab_size: the wanted number of ids, at least 259 (three special ones and the bytes).
      progress: show a progress bar.

    Returns:
      The tokenizer; its vocabulary is smaller than ``vocab_size`` if the texts have fewer merges.

    Raises:
      ValueError: ``vocab_size`` is too small.

    Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2.
    """
    if vocab_size < _BYTE_IDS:
        raise ValueError(
            f"train_bpe: got vocab_size={vocab_size}; wanted at least {_BYTE_IDS} (3 special tokens and 256 "
            "bytes). For fewer ids use char_tokenizer."
        )
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(iter_texts("train_bpe", "texts", texts), trainer)
    return JsonTokenizer(backend)


def load_tokenizer(
    path: str | Path, *, pad: str | None = None, bos: str | None = None, eos: str | None = None
) -> JsonTokenizer:
    """Loads a ``tokenizer.json``, whether ``save`` or another library wrote it.

    Args:
      path: the file, or the directory that holds a ``tokenizer.json``. Beside files of other libraries, the
        special tokens are those of ``special_tokens_map.json`` or ``tokenizer_config.json``.
      pad, bos, eos: the special tokens, as text, if they are not under the usual names.

    Returns:
      A `ByteTokenizer` if the file is that of one, otherwise a `JsonTokenizer`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a tokenizer, or a named token is not in it.
    """
    path = _json_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"load_tokenizer: got {path}, which does not exist; wanted a tokenizer.json or its directory. "
            "Check the path."
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{path}: got {error}; wanted a tokenizer.json. Replace it.") from error
    if json.loads(backend.to_str()) == json.loads(_byte_level_json()):
        return ByteTokenizer()
    named = {"pad": pad, "bos": bos, "eos": eos}
    for role, token in _declared_tokens(path.parent).items():
        if named[role] is None and backend.token_to_id(token) is not None:
            named[role] = token
    return JsonTokenizer(backend, **named)


def with_special_tokens(tokenizer: JsonTokenizer) -> tokenizers.Tokenizer:
    """A copy of a tokenizer's backend whose post-processor adds the special tokens.

    Equivalent to::

        [bos, *text, eos]                        # token types 0
        [bos, *first, eos, *second, eos]         # of a pair: the second text and its EOS have type 1

    Args:
      tokenizer: with a post-processor that adds special tokens, which is kept; or with BOS and EOS, or one of
        them, or none, which adds nothing.

    Returns:
      The backend, without truncation and padding, as other libraries and `pretrained` use it.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    if backend.num_special_tokens_to_add(False) > 0:
        return backend
    ids = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    if not ids:
        return backend
    special = [(str(backend.id_to_token(i)), i) for i in ids]
    bos = [] if tokenizer.bos_id is None else [special[0][0]]
    eos = [] if tokenizer.eos_id is None else [special[-1][0]]
    template = processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[*bos, "$A", *eos, "$B:1", *(f"{token}:1" for token in eos)],
        special_tokens=special,
    )
    before = backend.post_processor  # such as one that trims offsets
    backend.post_processor = template if before is None else processors.Sequence([before, template])
    return backend


def _declared_tokens(directory: Path) -> dict[str, str]:
    """Special tokens that the files beside a tokenizer.json name."""
    declared: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            declared |= json.loads((directory / name).read_text(encoding="utf-8"))
    tokens = {}
    for role, fallback in (("pad", None), ("bos", "cls"), ("eos", "sep")):
        token = declared.get(f"{role}_token") or declared.get(f"{fallback}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            tokens[role] = token
    return tokens


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


@functools.cache
def _byte_level_json() -> str:
    """The tokenizer.json of `ByteTokenizer`: a byte-level BPE without merges."""
    # Printable characters represent their own byte; code points from 256 on represent the other bytes.
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    characters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    vocab = {token: i for i, token in enumerate([*_SPECIAL.values(), *characters])}
    backend = _byte_level(models.BPE(vocab=vocab, merges=[]))
    backend.add_special_tokens(list(_SPECIAL.values()))
    return backend.to_str()


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / "tokenizer.json"

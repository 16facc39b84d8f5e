"""Text to token ids and back: bytes, characters, a trained BPE, or any ``tokenizer.json``.

Ids 0, 1 and 2 of the tokenizers made here are padding, begin and end of sequence; 3 stands for an unknown
character where there can be one. Text never encodes to the first three, whatever it says: ``"<pad>"`` is five
characters. Nothing is normalised: composed and decomposed accents (NFC, NFD) are different text, and
``decode(encode(text)) == text``; a corpus that mixes the two is better brought to NFC before it comes here.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tfm_jax.checks import as_texts, iter_texts

__all__ = ["ByteTokenizer", "JsonTokenizer", "Tokenizer", "char_tokenizer", "load_tokenizer", "train_bpe"]

SPECIAL = {"pad": "<pad>", "bos": "<bos>", "eos": "<eos>"}
UNKNOWN = "<unk>"
# The names that other people's files use, most specific first.
FOREIGN = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "[BOS]", "[CLS]", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("<eos>", "</s>", "[EOS]", "[SEP]", "<|end_of_text|>", "<|endoftext|>"),
}


@runtime_checkable
class Tokenizer(Protocol):
    """What the pipeline asks of a tokenizer.

    A special id is None where a foreign tokenizer has no such token. ``encode`` adds no special tokens, and
    ``decode`` leaves padding, begin and end out.
    """

    vocab_size: int
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def save(self, path: str | Path) -> Path: ...


class ByteTokenizer:
    """One id for each UTF-8 byte: 259 ids, nothing to train, nothing unknown.

    Equivalent to::

        encode = lambda text: [byte + 3 for byte in text.encode()]
        decode = lambda ids: bytes(id - 3 for id in ids if id >= 3).decode(errors="replace")
    """

    vocab_size, pad_id, bos_id, eos_id, unk_id = 259, 0, 1, 2, None

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        texts = iter_texts("encode_batch", "texts", texts)
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 3 for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        ids = _checked_ids(ids, self.vocab_size)
        return bytes(i - 3 for i in ids if i >= 3).decode(errors="replace")

    def save(self, path: str | Path) -> Path:
        return JsonTokenizer(_byte_backend()).save(path)


class JsonTokenizer:
    """A tokenizer of the ``tokenizers`` library, the content of a ``tokenizer.json``.

    Args:
        backend: the library's tokenizer. Truncation and padding that its file asks for are switched off: rows
            are cut and padded where that is counted.
        pad, bos, eos: the text of the special tokens; None looks for the usual names.

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
        # The largest id counts, not the number of tokens: foreign vocabularies have gaps.
        self.vocab_size = max(backend.get_vocab().values(), default=-1) + 1
        self.pad_id = self._find("pad", pad)
        self.bos_id = self._find("bos", bos)
        self.eos_id = self._find("eos", eos)
        model = json.loads(backend.to_str())["model"]
        unknown = model.get("unk_token")
        self.unk_id = model.get("unk_id") if unknown is None else backend.token_to_id(unknown)

    def _find(self, role: str, token: str | None) -> int | None:
        if token is not None and self.backend.token_to_id(token) is None:
            raise ValueError(
                f"the {role} token {token!r} is not in the tokenizer's vocabulary of {self.vocab_size}; "
                f"name one that is: load_tokenizer(path, {role}='...')"
            )
        names = FOREIGN[role] if token is None else (token,)
        return next((i for i in map(self.backend.token_to_id, names) if i is not None), None)

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        texts = as_texts("encode_batch", "texts", texts)
        for text in texts:
            text.encode()  # the library calls a lone surrogate "not a str"; this says where it is
        ids = []
        for start in range(
            0, len(texts), 256
        ):  # an Encoding takes some 100 bytes a token: never keep them all
            chunk = texts[start : start + 256]
            encodings = self.backend.encode_batch_fast(chunk, add_special_tokens=False)
            ids += [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        ids = _checked_ids(ids, self.vocab_size)
        special = {self.pad_id, self.bos_id, self.eos_id}
        return self.backend.decode([i for i in ids if i not in special], skip_special_tokens=True)

    def save(self, path: str | Path) -> Path:
        path = _json_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(path))
        return path


def char_tokenizer(texts: Iterable[str]) -> JsonTokenizer:
    """A tokenizer with one id for each character (code point) that occurs in the texts.

    Equivalent to::

        ids = {c: i for i, c in enumerate(sorted(set("".join(texts))), start=4)}
        encode = lambda text: [ids.get(c, 3) for c in text]

    Args:
        texts: the texts to take the characters from; one text will do.

    Returns:
        The tokenizer. A character that it has not seen is ``unk_id``, 3, and decodes to ``<unk>``.

    Raises:
        ValueError: there is no character in the texts.
    """
    texts = [texts] if isinstance(texts, str) else texts
    characters = sorted(set().union(*iter_texts("char_tokenizer", "texts", texts)))
    if not characters:
        raise ValueError("cannot make a character vocabulary from no text; pass texts that are not empty")
    vocab = {token: i for i, token in enumerate([*SPECIAL.values(), UNKNOWN, *characters])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SPECIAL.values()))
    return JsonTokenizer(backend)


def train_bpe(texts: Iterable[str], vocab_size: int = 8000, *, progress: bool = False) -> JsonTokenizer:
    """Train a byte-level byte-pair encoding: any text can be encoded, and comes back exactly.

    Args:
        texts: the texts to learn the merges from.
        vocab_size: the wanted number of ids, at least 259 (three special ones and the bytes).
        progress: show a progress bar.

    Returns:
        The tokenizer; its vocabulary is smaller than asked where the texts offer no more merges.

    Raises:
        ValueError: ``vocab_size`` is too small.

    Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2.
    """
    if vocab_size < ByteTokenizer.vocab_size:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: a byte-level BPE wants at least 259 ids "
            "(3 special tokens and 256 bytes); for fewer use char_tokenizer"
        )
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(iter_texts("train_bpe", "texts", texts), trainer)
    return JsonTokenizer(backend)


def load_tokenizer(
    path: str | Path, *, pad: str | None = None, bos: str | None = None, eos: str | None = None
) -> Tokenizer:
    """Load a tokenizer that ``save`` wrote, or anybody's ``tokenizer.json``.

    Args:
        path: the file, or the directory that holds a ``tokenizer.json``. In a foreign directory the special
            tokens are read from ``special_tokens_map.json`` or ``tokenizer_config.json``.
        pad, bos, eos: the text of the special tokens, where the usual names are not the right ones.

    Returns:
        A `ByteTokenizer` if the file is one, else a `JsonTokenizer`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a tokenizer, or a named token is not in it.
    """
    path = _json_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer at {path}; pass a tokenizer.json or its directory")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    if json.loads(backend.to_str()) == json.loads(_byte_backend().to_str()):
        return ByteTokenizer()
    named = {"pad": pad, "bos": bos, "eos": eos}
    for role, token in _declared_tokens(path.parent).items():
        if named[role] is None and backend.token_to_id(token) is not None:
            named[role] = token
    return JsonTokenizer(backend, **named)


def _declared_tokens(directory: Path) -> dict[str, str]:
    """The special tokens that the files beside a foreign tokenizer.json name."""
    declared: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            declared |= json.loads((directory / name).read_text(encoding="utf-8"))
    found = {}
    for role, fallback in (("pad", None), ("bos", "cls"), ("eos", "sep")):
        token = declared.get(f"{role}_token") or declared.get(f"{fallback}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            found[role] = token
    return found


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_backend() -> tokenizers.Tokenizer:
    """The byte tokenizer as a byte-level BPE without merges: other libraries can read the file, too."""
    # The printable characters stand for themselves, the other bytes for the code points from 256 on.
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    characters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    vocab = {token: i for i, token in enumerate([*SPECIAL.values(), *characters])}
    backend = _byte_level(models.BPE(vocab=vocab, merges=[]))
    backend.add_special_tokens(list(SPECIAL.values()))
    return backend


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / "tokenizer.json"


def _checked_ids(ids: Sequence[int], vocab_size: int) -> list[int]:
    ids = np.asarray(ids, np.int64).reshape(-1).tolist()
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(f"token id {i} is out of range: this tokenizer's ids are 0 to {vocab_size - 1}")
    return ids

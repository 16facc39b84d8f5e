"""The tokenizer of a checkpoint, by the ``tokenizers`` library."""

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tfm_jax.pretrained.files import read_json

__all__ = ["read_tokenizer"]

_SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm")


def read_tokenizer(directory: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of ``tokenizer.json``, or of a ``vocab.txt`` of word pieces; None where there is none.

    Args:
      directory: of the checkpoint.

    Returns:
      The tokenizer, or None.

    Raises:
      ValueError: for a file that is no tokenizer, and where there is a model of sentencepiece alone.
    """
    path = directory / "tokenizer.json"
    if path.is_file():
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
        # How the file asks for texts to be cut and padded is of the run that made it.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if (directory / "vocab.txt").is_file():
        return _word_pieces(directory)
    if found := [name for name in _SENTENCEPIECE if (directory / name).is_file()]:
        raise ValueError(
            f"the tokenizer in {directory} is a model of sentencepiece, {found[0]}: make a tokenizer.json of "
            "it (transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)), or load the model "
            "without, by tokenizer=False"
        )
    return None


def _word_pieces(directory: Path) -> tokenizers.Tokenizer:
    """BERT's: words cut into pieces of a vocabulary, between [CLS] and [SEP]."""
    path = directory / "tokenizer_config.json"
    options = read_json(path) if path.is_file() else {}
    lines = (directory / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocabulary = {line: i for i, line in enumerate(lines)}
    roles = ("UNK", "CLS", "SEP", "PAD", "MASK")
    special = {role: options.get(f"{role.lower()}_token", f"[{role}]") for role in roles}
    if missing := [token for token in special.values() if token not in vocabulary]:
        raise ValueError(f"{directory / 'vocab.txt'} has no {', '.join(missing)}")
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=special["UNK"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(special.values()))
    at = lambda role: (special[role], vocabulary[special[role]])
    tokenizer.post_processor = processors.BertProcessing(at("SEP"), at("CLS"))
    return tokenizer

"""Tokenizers of checkpoints: ``tokenizer.json``, BPE, WordPiece and SentencePiece, read and written."""

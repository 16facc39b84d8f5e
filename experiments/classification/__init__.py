"""Text classification: an encoder trained from scratch, or fine-tuned."""

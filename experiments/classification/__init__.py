"""Texts into classes: an encoder trained from scratch, or fine-tuned."""

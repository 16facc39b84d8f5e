"""Checkpoints for a task: text generation, text classification, sentence embedding, image preprocessing."""

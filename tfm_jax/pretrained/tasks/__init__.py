"""Checkpoints for a task: text generation, classification of texts and images, sentence embedding."""

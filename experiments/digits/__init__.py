"""Alias of ``experiments.images``, whose default data are handwritten digits."""

"""Alias of ``experiments.images``, whose default data are the digits."""

"""Experiments: each trains a Transformer on real data by one command, ``python -m experiments.<name>``."""

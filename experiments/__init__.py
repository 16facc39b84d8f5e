"""Experiments: each trains a Transformer on real input from one command, ``python -m experiments.<name>``."""

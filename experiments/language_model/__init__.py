"""Language modelling with a decoder-only Transformer, on Python's standard library or any texts."""

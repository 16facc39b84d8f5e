"""Language model: a decoder alone, on the source of the standard library or on any texts."""

"""Machine translation with an encoder-decoder, on dates in twelve languages or any parallel text."""

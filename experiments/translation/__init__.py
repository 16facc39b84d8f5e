"""Translation: an encoder-decoder, on dates in twelve languages or on any parallel text."""

"""Image classification: a Transformer encoder over patches, on handwritten digits or any images."""

"""Checkpoints of Hugging Face transformers, in and out, without torch."""

from tfm_jax.pretrained.classify import (
    Label,
    TextClassifier,
    TokenClassifier,
    TokenLabel,
    load_text_classifier,
)
from tfm_jax.pretrained.config import Config
from tfm_jax.pretrained.generation import recipe_of
from tfm_jax.pretrained.hub import HubUnavailableError
from tfm_jax.pretrained.images import ImageProcessor, load_image_processor
from tfm_jax.pretrained.load import load
from tfm_jax.pretrained.save import save
from tfm_jax.pretrained.sentences import SentenceEncoder, load_sentence_encoder
from tfm_jax.pretrained.text import load_text_generator
from tfm_jax.pretrained.torch_transformer import from_torch_transformer

__all__ = [
    "Config",
    "HubUnavailableError",
    "ImageProcessor",
    "Label",
    "SentenceEncoder",
    "TextClassifier",
    "TokenClassifier",
    "TokenLabel",
    "from_torch_transformer",
    "load",
    "load_image_processor",
    "load_sentence_encoder",
    "load_text_classifier",
    "load_text_generator",
    "recipe_of",
    "save",
]

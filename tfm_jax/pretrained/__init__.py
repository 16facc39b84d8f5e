"""Checkpoints of Hugging Face transformers, in and out, without torch."""

from tfm_jax.hub import HubUnavailableError
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.pretrained.generation_config import to_generation_config
from tfm_jax.pretrained.load import load
from tfm_jax.pretrained.save import save
from tfm_jax.pretrained.tasks.image_classification import ImageClassifier, load_image_classifier
from tfm_jax.pretrained.tasks.image_processor import ImageProcessor, load_image_processor
from tfm_jax.pretrained.tasks.sentence_embedding import SentenceEncoder, load_sentence_encoder
from tfm_jax.pretrained.tasks.text_classification import (
    TextClassifier,
    TokenClassifier,
    load_text_classifier,
)
from tfm_jax.pretrained.tasks.text_generation import load_text_generator
from tfm_jax.pretrained.to_checkpoint import to_checkpoint
from tfm_jax.pretrained.torch_transformer import from_torch_transformer

__all__ = [
    "CheckpointConfig",
    "HubUnavailableError",
    "ImageClassifier",
    "ImageProcessor",
    "SentenceEncoder",
    "TextClassifier",
    "TokenClassifier",
    "from_torch_transformer",
    "load",
    "load_image_classifier",
    "load_image_processor",
    "load_sentence_encoder",
    "load_text_classifier",
    "load_text_generator",
    "save",
    "to_checkpoint",
    "to_generation_config",
]

"""Classification of images with a checkpoint."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union

import jax
import numpy as np
from jax.sharding import Mesh

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.families import find_architecture, labels_of
from tfm_jax.pretrained.load import load_files
from tfm_jax.pretrained.tasks.batch_runner import SlicedBatches, check_batch_size, map_slices, replicated
from tfm_jax.pretrained.tasks.image_processor import ImageProcessor, load_image_processor
from tfm_jax.pretrained.tasks.labels import SCORES, Label, Scoring, best, scoring_of
from tfm_jax.types import Array, Params

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["ImageClassifier", "load_image_classifier"]

_Picture = Union[str, Path, np.ndarray, "PIL.Image.Image"]
"""The path of an image file, an image of Pillow, or an array uint8 [H, W, C]."""


@dataclass(frozen=True, eq=False)
class ImageClassifier:
    """An image classifier with its preprocessing and labels.

    Equivalent to::

        scores = softmax(model.apply(params, processor(image)))        # or sigmoid, or the logits
        Label(labels[scores.argmax()], scores.max(), scores)

    Args:
      model, params: of an ``nn.Classifier`` with ``nn.Patches``.
      processor: the preprocessing; it makes images of the model's size.
      labels: one per logit.
      scoring: as of a ``TextClassifier``.
      channels: of a picture (not an array): 1 reads it as grey, 3 as RGB; a grey one is repeated to the
        channels of the processor. None is the number of the processor's channels.
      mesh: whose devices share each batch and each hold the parameters; None is one device.
    """

    model: Pure
    params: Params
    processor: ImageProcessor
    labels: tuple[str, ...]
    scoring: Scoring = "softmax"
    channels: Literal[1, 3] | None = None
    mesh: Mesh | None = None

    @functools.cached_property
    def _batches(self) -> SlicedBatches:
        return SlicedBatches(self.mesh)

    def __call__(self, images: Sequence[_Picture], *, batch_size: int = 32) -> list[Label]:
        """The label of each image, in order.

        Args:
          images: paths of image files, images of Pillow, or arrays uint8 [H, W, C], of any height and
            width. A file follows its EXIF orientation; of several frames the first is read.
          batch_size: images per batch, at least 1; only one batch is in memory.

        Returns:
          The labels.

        Raises:
          ImportError: for a picture without Pillow.
          ValueError: for one image instead of a list; an image that is none, cannot be read, or has another
            number of channels or, after the preprocessing, another size, with its index; a ``batch_size``
            below 1.
        """
        if isinstance(images, str | Path | np.ndarray) or not isinstance(images, Sequence):
            raise ValueError(
                f"ImageClassifier: got images={images!r:.80}; wanted a list of images. Put it into a list."
            )
        check_batch_size("ImageClassifier", batch_size)
        found: list[Label] = []
        for start in range(0, len(images), batch_size):
            batch = [
                self._pixels(image, start + i) for i, image in enumerate(images[start : start + batch_size])
            ]
            found += [Label(*best(self.labels, scores)) for scores in self._scores(np.stack(batch))]
        return found

    def _pixels(self, image: _Picture, index: int) -> np.ndarray:
        """The input of the model float32 [height, width, C], from one image."""
        array = _read(image, f"image {index}", self._channels)
        wanted = len(self.processor.mean)
        if array.shape[-1] == 1:
            array = np.repeat(array, wanted, axis=-1)
        if array.shape[-1] != wanted:
            raise ValueError(
                f"ImageClassifier: got {array.shape[-1]} channels in image {index}; wanted {wanted}, "
                "those of the model. Convert it."
            )
        pixels, patches = np.asarray(self.processor(array)), self._patches
        if pixels.shape != (sides := (patches.height, patches.width, patches.channels)):
            raise ValueError(
                f"ImageClassifier: got image {index} of {list(pixels.shape)} after its preprocessing; wanted "
                f"{list(sides)}. Resize the image, or fix the preprocessor_config.json."
            )
        return pixels

    @property
    def _patches(self) -> nn.Patches:
        patches = self.model.config.patches
        if not isinstance(patches, nn.Patches):
            raise ValueError(
                f"ImageClassifier: got a model with patches={patches}; wanted nn.Patches, whose height and "
                "width are known. Choose another model."
            )
        return patches

    @property
    def _channels(self) -> int | None:
        """The channels of a picture."""
        count = len(self.processor.mean)
        return self.channels or (count if count in (1, 3) else None)

    def _scores(self, pixels: np.ndarray) -> np.ndarray:
        """The scores [n, n_classes] of the model's inputs [n, height, width, C]."""
        n = len(pixels)
        slices, B = self._batches.shape(n, self._patches.count)
        padded = np.zeros((slices * B, *pixels.shape[1:]), np.float32)
        padded[:n] = pixels

        def run(batch: Array) -> Array:
            return _scores(self.params, batch, model=self.model, scoring=self.scoring)

        return self._batches.run(run, padded.reshape(slices, B, *pixels.shape[1:]))[:n]


def _read(image: _Picture, where: str, channels: int | None) -> np.ndarray:
    """An image as uint8 [H, W, C]; pictures have this many channels."""
    from tfm_jax.data.image_files import decode_image, is_pillow  # slow: not before it is needed

    if isinstance(image, str | Path):
        try:
            content = Path(image).read_bytes()
        except OSError as error:
            raise ValueError(
                f"ImageClassifier: got {error} for {where}; wanted the path of an image file. Correct it."
            ) from error
        return decode_image("ImageClassifier", content, f"{where} ({image})", channels=channels)
    if is_pillow(image):
        return decode_image("ImageClassifier", image, where, channels=channels)
    if not isinstance(image, np.ndarray | jax.Array) or image.dtype != np.uint8 or image.ndim != 3:
        is_array = isinstance(image, np.ndarray | jax.Array)
        got = f"{image.dtype}{list(image.shape)}" if is_array else f"{image!r:.80}"
        raise ValueError(
            f"ImageClassifier: got {got} as {where}; wanted a path, an image of Pillow or an array uint8 "
            "[H, W, C]. Convert it."
        )
    if not image.size:
        raise ValueError(f"ImageClassifier: got {where} of {list(image.shape)}; wanted at least one pixel.")
    return np.asarray(image)


# One program for all classifiers of a config, however often it is loaded.
@functools.partial(jax.jit, static_argnames=("model", "scoring"))
def _scores(params: Params, images: Array, *, model: Pure[nn.Classifier], scoring: Scoring) -> Array:
    """The scores [slices, B, n_classes] of images [slices, B, height, width, C]."""
    return map_slices(lambda params, images: SCORES[scoring](model.apply(params, images)), params, images)


def load_image_classifier(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh | None = None,
    *,
    allow_pickle: bool = False,
) -> ImageClassifier:
    """Loads an image classifier, such as a ``ViTForImageClassification``.

    Args:
      path_or_repo_id: as for ``load``.
      dtype: of the parameters and the activations; the scores are float32.
      mesh: of devices that share each batch, as for ``load_sentence_encoder``.
      allow_pickle: as for ``load``.

    Returns:
      The ``ImageClassifier``, with the preprocessing of ``load_image_processor``. Its scores follow
      ``problem_type`` as those of ``load_text_classifier``.

    Raises:
      FileNotFoundError: where there is no ``preprocessor_config.json``.
      ValueError: for a model that is not an image classifier, and as ``load_image_processor``,
        ``load_text_classifier`` and ``load``.
    """
    files = CheckpointFiles.find(path_or_repo_id, allow_pickle=allow_pickle)
    model, params, config, _ = load_files(files, dtype, tokenizer=False, sharding=replicated(mesh))
    module = find_architecture(config.architecture).module
    if module is not nn.Classifier or config.model.patches is None:
        raise ValueError(
            f"load_image_classifier: got {files}, a {config.architecture}; wanted an image classifier, such "
            "as ViTForImageClassification."
        )
    return ImageClassifier(
        model,
        params,
        load_image_processor(files.directory),
        labels_of(config.settings),
        scoring=scoring_of(config.settings),
        mesh=mesh,
    )

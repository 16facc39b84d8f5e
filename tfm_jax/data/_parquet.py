"""Reader of Parquet files."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.features.features import FeatureType

from tfm_jax.data._open import COMPRESSED, open_bytes, reading

__all__ = ["ParquetReader"]

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class ParquetReader:
    """Columns with the types that the file declares; dictionaries (categories) of texts become texts."""

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns, with types that hold the values of all files."""
        features = self._features(files[0])
        for file in files[1:]:
            other = self._features(file)
            merged = {name: _merged(features.get(name), feature) for name, feature in other.items()}
            if other.keys() != features.keys() or None in merged.values():
                raise ValueError(
                    f"{file}: got the columns {other}; wanted those of {files[0]}: {features}. Write all "
                    "files of a split with the same columns and types."
                )
            features = datasets.Features({name: merged[name] for name in features})
        return features

    def tables(self, file: Path, features: datasets.Features) -> Iterator[pa.Table]:
        """The rows of a file as tables."""
        with reading(file), self._open(file) as opened:
            for batch in opened.iter_batches(_BATCH):
                yield pa.Table.from_batches([batch]).select(list(features)).cast(features.arrow_schema)

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The rows of a file."""
        for table in self.tables(file, self._features(file)):
            yield from table.to_pylist()

    def _features(self, file: Path) -> datasets.Features:
        with reading(file), self._open(file) as opened:
            schema = opened.schema_arrow
            fields = [
                field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
                for field in schema
            ]
            try:
                return datasets.Features.from_arrow_schema(pa.schema(fields, schema.metadata))
            except ValueError as error:
                raise ValueError(
                    f"{file}: got {error}; wanted columns of other types. Convert or drop it."
                ) from error

    def _open(self, file: Path) -> pq.ParquetFile:
        source: Path | io.BytesIO = file
        if file.suffix.lower() in COMPRESSED:  # its index is at the end
            with open_bytes(file) as content:
                source = io.BytesIO(content.read())
        return pq.ParquetFile(source, page_checksum_verification=True)


def _merged(one: FeatureType | None, other: FeatureType) -> FeatureType | None:
    """The feature that holds the values of both; None if there is none."""
    if one == other:
        return one
    if not (isinstance(one, datasets.Value) and isinstance(other, datasets.Value)):
        null = datasets.Value("null")
        return other if one == null else one if other == null else None
    try:
        schemas = [pa.schema({"": feature.pa_type}) for feature in (one, other)]
        wider = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        return None
    return datasets.Features.from_arrow_schema(wider)[""]

"""Reader of CSV and TSV files: every field is a text."""

import csv
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import datasets

from tfm_jax.data._open import line_error, open_text

__all__ = ["TableReader"]

_FIELD_LIMIT = 2**31 - 1  # characters; what a C long holds on every platform


@dataclasses.dataclass(frozen=True)
class TableReader:
    """A table of texts with a header line.

    A column without a name, such as the index that pandas writes, is called "Unnamed: 0" with its number, as
    in pandas.

    Args:
      separator: one character between two fields.
      encoding: of the file.
      quoted: whether fields may be in double quotes (RFC 4180); otherwise each field is literal.
    """

    separator: str
    encoding: str
    quoted: bool

    def __post_init__(self):
        if len(self.separator) != 1 or self.separator in "\r\n" or (self.quoted and self.separator == '"'):
            raise ValueError(
                f"load: got separator={self.separator!r}; wanted one character that is no quote and no line "
                "end. Pass, for example, ',', ';' or '\\t'."
            )

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns, all of them texts; every file has the same ones."""
        headers = [self._header(file) for file in files]
        for file, header in zip(files, headers, strict=True):
            if sorted(header) != sorted(headers[0]):
                raise ValueError(
                    f"{file}: got the columns {header}; wanted those of {files[0]}: {headers[0]}. Give both "
                    "files one header, or load them apart."
                )
        return datasets.Features({name: datasets.Value("string") for name in headers[0]})

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The rows below the header."""
        with open_text(file, self.encoding, "" if self.quoted else "\n") as text:
            records = self._records(file, text)
            header = self._names(file, next(records, None))
            for line, fields in records:
                if fields == [] or (fields == [""] and len(header) > 1 and not self.quoted):
                    continue  # a blank line; in a literal table of one column it is an empty text
                if len(fields) != len(header):
                    raise line_error(
                        file,
                        line,
                        f"got {len(fields)} fields; wanted {len(header)} as in the header, separated by "
                        f"{self.separator!r}. Correct the line"
                        + ", or put a field that holds a separator in double quotes" * self.quoted
                        + ".",
                    )
                yield dict(zip(header, fields, strict=True))

    def _header(self, file: Path) -> list[str]:
        with open_text(file, self.encoding, "" if self.quoted else "\n") as text:
            return self._names(file, next(self._records(file, text), None))

    def _names(self, file: Path, record: tuple[int, list[str]] | None) -> list[str]:
        if record is None:
            raise ValueError(
                f"{file}: got an empty file; wanted a header line and rows. Choose another source."
            )
        line, names = record
        names = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
        if not self.quoted and any("\r" in name for name in names):
            raise line_error(
                file, line, "got line ends of CR alone; wanted LF or CRLF. Convert the line ends of the file."
            )
        if with_nul := [name for name in names if "\x00" in name]:
            raise line_error(
                file,
                line,
                f"got the column {with_nul[0]!r} with a NUL character, as in UTF-16; wanted the encoding "
                "of the file. Pass it, such as encoding='utf-16-le' (--data.encoding utf-16-le), or "
                "rename the column.",
            )
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise line_error(
                file, line, f"got {repeated} twice in the header; wanted unique names. Rename them."
            )
        return names

    def _records(self, file: Path, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """The fields of each record from the header on, with the line where it starts."""
        records = self._quoted_records(file, text) if self.quoted else self._literal_records(text)
        blank = True
        for line, fields in records:
            blank = blank and fields in ([], [""])
            if not blank:
                yield line, fields

    def _literal_records(self, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        for line, content in enumerate(text, 1):
            yield line, content.removesuffix("\n").removesuffix("\r").split(self.separator)

    def _quoted_records(self, file: Path, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(_FIELD_LIMIT)  # a limit of the process; 131,072 is too short for a document
        reader = csv.reader(text, delimiter=self.separator, strict=True)
        line = 1
        try:
            for fields in reader:
                yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise line_error(
                file,
                line,
                f"got a record, which starts here, with an error in its quotes ({error}); wanted CSV by RFC "
                '4180. Double a quote inside a quoted field (""), or save tables without quotes as .tsv.',
            ) from error

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
    """A table of texts, with a header line or with names for its columns.

    A column without a name, such as the index that pandas writes, is called "Unnamed: 0" with its number, as
    in pandas.

    Args:
      separator: one character between two fields.
      encoding: of the file.
      quoted: whether fields may be in double quotes (RFC 4180); otherwise each field is literal.
      names: of the columns, in order, of a table without a header line.
    """

    separator: str
    encoding: str
    quoted: bool
    names: tuple[str, ...] | None = None

    def __post_init__(self):
        if len(self.separator) != 1 or self.separator in "\r\n" or (self.quoted and self.separator == '"'):
            raise ValueError(
                f"load: got separator={self.separator!r}; wanted one character that is no quote and no line "
                "end. Pass, for example, ',', ';' or '\\t'."
            )
        if self.names is not None and (not all(self.names) or len(set(self.names)) < len(self.names)):
            raise ValueError(
                f"load: got names={self.names!r}; wanted different ones, none of them empty. Name each "
                "column once."
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
        """The rows, below the header if there is one."""
        with open_text(file, self.encoding, "" if self.quoted else "\n") as text:
            records = self._records(file, text)
            header = self._names(file, next(records, None)) if self.names is None else self.names
            for number, (line, fields) in enumerate(records):
                if number == 0 and self.names is not None:
                    self._check_first(file, line, fields)
                    self._check_no_header(file, line, fields, self.names)
                if fields == [] or (fields == [""] and len(header) > 1 and not self.quoted):
                    continue  # a blank line; in a literal table of one column it is an empty text
                if len(fields) != len(header):
                    raise line_error(
                        file,
                        line,
                        f"got {len(fields)} fields; wanted {len(header)} {self._named_by}, separated by "
                        f"{self.separator!r}. Correct the line"
                        + ", or put a field that holds a separator in double quotes" * self.quoted
                        + ".",
                    )
                yield dict(zip(header, fields, strict=True))

    @property
    def _named_by(self) -> str:
        if self.names is None:
            return "as in the header"
        return f"as in names={self.names!r} (--data.columns {' '.join(self.names)})"

    def _header(self, file: Path) -> Sequence[str]:
        if self.names is not None:
            return self.names
        with open_text(file, self.encoding, "" if self.quoted else "\n") as text:
            return self._names(file, next(self._records(file, text), None))

    def _names(self, file: Path, record: tuple[int, list[str]] | None) -> list[str]:
        if record is None:
            raise ValueError(
                f"{file}: got an empty file; wanted a header line and rows. Choose another source."
            )
        self._check_first(file, *record)
        line, names = record
        names = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise line_error(
                file,
                line,
                f"got {repeated} twice in the header; wanted unique names. Rename them. Or, if this line is "
                "data, pass the names of the columns: names=[...] (--data.columns NAME ...).",
            )
        return names

    def _check_first(self, file: Path, line: int, fields: Sequence[str]) -> None:
        """Raises for line ends and encodings that the first line shows to be others."""
        if not self.quoted and any("\r" in field for field in fields):
            raise line_error(
                file, line, "got line ends of CR alone; wanted LF or CRLF. Convert the line ends of the file."
            )
        if with_nul := [field for field in fields if "\x00" in field]:
            what = "column" if self.names is None else "field"
            raise line_error(
                file,
                line,
                f"got the {what} {with_nul[0]!r:.80} with a NUL character, as in UTF-16; wanted the encoding "
                "of the file. Pass it, such as encoding='utf-16-le' (--data.encoding utf-16-le), or "
                f"{'rename the column' if self.names is None else 'remove the character'}.",
            )

    @staticmethod
    def _check_no_header(file: Path, line: int, fields: Sequence[str], names: Sequence[str]) -> None:
        """Raises for a first line that is the names themselves, which would be read as data."""
        if list(fields) == list(names):
            raise line_error(
                file,
                line,
                f"got a header line, {list(fields)!r:.200}, and the same names; wanted the names for a table "
                f"without a header. Leave names={names!r} (--data.columns {' '.join(names)}) out.",
            )

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

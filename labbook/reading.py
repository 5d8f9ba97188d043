"""Tables of other people, read strictly: what is not certain is an error, and every choice is printed.

Text (.csv, .tsv, .txt, in any case), Excel (.xlsx) and Parquet (.parquet). All rows have as many fields as
the header; separator and decimal mark are found from the whole file; a number is written in digits (True,
0x1F, 1_000 and nan are none).
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from openpyxl import load_workbook

from labbook.console import UserError, choice
from labbook.escape import plain

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
TEXT = (".csv", ".tsv", ".txt")
# what the ending already says needs no word
EXPECTED = {".csv": ",", ".tsv": "\t"}
POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?", re.ASCII)
# 1,234 may be 1.234 or 1234
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
Field = tuple[str, ...]


@dataclass(frozen=True)
class StrictTable:
    """A table of text.

    Attributes
    ----------
    place : the file, or what else the table is, for messages.
    columns : name -> the fields of all rows, without surrounding blanks.
    lines : (rows,) where each row stands in the file, for messages.
    data_rows : (rows,) which row of data each is, counted from 1.
    """

    place: Path | str
    columns: dict[str, npt.NDArray[np.str_]]
    lines: npt.NDArray[np.int64]
    data_rows: npt.NDArray[np.int64]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(self.lines)

    def rows(self, keep: npt.NDArray[np.bool_]) -> "StrictTable":
        """The rows marked in `keep`."""
        columns = {name: c[keep] for name, c in self.columns.items()}
        return StrictTable(self.place, columns, self.lines[keep], self.data_rows[keep])

    def where(self, row: int) -> str:
        """Where a row stands, for messages."""
        return _where(self.place, int(self.lines[row]), int(self.data_rows[row]))

    def only(self, name: str, why: str) -> str | None:
        """The one value of a column, or None when there is no such column. Raises UserError when it has
        several, or empty ones.
        """
        if name not in self.columns:
            return None
        values = list(dict.fromkeys(self.columns[name].tolist()))
        if len(values) > 1:
            shown = ", ".join(repr(plain(v)) for v in values[:6])
            raise UserError(
                f"{self.place}: the column {name!r} holds {len(values)} different values ({shown}). {why}"
            )
        if values[0] == "":
            raise UserError(f"{self.place}: the column {name!r} is empty. Fill it, or leave it out.")
        return str(values[0])

    def numbers(self, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Columns as finite numbers.

        Raises UserError naming the first field that is none, and when the decimal mark is not certain.
        """
        return {name: self._numbers(name) for name in names}

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        fields = self.columns[name].tolist()
        commas = sum("," in f for f in fields)
        if commas and all(COMMA.fullmatch(f) or (POINT.fullmatch(f) and "." not in f) for f in fields):
            if all(THOUSANDS.fullmatch(f) for f in fields if "," in f):
                example = next(f for f in fields if "," in f)
                raise UserError(
                    f"{self.place}: the commas in column {name!r} may be decimal marks or separate thousands "
                    f"({example!r}). "
                    "Write the numbers with decimal points and without separators."
                )
            choice("decimal mark", "comma", f"every number of column {name} is written so")
            fields = [f.replace(",", ".") for f in fields]
        out = np.empty(len(fields))
        bad = []
        for i, f in enumerate(fields):
            out[i] = float(f) if POINT.fullmatch(f) else np.nan
            if not np.isfinite(out[i]):
                bad.append(i)
        if bad:
            row = bad[0]
            mixed = (
                " Decimal commas and points are mixed in it."
                if commas and COMMA.fullmatch(fields[row])
                else ""
            )
            found = repr(plain(fields[row][:40])) if fields[row] else "nothing"
            raise UserError(
                f"{self.place}: {self.where(row)} has no number in {name} but {found} ({len(bad)} rows "
                f"in all).{mixed} Remove them."
            )
        return out


def is_table(source: str) -> bool:
    """Whether a name is that of a table file, by its ending."""
    return Path(source).suffix.lower() in READERS


def read(path: Path) -> StrictTable:
    """Read a table by its ending.

    Raises UserError for what is missing, no regular file, not readable, empty, binary, not UTF-8, ragged,
    without a header, or not certain.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} is no table that can be read; there are {', '.join(READERS)}. Give the file its ending."
        )
    try:
        if not path.exists():
            raise UserError(f"{path} does not exist. Name a table ({', '.join(READERS)}).")
        if not path.is_file():
            raise UserError(f"{path} is no regular file. Name a table ({', '.join(READERS)}).")
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path} is empty. It needs a header and rows.")
        header, rows, lines = reader(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}). Check its permissions, or name another file."
        ) from error
    return _checked(path, header, rows, lines)


def strict(place: str, header: Sequence[str], columns: Sequence[Sequence[object]]) -> StrictTable:
    """The table of columns that Python hands over, as strict as one of a file; rows count from 0.

    None is an empty field. Raises UserError for what the header of a file may not be, columns of different
    lengths, and no rows.
    """
    lengths = {name: len(column) for name, column in zip(header, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{plain(name)} {n}" for name, n in lengths.items())
        raise UserError(f"{place}: the columns are of different lengths ({shown}). Give one value per row.")
    rows = list(zip(*([_cell(value) for value in column] for column in columns), strict=True))
    return _checked(place, tuple(header), rows, range(len(rows)))


def _checked(path: Path | str, header: Field, rows: Sequence[Field], lines: Sequence[int]) -> StrictTable:
    """The table, once its header names every column once and all rows have as many fields."""
    names = [name.strip() for name in header]
    empty = [i + 1 for i, name in enumerate(names) if not name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if empty or twice:
        what = f"no name in column {empty[0]}" if empty else f"the name {plain(twice[0])!r} twice"
        raise UserError(f"{path}: the header has {what}. Name every column once.")
    if all(POINT.fullmatch(name) or COMMA.fullmatch(name) for name in names):
        raise UserError(
            f"{path} has no header: its first row is {', '.join(map(plain, names))}. Write the names of the "
            "columns above it."
        )
    for row, (fields, line) in enumerate(zip(rows, lines, strict=True), 1):
        if len(fields) != len(names):
            raise UserError(
                f"{path}: {_where(path, line, row)} has {len(fields)} fields and the header {len(names)}. "
                "All rows need as many fields as the header; where numbers have decimal commas, separate the "
                "columns by semicolons."
            )
    if not rows:
        raise UserError(f"{path} has a header and no rows.")
    columns = zip(*rows, strict=True)
    return StrictTable(
        path,
        {name: np.array([f.strip() for f in column]) for name, column in zip(names, columns, strict=True)},
        np.array(lines),
        np.arange(1, len(rows) + 1),
    )


def _where(place: Path | str, line: int, row: int) -> str:
    """Where a row stands: in a file with a header on its line, in other tables by its number only."""
    if isinstance(place, str):
        return f"row {line} (counted from 0)"
    if line == row:
        return f"data row {row}"
    return f"line {line} of the file (data row {row})"


def _text(path: Path) -> tuple[Field, list[Field], list[int]]:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16. Save it as UTF-8.")
    if b"\0" in data:
        raise UserError(
            f"{path} is a binary file or UTF-16, not UTF-8 text. Save it as UTF-8, or give it the ending of "
            "its format."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.start + 1} is {data[error.start]:#04x}. Save it as UTF-8."
        ) from error
    head = next((line for line in text.splitlines() if line.strip()), "")
    if not head:
        raise UserError(f"{path} is empty. It needs a header and rows.")
    found, faults = dict[str, tuple[list[Field], list[int]]](), list[UserError]()
    for mark in SEPARATORS:
        if mark in head:
            try:
                found[mark] = _split(path, text, mark)
            except UserError as fault:
                faults.append(fault)
    if faults and not found:
        raise faults[0]
    whole = {mark: parsed for mark, parsed in found.items() if _even(parsed[0])}
    if len(whole) > 1:
        named = " and ".join(SEPARATORS[mark] for mark in whole)
        raise UserError(
            f"{path} may be separated by {named}: both give equal rows. Quote the fields that hold one of "
            "them."
        )
    if whole:
        mark, (records, lines) = next(iter(whole.items()))
        if EXPECTED.get(path.suffix.lower()) != mark:
            choice(
                "separator",
                SEPARATORS[mark],
                "all rows have as many fields as the header with it and with no other",
            )
    elif found:
        # ragged: show it with the separator that makes most of the header
        mark, (records, lines) = max(found.items(), key=lambda item: len(item[1][0][0]))
    elif len(head.split()) > 1:
        numbered = [
            (line.split(), number) for number, line in enumerate(text.splitlines(), 1) if line.strip()
        ]
        records, lines = [tuple(fields) for fields, _ in numbered], [number for _, number in numbered]
        choice("separator", "blanks", "the header has no comma, semicolon or tab")
    else:
        raise UserError(
            f"{path} has one column, {plain(head[:40])!r}. A curve needs two, separated by commas, "
            "semicolons, tabs or blanks."
        )
    return records[0], records[1:], lines[1:]


def _split(path: Path, text: str, mark: str) -> tuple[list[Field], list[int]]:
    """Records and their last lines; rows of nothing are left out."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True, skipinitialspace=True)
    records, lines = list[Field](), list[int]()
    try:
        for fields in reader:
            if any(f.strip() for f in fields):
                records.append(tuple(fields))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num} cannot be read as a row ({error}). Check its quotes."
        ) from error
    return records, lines


def _even(records: Sequence[Field]) -> bool:
    return len(records[0]) > 1 and all(len(fields) == len(records[0]) for fields in records)


def _cell(value: object) -> str:
    """A typed cell as text; numbers at full precision, truth values as words, which are no numbers."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _excel(path: Path) -> tuple[Field, list[Field], list[int]]:
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        sheets = {
            sheet.title: [tuple(map(_cell, row)) for row in sheet.iter_rows(values_only=True)]
            for sheet in book.worksheets
        }
        book.close()
    except OSError:
        raise
    except Exception as error:  # openpyxl lets every error of zip, zlib and XML through
        raise UserError(
            f"{path} is damaged or is no Excel workbook ({plain(error)}). Save it again, or export it as CSV."
        ) from error
    full = {title: rows for title, rows in sheets.items() if any(any(row) for row in rows)}
    if len(full) != 1:
        named = ", ".join(map(plain, full)) or "none"
        raise UserError(
            f"{path} has {len(full)} sheets with content ({named}); one is needed. Save the sheet that you "
            "mean as a file of its own."
        )
    numbered = [(row, number) for number, row in enumerate(next(iter(full.values())), 1) if any(row)]
    width = max(max((i + 1 for i, f in enumerate(row) if f)) for row, _ in numbered)
    padded = [tuple((*row, *[""] * width)[:width]) for row, _ in numbered]
    return padded[0], padded[1:], [number for _, number in numbered][1:]


def _parquet(path: Path) -> tuple[Field, list[Field], list[int]]:
    try:
        # most writers leave checksums out; where there are some, a damaged page is no number
        arrow = pq.read_table(path, page_checksum_verification=True)
        columns = [[_cell(value) for value in column.to_pylist()] for column in arrow.columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or is no Parquet file ({plain(error)}). Restore it.") from error
    return tuple(arrow.column_names), list(zip(*columns, strict=True)), list(range(1, arrow.num_rows + 1))


READERS: dict[str, Callable[[Path], tuple[Field, list[Field], list[int]]]] = {
    **dict.fromkeys(TEXT, _text),
    ".xlsx": _excel,
    ".parquet": _parquet,
}

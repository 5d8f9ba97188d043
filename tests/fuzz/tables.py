"""Tables of a decay curve: text, Excel, Parquet."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

from consolidation.fit.config import FitConfig
from consolidation.fit.source import read as read_source
from tests.fuzz.judge import Case, Right, damage, equal

HEADER = ("subject", "days", "recall")
Rows = list[tuple[str, str, str]]


def rows(rng: np.random.Generator) -> Rows:
    """Three subjects at eight delays."""
    return [
        (name, repr(float(d)), repr(round(float(0.9 * d**-0.4 + 0.02 * rng.standard_normal()), 4)))
        for name in ("ann", "bob", "cy")
        for d in (0.5, 1.25, 2.0, 4.0, 7.5, 12.0, 21.0, 33.5)
    ]


def result(numbers: Rows) -> object:
    """What the curve of a table has to hold."""
    return sorted((float(x), float(y), unit) for unit, x, y in numbers)


def read(path: Path) -> object:
    """The curve that `consolidation.fit` would fit."""
    config = FitConfig(
        str(path), x="days", y="recall", unit="subject", clock="retention interval", clock_unit="days"
    )
    curve = read_source(config).curve
    assert str(curve.clock) and curve.unit is not None
    return sorted(zip(curve.x.tolist(), curve.y.tolist(), curve.unit.tolist(), strict=True))


def text(table: Rows, mark: str = ",", end: str = "\n") -> str:
    """The table as text."""
    return "".join(mark.join(row) + end for row in (HEADER, *table))


def by_csv(path: Path) -> Right:
    """Whether a result is what Python's csv module finds, with whichever separator gives even rows."""

    def right(found: object) -> bool:
        content = path.read_bytes().decode("utf-8-sig")
        for mark in ",;\t":
            records = [
                [f.strip() for f in r]
                for r in csv.reader(io.StringIO(content, newline=""), delimiter=mark)
                if any(r)
            ]
            records = [r for r in records if any(r)]
            if (
                len(records) > 1
                and {len(r) for r in records} == {len(records[0])}
                and set(HEADER) <= set(records[0])
            ):
                place = [records[0].index(name) for name in HEADER]
                try:
                    # type: ignore[misc]
                    return found == result([tuple(r[i] for i in place) for r in records[1:]])
                except ValueError:
                    return False
        return False

    return right


Edit = Callable[[Rows], bytes | str]
SOUND: dict[str, Edit] = {
    "as it is": lambda t: text(t),
    "byte-order mark": lambda t: "\ufeff" + text(t),
    "blank lines": lambda t: "\n\n" + text(t, end="\n\n") + "\n \n",
    "rows of nothing": lambda t: text(t) + ",,\n,,\n",
    "CRLF": lambda t: text(t, end="\r\n"),
    "CR": lambda t: text(t, end="\r"),
    "no last line feed": lambda t: text(t).rstrip("\n"),
    "quoted": lambda t: "".join(",".join(f'"{f}"' for f in r) + "\n" for r in (HEADER, *t)),
    "blanks around fields": lambda t: text(t, mark=" , "),
    "semicolons": lambda t: text(t, mark=";"),
    "tabs": lambda t: text(t, mark="\t"),
    "semicolons and decimal commas": lambda t: text(t, mark=";").replace(".", ","),
    "rows reversed": lambda t: text(t[::-1]),
    "columns reversed": lambda t: "".join(",".join(r[::-1]) + "\n" for r in (HEADER, *t)),
    "a column more": lambda t: "".join(",".join((*r, "x")) + "\n" for r in (HEADER, *t)).replace(
        "recall,x", "recall,n"
    ),
    "the unit in a column": lambda t: "".join(
        f"{','.join(r)},{u}\n" for r, u in zip((HEADER, *t), ["clock_unit"] + ["days"] * len(t), strict=True)
    ),
    "exponents": lambda t: text([(u, f"{float(x):.17e}", y) for u, x, y in t]),
}
UNSOUND: dict[str, Edit] = {
    "a field more in every row": lambda t: text([(*r, "1") for r in t]),  # type: ignore[misc]
    "a field more in one row": lambda t: text([*t[:5], (*t[5], "1"), *t[6:]]),  # type: ignore[list-item]
    "a field less in one row": lambda t: text([*t[:5], t[5][:2], *t[6:]]),  # type: ignore[list-item]
    "decimal commas": lambda t: ",".join(HEADER) + "\n" + text(t).partition("\n")[2].replace(".", ","),
    "decimal commas, quoted, in thousands": lambda t: text([(u, x, '"1,234"') for u, x, _ in t]),
    "mixed decimal marks": lambda t: text(
        [*t[:5], (t[5][0], t[5][1], t[5][2].replace(".", ",")), *t[6:]], mark=";"
    ),
    "another unit in a column": lambda t: "".join(
        f"{','.join(r)},{u}\n" for r, u in zip((HEADER, *t), ["clock_unit"] + ["hours"] * len(t), strict=True)
    ),
    "two units in a column": lambda t: "".join(
        f"{','.join(r)},{u}\n"
        for r, u in zip((HEADER, *t), ["clock_unit", "hours"] + ["days"] * (len(t) - 1), strict=True)
    ),
    "two series": lambda t: "".join(
        f"{','.join(r)},{u}\n"
        for r, u in zip((HEADER, *t), ["series", "a"] + ["b"] * (len(t) - 1), strict=True)
    ),
    "no header": lambda t: text(t).partition("\n")[2],
    "a name twice": lambda t: text(t).replace("days", "recall", 1),
    "another name": lambda t: text(t).replace("days", "day", 1),
    "UTF-16": lambda t: text(t).encode("utf-16"),
    "UTF-16 without a mark": lambda t: text(t).encode("utf-16-le"),
    "Latin-1": lambda t: text([("añn", *r[1:]) for r in t]).encode("latin-1"),
    "NUL": lambda t: text(t).replace("ann", "a\0n", 1),
    "empty": lambda t: "",
    "header only": lambda t: ",".join(HEADER) + "\n",
    "an open quote": lambda t: text(t).replace("bob", '"bob', 1),
    **{
        f"{word!r} for a number": lambda t, word=word: text([*t[:7], (t[7][0], t[7][1], word), *t[8:]])
        for word in (
            "",
            "nan",
            "NaN",
            "inf",
            "True",
            "0x1F",
            "1_000",
            "1e999",
            "½",
            "٣",
            "--",
            "0.5%",
            "1 000",
        )
    },
    "truth values": lambda t: text([(u, x, str(float(y) > 0.5)) for u, x, y in t]),
}


def _write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def text_cases(kind: str, folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Tables in the ending of `kind`."""
    mark = {"csv": ",", "tsv": "\t"}[kind]
    table = rows(rng)
    for name, edit in SOUND.items():
        path = _write(folder, f"t.{kind.upper()}" if name == "as it is" else f"t.{kind}", edit(table))
        yield Case(kind, name, lambda path=path: read(path), equal(result(table)), whole=True)
    for name, edit in UNSOUND.items():
        path = _write(folder, f"t.{kind}", edit(table))
        yield Case(kind, name, lambda path=path: read(path), None)
    while True:
        path = _write(folder, f"t.{kind}", text(rows(rng), mark))
        fault = damage(path, rng)
        yield Case(kind, fault, lambda path=path: read(path), by_csv(path))


def _excel(path: Path, edit: Callable[[openpyxl.Workbook], None], table: Rows) -> Path:
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    for unit, x, y in table:
        book.active.append((unit, float(x), float(y)))
    edit(book)
    book.save(path)
    return path


def _set(cell: str, value: object) -> Callable[[openpyxl.Workbook], None]:
    return lambda book: book.active.__setitem__(cell, value)


EXCEL_SOUND: dict[str, Callable[[openpyxl.Workbook], None]] = {
    "as it is": lambda book: None,
    "an empty sheet": lambda book: book.create_sheet("notes"),
    "a row of nothing": lambda book: book.active.insert_rows(4),
    "rows of nothing above": lambda book: book.active.insert_rows(1, 3),
    "a number as text": lambda book: book.active.__setitem__("B3", str(book.active["B3"].value)),
}
EXCEL_UNSOUND: dict[str, Callable[[openpyxl.Workbook], None]] = {
    "a truth value": _set("C5", True),
    "a word": _set("C5", "many"),
    "a formula": _set("C5", "=1/2"),
    "nothing": _set("C5", None),
    "a field beside the table": _set("E5", 3),
    "an error": _set("C5", "#DIV/0!"),
    "a second table": lambda book: book.create_sheet("b").append((1, 2)),
    "another name": _set("B1", "day"),
    "no name": _set("B1", None),
    "a name twice": _set("B1", "recall"),
}


def excel_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Workbooks; the archive has a checksum for each part."""
    path, table = folder / "t.xlsx", rows(rng)
    for name, edit in (EXCEL_SOUND | EXCEL_UNSOUND).items():
        sound = name in EXCEL_SOUND
        _excel(path, edit, table)
        yield Case("xlsx", name, lambda: read(path), equal(result(table)) if sound else None, whole=sound)
    whole = _excel(path, EXCEL_SOUND["as it is"], table).read_bytes()
    while True:
        path.write_bytes(whole)
        fault = damage(path, rng)
        yield Case("xlsx", fault, lambda: read(path), equal(result(table)))


def parquet_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Parquet tables with page checksums."""
    path, table = folder / "t.parquet", rows(rng)
    units = [u for u, _, _ in table]
    x, y = ([float(row[i]) for row in table] for i in (1, 2))
    plain = {"subject": pa.array(units), "days": pa.array(x), "recall": pa.array(y)}

    def write(columns: dict[str, pa.Array]) -> bytes:
        pq.write_table(pa.table(columns), path, write_page_checksum=True)
        return path.read_bytes()

    sound = {
        "as it is": plain,
        "columns reversed": dict(reversed(plain.items())),
        "numbers as text": plain | {"days": pa.array([row[1] for row in table])},
        "a dictionary": plain | {"subject": pa.array(units).dictionary_encode()},
    }
    for name, columns in sound.items():
        write(columns)
        yield Case("parquet", name, lambda: read(path), equal(result(table)), whole=True)
    unsound = {
        "truth values": plain | {"recall": pa.array([v > 0.5 for v in y])},
        "a null": plain | {"recall": pa.array([None, *y[1:]])},
        "not a number": plain | {"recall": pa.array([float("nan"), *y[1:]])},
        "infinity": plain | {"recall": pa.array([float("inf"), *y[1:]])},
        "lists": plain | {"recall": pa.array([[v] for v in y])},
        "dates": plain | {"days": pa.array(range(len(x))).cast(pa.int32()).cast(pa.date32())},
        "another name": {"subject": plain["subject"], "day": plain["days"], "recall": plain["recall"]},
        "no rows": {name: column[:0] for name, column in plain.items()},
        "another unit": plain | {"clock_unit": pa.array(["hours"] * len(x))},
    }
    for name, columns in unsound.items():
        write(columns)
        yield Case("parquet", name, lambda: read(path), None)
    whole = write(plain)
    while True:
        path.write_bytes(whole)
        fault = damage(path, rng)
        yield Case("parquet", fault, lambda: read(path), equal(result(table)))

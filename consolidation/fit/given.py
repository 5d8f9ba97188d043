"""Observations that Python hands over, a data frame or arrays, as the strict table that a file would be."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from consolidation.decay.curve import Curve
from labbook import reading as tables
from labbook.console import UserError
from labbook.escape import plain

# an array of any library, a list or a series of pandas: what has an order and one dimension
Values: TypeAlias = Sequence[Any] | Any
Data: TypeAlias = Curve | pd.DataFrame | Mapping[str, Values] | tuple[Values, Values] | list[Values]

KINDS = (
    "the name of a series, file or training run (str, Path), a Curve, a DataFrame, a mapping of names to "
    "arrays, or a pair of arrays"
)


def table_of(data: Any, x: str, y: str) -> tables.StrictTable:
    """The table of a data frame, of arrays by name, or of two arrays, which are then called `x` and `y`.

    Values that are missing (None, nan, NaT, masked) are empty fields. Raises UserError for anything else, and
    for what a file may not hold.
    """
    if isinstance(data, pd.DataFrame):
        # by place and not by name, which may be there twice
        columns = [(name, data.iloc[:, place].tolist()) for place, name in enumerate(data.columns)]
        return _table("the data frame", columns)
    if isinstance(data, Mapping):
        return _table("the mapping", [(name, _values(values, name)) for name, values in data.items()])
    if isinstance(data, tuple | list) and len(data) == 2:
        pair = zip((x, y), data, strict=True)
        return _table("the pair of arrays", [(name, _values(values, name)) for name, values in pair])
    raise UserError(f"the data are of the kind {type(data).__name__}; there can be {KINDS}.")


def _table(place: str, columns: Sequence[tuple[Any, list[Any]]]) -> tables.StrictTable:
    other = [name for name, _ in columns if not isinstance(name, str)]
    if other:
        raise UserError(f"{place} has a column that is called {other[0]!r}. Columns need names that are str.")
    if not columns:
        raise UserError(f"{place} has no columns. A curve needs two, x and y.")
    header = [name for name, _ in columns]
    return tables.strict(place, header, [list(map(_known, values)) for _, values in columns])


def _values(values: Any, name: Any) -> list[Any]:
    """One array as a list. Raises UserError for what has no order or another number of dimensions."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(found, list | tuple | range) or any(isinstance(v, list | tuple) for v in found):
        raise UserError(
            f"{plain(name)} is of the kind {type(values).__name__} and no array of one dimension. Give one "
            "value for each observation."
        )
    return list(found)


def _known(value: Any) -> Any:
    """The value, or None where it is missing. Numbers of libraries become those of Python, which are written
    at full precision.
    """
    value = value.item() if hasattr(value, "item") else value
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value

"""What the result of a run can do in Python: show itself in a notebook, draw, and be saved elsewhere."""

import html
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from labbook.console import UserError
from labbook.escape import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawn(results: Any, figures: "Mapping[str, Callable[[Any], Figure]]", name: str | None) -> "Figure":
    """One of the figures of `results`, the first unless it is named; the theme of the session stays as it is.

    Raises UserError for a name that there is not.
    """
    import matplotlib as mpl  # half a second to import, and only figures need it
    import matplotlib.pyplot as plt

    from labbook import style

    chosen = next(iter(figures), "") if name is None else name
    if chosen not in figures:
        raise UserError(f"there is no figure {name!r}; there are {', '.join(figures) or 'none'}.")
    with mpl.rc_context():
        style.apply()
        figure = figures[chosen](results)
    plt.close(figure)  # a notebook would show it twice
    return figure


def new_folder(folder: str | Path) -> Path:
    """`folder`, which must not hold anything. Raises UserError when it does."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; nothing is written over. Name a new folder.")
    return folder


def as_html(verdict: str, table: pd.DataFrame, place: Path | None) -> str:
    """A verdict, a table and where the rest lies; what stands in them is text, never markup."""
    where = f"<p><small>{html.escape(plain(place))}</small></p>" if place is not None else ""
    return f"<p>{html.escape(plain(verdict))}</p>{table.to_html(escape=True, border=0)}{where}"


class RunResult(ABC):
    """The result of a run, with the folder that it is stored in."""

    folder: Path

    @abstractmethod
    def _figures(self) -> "Mapping[str, Callable[[Any], Figure]]":
        """Figures by name, the most telling first."""

    @abstractmethod
    def _shown(self) -> tuple[str, pd.DataFrame]:
        """The verdict, and the table that a notebook shows."""

    def plot(self, name: str | None = None) -> "Figure":
        """A figure of the run; `name` is the name of its file without the ending, None the first one.

        Raises UserError for a name that there is not.
        """
        return drawn(self, self._figures(), name)

    def save(self, folder: str | Path) -> Path:
        """Copy the run folder to `folder`, a new one, draw every figure into it, and return it.

        Raises UserError when `folder` is not empty.
        """
        from labbook import style

        target = new_folder(folder)
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        style.draw(self, self._figures(), target)
        return target

    def _repr_html_(self) -> str:
        return as_html(*self._shown(), self.folder)

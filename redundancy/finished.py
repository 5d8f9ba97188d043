"""What --out holds, asked before anything heavy is imported: another run (an error), or this one, finished.

A run that was asked for by name writes a fingerprint into its provenance: of the request, of the files that
it names, and of this version. Where the fingerprint is the same, so are the numbers, and no model is loaded
to find that out.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from labbook import __version__, processes
from labbook.console import UserError, console
from labbook.run import check_files, digest, opened, read_json, require_place
from labbook.view import print_words
from redundancy.request import Request, Settings
from redundancy.text import DATA

# fields that `prepare` fills in where they are not given, from the model and its text
FILLED = ("tokens", "eval_tokens", "context", "layers", "dtype", "bos")
FINGERPRINT = "fingerprint"


def finished(config: Request, settings: Settings) -> Path | None:
    """The folder of --out where it holds this request, finished, and None where something is left to do.

    Raises UserError where --out holds something else, and where the finished run is damaged.
    """
    folder = settings.out
    # several processes have to join before they may end together
    if folder is None or processes.asked_for() > 1:
        return None
    require_place(folder, known(config))
    if not (folder / "summary.json").is_file():
        return None
    try:
        stated = read_json(folder / "provenance.json").get(FINGERPRINT)
    except UserError:
        return None
    if stated is None or stated != fingerprint(config):
        return None
    check_files(folder, opened(read_json(folder / "summary.json"), folder / "summary.json"))
    return folder


def told(config: Request, settings: Settings) -> Path | None:
    """The same for a command, whose figures and page lie there too: its verdict is printed once more."""
    folder = finished(config, settings)
    # the page is written last
    if folder is None or not (folder / "report.html").is_file():
        return None
    say_finished()
    print_words(str(read_json(folder / "summary.json").get("verdict", "")))
    return folder


def say_finished() -> None:
    """Say why nothing is done."""
    console.print("this run is finished; nothing is computed again")


def known(config: Request) -> dict[str, Any]:
    """The part of config.json that the request decides alone."""
    asked = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    if asked["layers"] is not None:
        asked["layers"] = sorted(set(asked["layers"]))
    return {k: v for k, v in asked.items() if k not in FILLED or v not in (None, "auto")}


def fingerprint(config: Request) -> str | None:
    """SHA-256 of the request, of this version, and of place, size and time of change of every file that the
    request names; None where it names something that is no file, such as a model on a hub.
    """
    if getattr(config, "revisions", ()):
        return None
    models = (config.model, *getattr(config, "checkpoints", ()))
    places = [_place(name.removeprefix("random:")) for name in models]
    places.append(DATA / "text.parquet" if config.corpus is None else Path(config.corpus))
    parts = [__version__, json.dumps(dataclasses.asdict(config), default=str)]
    try:
        if not all(place.exists() for place in places):
            return None
        for path in sorted({file.resolve() for place in places for file in _files(place)}):
            about = path.stat()
            parts.append(f"{path} {about.st_size} {about.st_mtime_ns}")
    except OSError:  # what cannot be looked at is named where it is read
        return None
    return digest(f"{part}\n".encode("utf-8", "surrogateescape") for part in parts)


def _place(model: str) -> Path:
    """Where a model lies if its name is a path; the data of the package hold the embedded checkpoints too."""
    return DATA if model in ("", "embedded") else Path(model)


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]

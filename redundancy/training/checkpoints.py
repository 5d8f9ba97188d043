"""Where checkpoints over training come from: the embedded model, a folder, hub revisions, or a list.

folder/                      FOLDER/step-000016/{config.json, model.safetensors}, any name that ends in a
  checkpoints/step-000016/   number; the layout of `redundancy.pretrain` with its final model beside them
  model/                     is read too
hub                          MODEL --revisions step0,step512,...  or  --revisions all
list                         MODEL --checkpoints a.gguf b.safetensors random:MODEL ...
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from huggingface_hub import HfApi, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError, OfflineModeIsEnabled

from labbook.console import UserError, choice
from labbook.run import read_table
from redundancy.corpus.hub import NO_NETWORK, kinds
from redundancy.model.loading import Source, locate
from redundancy.text import DATA


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights: the name it was asked for by, its training step, and where it is."""

    name: str
    step: int
    source: Source


def find_checkpoints(
    model: str, revisions: tuple[str, ...], checkpoints: tuple[str, ...], *, trust_remote_code: bool = False
) -> list[Checkpoint]:
    """All checkpoints asked for, ordered by step.

    A step is the number after `step`, `checkpoint`, `ckpt` or `iter` in a name, else the number at its end;
    where a name of a list has neither, it is the place in the list.

    Raises UserError when there are fewer than two, when a folder holds none, or for a revision that does not
    exist.
    """
    if revisions and checkpoints:
        raise UserError("--revisions and --checkpoints were both given; a run reads one of them.")
    if checkpoints:
        listed = [
            Checkpoint(Path(name).stem, _step(Path(name).stem, place, marked=True), _listed(model, name))
            for place, name in enumerate(checkpoints)
        ]
    elif revisions and model == "embedded":
        raise UserError(
            "--revisions are those of a hub model, and the embedded model has none: leave them out, and its "
            "shipped checkpoints are measured, or change MODEL."
        )
    elif revisions:
        listed = _of_revisions(model, revisions, trust_remote_code=trust_remote_code)
    else:
        listed = _of_folder(DATA if model == "embedded" else Path(model), model)
    require_course(listed)
    return sorted(listed, key=lambda c: c.step)


def require_course(listed: Sequence[Checkpoint]) -> None:
    """Raise UserError unless there are two checkpoints at least, each of its own step."""
    if len(listed) < 2:
        raise UserError(
            f"{len(listed)} checkpoint was found; a course over training needs at least 2. Change "
            "--revisions or --checkpoints."
        )
    steps = [c.step for c in listed]
    if len(set(steps)) < len(steps):
        raise UserError(
            f"two checkpoints have the same step ({', '.join(f'{c.name}: {c.step}' for c in listed)}). "
            "Rename them, or list fewer."
        )


def _step(name: str, otherwise: int, *, marked: bool = False) -> int:
    """The training step in a name, with `marked` only behind a word that says so; `otherwise` where there is
    none.
    """
    found = re.search(r"(?:step|checkpoint|ckpt|iter)[-_]?(\d+)", name.lower())
    if found is None and not marked:
        found = re.search(r"(\d+)$", name)
    return int(found.group(1)) if found else otherwise


def _listed(model: str, name: str) -> Source:
    """One item of --checkpoints; a bare .safetensors file takes configuration and tokenizer from MODEL."""
    path = Path(name)
    if path.suffix != ".safetensors":
        return locate(name)
    if not path.is_file():
        raise UserError(f"{name} does not exist. Change --checkpoints.")
    return replace(locate(model), name=path.stem, weights=str(path))


def _of_folder(folder: Path, model: str) -> list[Checkpoint]:
    """Subfolders in the hub's layout whose names hold a number, and the final model that
    `redundancy.pretrain` puts beside them.
    """
    if not folder.is_dir():
        raise UserError(
            f"{model!r} is not a folder of checkpoints. Name one, give --revisions step0,step1,... (or all) "
            "of a hub model, or list files with --checkpoints; without MODEL the embedded checkpoints are "
            "read."
        )
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    listed = []
    for path in sorted(inside.iterdir()):
        step = _step(path.name, -1)
        if step >= 0 and (path / "config.json").is_file():
            listed.append(Checkpoint(path.name, step, locate(str(path))))
    if not listed:
        raise UserError(
            f"{folder} holds no checkpoints: no subfolder with a number in its name and a config.json in it. "
            "Name the folder above them."
        )
    trajectory = folder / "trajectory.csv"
    if (folder / "model" / "config.json").is_file() and trajectory.is_file():
        steps = read_table(trajectory).get("step", pd.Series(dtype="int64"))
        if steps.empty or not pd.api.types.is_integer_dtype(steps):
            raise UserError(
                f"{trajectory} has no column `step` of whole numbers, so the step of the final model is not "
                "known. Repair it, or list the models with --checkpoints."
            )
        last = int(steps.max())
        if all(c.step < last for c in listed):
            listed.append(Checkpoint("final", last, locate(str(folder / "model"))))
    return listed


def _of_revisions(model: str, revisions: tuple[str, ...], *, trust_remote_code: bool) -> list[Checkpoint]:
    names = [name for given in revisions for name in given.split(",") if name]
    known = hub_revisions(model)
    if names == ["all"]:
        names = [name for name in known if _step(name, -1, marked=True) >= 0]
        choice("revisions", len(names), f"all of {len(known)} whose names hold a step")
    missing = [name for name in names if name not in known]
    if missing:
        some = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
        raise UserError(
            f"{model!r} has no revision {', '.join(missing)}; there are {len(known)}: {some or 'none'}. "
            "Change --revisions."
        )
    return [
        Checkpoint(name, _step(name, place), locate(model, name, trust_remote_code=trust_remote_code))
        for place, name in enumerate(names)
    ]


def hub_revisions(model: str) -> list[str]:
    """Branches and tags of a hub model in the order of their steps; without a connection, those in the local
    cache.

    Raises UserError when the model is known neither here nor there.
    """
    try:
        refs = HfApi().list_repo_refs(model)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception as error:
        # without a network errors are those of the library that speaks over it, whichever it is
        if not isinstance(error, OfflineModeIsEnabled | HfHubHTTPError | OSError) and not (
            kinds(error) & NO_NETWORK
        ):
            raise
        try:
            cached = [repo for repo in scan_cache_dir().repos if repo.repo_id == model]
        except CacheNotFound:
            cached = []
        names = [ref for repo in cached for ref in repo.refs]
        if not names:
            raise UserError(
                f"the revisions of {model!r} cannot be listed ({type(error).__name__}) and none are in the "
                "local cache. Connect to the hub, or give a folder of checkpoints; without MODEL the "
                "embedded ones are read."
            ) from error
        choice("revisions", len(names), "those in the local cache, the hub cannot be reached")
    return sorted(names, key=lambda name: (_step(name, -1), name))


def check_same(shapes: Sequence[tuple[str, tuple[object, ...]]]) -> None:
    """Raise UserError unless every (name, shape) has the shape of the first."""
    first, wanted = shapes[0]
    for name, shape in shapes[1:]:
        if shape != wanted:
            raise UserError(
                f"checkpoint {name!r} is of another architecture than {first!r}: (model type, layers, heads, "
                f"d_model, vocabulary) are {shape} and {wanted}. List checkpoints of one model."
            )

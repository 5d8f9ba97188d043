"""A factorial of `consolidation/design.md` with made-up outcomes, as the training command leaves it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from consolidation.config import VARIANTS
from consolidation.replicate import __main__ as replicate
from consolidation.replicate.cells import cells
from consolidation.replicate.contrasts import CELLS
from consolidation.train import trajectory
from consolidation.train.presets import preset
from labbook.run import sealed, write_json

TINY = preset("tiny")
# mean q at recurring queries at the end
QUALITY = {"cram": 0.8, "no-consolidation": 0.2, "no-quality": 0.8}
LISTED = dict(zip(CELLS, cells(TINY, ("factorial",)), strict=True)) | {
    cell.config.model: cell for cell in cells(TINY, ("controls",))
}
# with learned keys: the letters of the design, small
LISTED |= dict(zip("ab", cells(TINY, ("learned",)), strict=True))
POWERS = (0, 1, 8, 64, 512)


def plant_seed(
    out: Path,
    cell: str,
    seed: int,
    attends: float,
    known: float = 1.0,
    novel: float = 1.0,
    change: float = 0.0,
) -> Path:
    """One seed of a cell, by its letter (see `LISTED`), or of another control, by its model: P(attend |
    recurring), which changed by `change` over the last quarter.
    """
    config = LISTED[cell].config
    folder = out / LISTED[cell].folder / f"seed-{seed}"
    folder.mkdir(parents=True)
    recorded = json.loads(json.dumps({**config.recorded(), "seed": seed, "start": None}))
    write_json(folder / "config.json", recorded)
    positions = config.evaluation * config.benchmark.length
    remembers = not config.model.startswith("control")
    rows = []
    for step in (*POWERS, config.steps * 3 // 4, config.steps):
        done = step / config.steps
        early = attends - change if step < config.steps else attends
        shares = {"recurring": 1 - done + done * early, "novel": novel, "other": 0.0, "all": 0.05 * attends}
        for kind, share in shares.items():
            n = positions if kind == "all" else 100
            rows.append((step, -1, kind, "attention", share, n))
            rows.append((step, -1, kind, "semantic", (1 - share) * remembers, n))
        rows.append((step, -1, "novel", "accuracy", novel, 100))
        if remembers:
            rows.append((step, 0, "recurring", "quality", done * QUALITY[config.model], 100))
        if step in POWERS or step == config.steps:
            rows.append((step, -1, "recurring", "accuracy_without_attention", done * known, 100))
    facts = {"model": config.model, "seed": seed, "config": recorded}
    trajectory.write(folder / "trajectory.parquet", trajectory.tidy(rows), facts)
    summary = trajectory.SeedSummary(
        model=config.model,
        label=VARIANTS[config.model].label,
        seed=seed,
        parameters=1,
        steps=config.steps,
        accuracy={"recurring": 1.0, "novel": novel, "query": 0.7 + 0.3 * novel},
        dynamics_mse=0.01,
        attention={"all": 0.05 * attends, "recurring": attends, "novel": novel, "other": 0.0},
        attention_first=0.5,
        pairs=1.0,
        pairs_dense=2.0,
        semantic=0.9 * remembers,
        knock_outs={"attention, recurring": known, "semantic, recurring": 0.9},
        optimum=config.benchmark.optimum(),
        static=config.benchmark.queries,
        learnt=novel > 0.95,
        consolidated=False,
        events=config.events(),
        seconds=1.0,
        config_digest=trajectory.config_digest(recorded),
    )
    write_json(folder / "summary.json", sealed(summary.to_json()))
    return folder


def around(mean: float, seeds: int = 8, spread: float = 0.01) -> list[float]:
    """Values whose mean is `mean`, without two that are equal."""
    return list(mean + spread * np.linspace(-1, 1, seeds))


def plant(out: Path, attends: Mapping[str, Sequence[float]], **more: Mapping[str, float]) -> Path:
    """A factorial, or in small letters one with learned keys: P(attend | recurring) by cell and seed, and
    `known`, `novel` and `change` by cell; tabulated by the command.
    """
    for cell, values in attends.items():
        for seed, value in enumerate(values):
            plant_seed(out, cell, seed, value, **{k: by[cell] for k, by in more.items() if cell in by})
    table = "learned" if set(attends) <= set("ab") else "factorial"
    replicate.main(["tiny", "--tables", table, "--seeds", "0", "--no-report", "--out", str(out)])
    return out

"""The stages and their commands, in the order of importance.

base    CRAM and its control, key codes learned and fixed, at the size that one GPU trains in minutes
paper   the same at the published size: as published, then with the four fields that work at the small size
ratios  what pass 1, a step and attention cost on this device; growth and memory; bf16 against float64
gpt2    a GPT-2 of 124 M parameters: training, the probe over its checkpoints, removal
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labbook.console import UserError
from redundancy.text import DATA
from replication.gpu.config import Command, Size, StageName

# what the preset `paper` lacks of what `base` has: see consolidation/train/presets.py
WORKING = (
    "--attention-penalty 0.5 --temperature 1.0 1.0 --temperature-steps 0 "
    "--pressure-start 1000 --pressure-ramp 2000"
)
# how the text of a rehearsal is packed, beside --preset gpt2-124m
REHEARSED = "--vocabulary 2048 --context 64 --validation-tokens 4096"
# minutes of a stage, so that with what its last command takes to save its state it ends within ten
LONGEST = 9.0
SHARES: dict[StageName, float] = {"base": 10, "paper": 6, "ratios": 4, "gpt2": 8}


@dataclass(frozen=True)
class Job:
    """One command of a stage.

    Attributes
    ----------
    name : of its run folder below that of the stage.
    share : of the stage's time, at most; what is left over goes to the next.
    arguments : from the module on; `{minutes}` stands for the time that it has.
    result : the file whose presence says that it is finished, below the run folder.
    """

    name: str
    share: float
    arguments: str
    result: str = "summary.json"


def jobs(stage: StageName, size: Size, work: Path, text: Path | None) -> list[Job]:
    """The commands of a stage, in their order. Raises UserError when gpt2 has no text."""
    if stage == "gpt2" and text is None:
        raise UserError(
            "the stage gpt2 needs the tokenised text. Make it with `python -m redundancy.pretrain CORPUS "
            "--preset gpt2-124m --out DIR --pack FILE.npz` and give --text FILE.npz, or leave gpt2 out of "
            "--stages."
        )
    return MAKERS[stage](size, work / stage, text)


def _replicate(name: str, share: float, preset: str, seeds: int, more: str = "") -> Job:
    arguments = (
        f"consolidation.replicate {preset} --tables keys --seeds {seeds} --minutes {{minutes}} --no-report "
        f"{more} --out {{out}}"
    )
    return Job(name, share, arguments)


def _base(size: Size, folder: Path, text: Path | None) -> list[Job]:
    small = "--steps 20 --evaluations 2 --evaluation 4 --batch 4"
    return [
        _replicate("base", 1.0, "base", 5) if size == "full" else _replicate("base", 1.0, "tiny", 1, small)
    ]


def _paper(size: Size, folder: Path, text: Path | None) -> list[Job]:
    if size == "full":
        return [
            _replicate("published", 0.5, "paper", 1),
            _replicate("working", 1.0, "paper", 1, WORKING),
        ]
    small = "--steps 12 --evaluations 1 --evaluation 4 --batch 2"
    return [
        _replicate("published", 0.5, "tiny", 1, small),
        _replicate("working", 1.0, "tiny", 1, small + " --attention-penalty 0.4"),
    ]


def _ratios(size: Size, folder: Path, text: Path | None) -> list[Job]:
    full = size == "full"
    model = _shape(folder / "gpt2-medium", full)
    tokens, rounds = (20_000, 12) if full else (2_000, 2)
    attention = "2048 8192 32768" if full else "256 512"
    growth = "1024 2048 4096 8192 16384 32768 65536" if full else "256 512 1024"
    steps = "base" if full else "tiny"
    probe = f"--tokens {tokens} --eval-tokens {max(4_000, tokens // 2)} --random-seeds 2"
    return [
        Job(
            "pass1",
            0.25,
            f"redundancy.benchmark random:{model} --parts pass1 --rounds {rounds} --out {{out}}.csv",
            "",
        ),
        Job(
            "consolidation",
            0.5,
            f"consolidation.benchmark steps attention growth --preset {steps} --rounds {rounds} "
            f"--attention-lengths {attention} --lengths {growth} --out {{out}}.csv",
            "",
        ),
        *(
            Job(
                f"precision-{kind}",
                share,
                f"redundancy.probe embedded --dtype {kind} {probe} --no-report --out {{out}}",
            )
            for kind, share in (("bfloat16", 0.5), ("float64", 1.0))
        ),
    ]


def _gpt2(size: Size, folder: Path, text: Path | None) -> list[Job]:
    full = size == "full"
    small = "" if full else f"{REHEARSED} --layers 2 --heads 2 --width 32 --batch 2 --steps 16 --no-compile"
    train = folder / "train"
    tokens = "--tokens 120000 --eval-tokens 60000"
    if not full:
        tokens = "--tokens 2000 --eval-tokens 4000 --context 64"
    return [
        Job(
            "train",
            0.6,
            f"redundancy.pretrain {text} --preset gpt2-124m {small} --minutes {{minutes}} "
            "--no-report --out {out}",
        ),
        Job(
            "training",
            0.6,
            f"redundancy.training {train} {tokens} --random-seeds 2 --no-report --out {{out}}",
        ),
        Job(
            "removal",
            1.0,
            f"redundancy.removal {train / 'model'} {tokens} --parts layers all curve --random-seeds 2 "
            "--no-report --out {out}",
        ),
    ]


def _shape(folder: Path, full: bool) -> Path:
    """A folder that holds the configuration of a GPT-2 medium, to be given random weights, and the embedded
    tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (DATA / "model").iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            shutil.copy(path, folder)
    config = json.loads((DATA / "model" / "config.json").read_text(encoding="utf-8"))
    depth, width, heads = (24, 1024, 16) if full else (2, 64, 2)
    config |= {"n_layer": depth, "n_embd": width, "n_head": heads, "n_positions": 1024, "n_ctx": 1024}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


MAKERS: dict[StageName, Callable[[Size, Path, Path | None], list[Job]]] = {
    "base": _base,
    "paper": _paper,
    "ratios": _ratios,
    "gpt2": _gpt2,
}


def minutes_of(stage: StageName, command: Command, left: float) -> float:
    """Minutes of a stage: its share of what is left for it and the stages after it, at most LONGEST."""
    after = command.stages[command.stages.index(stage) :]
    return min(LONGEST, left * SHARES[stage] / sum(SHARES[one] for one in after))

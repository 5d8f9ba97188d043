"""Run the stages one after another, each command as a process of its own, and keep the tables of each.

A command that fails or runs out of time ends neither the stage nor the others; `stages.csv` says how each
ended. What was finished is not run again, what was stopped goes on from its state, so the same command may be
repeated until everything is finished, or as long as there is a device.
"""

import platform
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from labbook.console import console, literal, stopping
from labbook.run import provenance, replacing, write_json, write_table
from replication.gpu.config import Command, StageName
from replication.gpu.stages import Job, jobs, minutes_of

# what comes back: tables, trajectories and logs, no weights
KEPT = {".csv", ".json", ".parquet", ".md", ".log"}
LEFT_OUT = {"checkpoints", "model", "state", "gpt2-medium"}
LARGEST = 15_000_000
# seconds that a command has to save its state when its time is over
GRACE = 45.0
BEFORE = "was finished before"


@dataclass(frozen=True)
class Outcome:
    """How one command ended: `finished`, `stopped` (its time was over), `failed` or `not run`."""

    stage: StageName
    job: str
    state: str
    seconds: float
    code: int | None
    said: str


def execute(command: Command) -> pd.DataFrame:
    """All stages that are left, and the table of how each command ended, which is in `stages.csv` too.

    Raises UserError when the stage gpt2 is asked for without its text, before anything is run.
    """
    began = time.monotonic()
    planned = {stage: jobs(stage, command.size, command.work, command.text) for stage in command.stages}
    write_json(command.out / "device.json", _device())
    outcomes: dict[tuple[str, str], Outcome] = {}
    path = command.out / "stages.csv"
    earlier = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["stage", "job", "said"])
    for stage, listed in planned.items():
        left = command.minutes - (time.monotonic() - began) / 60
        end = time.monotonic() + 60 * minutes_of(stage, command, left)
        for job in listed:
            if not stopping():
                outcomes[stage, job.name] = _run(stage, job, command.work / stage, end)
            table = pd.DataFrame([asdict(one) for one in outcomes.values()])
            write_table(command.out / "stages.csv", _with_earlier(table, earlier))
        if stage == "ratios":
            compare_precisions(command.work / stage)
        archive(command.work / stage, command.out / f"{stage}.tar.gz")
    return table


def _with_earlier(table: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """The rows of this call and those of earlier ones that it did not run again."""
    names = ["stage", "job"]
    again = pd.MultiIndex.from_frame(table.loc[table["said"] != BEFORE, names])
    kept = earlier[~pd.MultiIndex.from_frame(earlier[names]).isin(again)]
    new = table[~pd.MultiIndex.from_frame(table[names]).isin(pd.MultiIndex.from_frame(kept[names]))]
    return pd.concat([kept, new], ignore_index=True) if len(kept) else new


def _run(stage: StageName, job: Job, folder: Path, end: float) -> Outcome:
    """Run one command until it ends or its time is over."""
    out, log = folder / job.name, folder / f"{job.name}.log"
    done = out.with_suffix(".csv") if not job.result else out / job.result
    folder.mkdir(parents=True, exist_ok=True)
    if done.exists():
        return Outcome(stage, job.name, "finished", 0.0, None, BEFORE)
    seconds = job.share * (end - time.monotonic())
    if seconds <= 0:
        return Outcome(stage, job.name, "not run", 0.0, None, "no time was left")
    minutes = f"{max(0.01, (seconds - GRACE / 2) / 60):.2f}"
    arguments = shlex.split(job.arguments.format(minutes=minutes, out=out))
    console.print(literal(f"{stage}, {job.name}: {minutes} minutes: {shlex.join(arguments)}"))
    began = time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=stream, stderr=subprocess.STDOUT
        )
        code = _waited(process, seconds)
    spent = time.monotonic() - began
    last = _last_line(log)
    if done.exists() and code == 0:
        state = "finished"
    else:
        # 130: a command stopped with its state saved
        state = "stopped" if code in (0, 130, -signal.SIGTERM, -signal.SIGKILL) else "failed"
    console.print(literal(f"{stage}, {job.name}: {state} after {spent:.0f} s: {last}"))
    return Outcome(stage, job.name, state, spent, code, last)


def _waited(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """The exit code. What is not over in time is asked to stop and save its state, and then killed."""
    for wait, ask in ((seconds, process.terminate), (GRACE, process.kill)):
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if process.poll() is not None:
                return process.returncode
            if stopping():
                break
            time.sleep(0.2)
        ask()
    return process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


def compare_precisions(folder: Path) -> None:
    """Write `precision.csv`: for every metric of the probe the largest difference over layers between bf16
    and float64 weights and activations, the metric in both there, and the half width of its interval.

    Nothing is written while one of the probes is missing.
    """
    paths = [folder / f"precision-{kind}" / "layers.csv" for kind in ("bfloat16", "float64")]
    if not all((path.parent / "summary.json").exists() for path in paths):
        return
    keys = ["layer", "feature", "metric"]
    half, double = (pd.read_csv(path) for path in paths)
    both = half.merge(double, on=keys, suffixes=("_bf16", "_float64"))
    both["difference"] = (both["estimate_bf16"] - both["estimate_float64"]).abs()
    both["half_width"] = (both["upper_float64"] - both["lower_float64"]) / 2
    worst = both.loc[both.groupby(["feature", "metric"], sort=False)["difference"].idxmax().dropna()]
    columns = [*keys, "estimate_bf16", "estimate_float64", "difference", "half_width"]
    write_table(folder / "precision.csv", worst[columns])


def archive(folder: Path, path: Path) -> list[str]:
    """Pack the tables of a stage, smallest first, up to LARGEST bytes before compression is counted; returns
    what was left out, which the archive names in `left-out.txt`.
    """
    found = [
        p
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in KEPT and not LEFT_OUT & set(p.relative_to(folder).parts)
    ]
    found.sort(key=lambda p: p.stat().st_size)
    total, left = 0, list[str]()
    with replacing(path) as partial, tarfile.open(partial, "w:gz") as tar:
        for one in found:
            total += one.stat().st_size
            if total > LARGEST:
                left.append(str(one.relative_to(folder)))
            else:
                tar.add(one, arcname=str(Path(folder.name) / one.relative_to(folder)))
        if left:
            note = folder / "left-out.txt"
            note.write_text("\n".join(left) + "\n", encoding="utf-8")
            tar.add(note, arcname=f"{folder.name}/left-out.txt")
    return left


def _device() -> dict[str, object]:
    """What this machine is."""
    about: dict[str, object] = {"python": platform.python_version(), **provenance()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        about |= {
            "device": card.name,
            "memory_bytes": card.total_memory,
            "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    else:
        about["device"] = "cpu"
    return about

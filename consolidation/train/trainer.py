"""One seed of one training run: steps, evaluations, state.

The state (weights, optimiser moments, exposure counts, rows so far) is one safetensors file, replaced
atomically, and every random number is a function of (seed, step); so a run that was killed at any moment goes
on to the same trajectory, bit for bit on CPUs with the same number of threads (only `seconds` differs).
"""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from consolidation.cram import EPISODIC, TERMS, Model, Part, Routing
from consolidation.rivals import build, parameters
from consolidation.srcd import Batch, generate, generator
from consolidation.step import Step
from consolidation.train import trajectory
from consolidation.train.config import Settings, TrainConfig
from consolidation.train.evaluation import KNOCK_OUTS, accuracies, measure, memories, operations, summarise
from consolidation.train.knowledge import KnowledgeTable
from consolidation.train.patterns import PatternTable
from labbook.console import UserError, choice
from labbook.run import Run, digest, load_tensors, provenance, save_tensors, sealed
from labbook.training import Loop, doubling, moments, restore_moments

STATE = "state.safetensors"
STATE_SECONDS = 60
HEADS = ("retrieve.", "predict.")
# steps whose losses wait on a GPU until the host reads them
UNREAD = 50
MEASURED = (*(f"loss_{term}" for term in TERMS), "attention_in_training")
Row = tuple[int, int, str, str, float, int]


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes of all tensors, by name."""
    parts = (
        (name.encode(), t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for name, t in sorted(tensors.items())
    )
    return digest(bytes(part) for pair in parts for part in pair)


def _accelerator(config: TrainConfig, settings: Settings, folder: Path) -> Accelerator:
    """Raises UserError for a tracker that is not there, and for a batch that the processes cannot share."""
    cpu = not torch.cuda.is_available()
    precision = ("no" if cpu else "bf16") if config.precision == "auto" else config.precision
    available = [str(tracker) for tracker in get_available_trackers()]
    if settings.tracker and settings.tracker not in available:
        raise UserError(
            f"the tracker {settings.tracker!r} is not installed or not known to accelerate; available: "
            f"{', '.join(available) or 'none'}. Install it, or leave --tracker out."
        )
    accelerator = Accelerator(
        cpu=cpu, mixed_precision=precision, log_with=settings.tracker, project_dir=folder
    )
    if config.batch % accelerator.num_processes:
        raise UserError(
            f"--batch {config.batch} cannot be shared by {accelerator.num_processes} processes. "
            "Make it a multiple of that number."
        )
    return accelerator


def _model(config: TrainConfig, weights: Mapping[str, torch.Tensor] | None) -> Model:
    """The model to train, with random weights or, its heads excepted, those of a finished seed."""
    model = build(config.model, config.benchmark, config.cram)
    if weights is not None:
        kept = {k: t for k, t in weights.items() if not k.startswith(HEADS)}
        model.load_state_dict({**model.state_dict(), **kept})
    if config.trained == "heads":
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith(HEADS))
    return model


class Trainer:
    """Train one seed into a run folder.

    Parameters
    ----------
    start : folder of a finished seed whose weights this one starts from, its heads excepted.

    Raises
    ------
    UserError : when the folder holds another run or a damaged state, and when a loss is not finite (the last
        state is kept).
    Interrupted : after Ctrl-C or SIGTERM, with the state saved.
    """

    def __init__(
        self,
        config: TrainConfig,
        seed: int,
        folder: Path,
        settings: Settings | None = None,
        start: Path | None = None,
    ):
        settings = settings or Settings()
        self.accelerator = _accelerator(config, settings, folder)
        weights = None if start is None else load_tensors(start / "model.safetensors")[0]
        origin = None if weights is None else digest(t.numpy().tobytes() for t in weights.values())
        if (folder / "config.json").exists():
            trajectory.read_config(folder)  # a damaged one is named before it is compared
        with self.accelerator.main_process_first():
            self.run = Run(folder, {**config.recorded(), "seed": seed, "start": origin})
        self.config, self.seed, self.device = config.resolved(), seed, self.accelerator.device
        torch.manual_seed(seed)
        self.bare = _model(config, weights).to(self.device)
        self.optimizer = self._optimizer()
        self.model, self.optimizer = self.accelerator.prepare(self.bare, self.optimizer)
        c = self.config
        self.forward = Step(
            self.model if self.accelerator.num_processes > 1 else None,
            self.bare,
            self.accelerator.autocast,
            self.device,
            settings.compilation,
            c.batch * c.benchmark.length * c.cram.width,
        )
        shown = c.benchmark.recurrence * (c.benchmark.queries + c.benchmark.bindings) * c.benchmark.length
        self.table = PatternTable(
            c.batch,
            c.benchmark.patterns,
            len(self.bare.layers),
            max(100.0, 2 * c.steps * c.batch * shown),
            self.device,
        )
        self.step, self.seconds, self.rows = 0, 0.0, list[Row]()
        self.recent: dict[str, list[float]] = {}
        # losses of the last steps, still on the device; reading them makes the host wait for it
        self.unread: list[torch.Tensor] = []
        self.read_every = 1 if self.device.type == "cpu" else UNREAD
        if settings.tracker:
            self.accelerator.init_trackers("consolidation", config={**config.recorded(), "seed": seed})
        self.knowledge = KnowledgeTable(c.benchmark, self.device) if c.benchmark.cohorts else None
        if (folder / STATE).exists():
            self._restore()

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW with the semantic memory at its own rate, and weight decay on matrices only."""
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, p in self.bare.named_parameters():
            if p.requires_grad:
                rate = self.config.semantic_rate if ".semantic." in name else 1.0
                groups.setdefault((rate, self.config.weight_decay if p.dim() > 1 else 0.0), []).append(p)
        parts = [
            {"params": ps, "weight_decay": decay, "relative": rate} for (rate, decay), ps in groups.items()
        ]
        return torch.optim.AdamW(parts, lr=self.config.learning_rate, betas=(0.9, 0.98), fused=True)

    def _mine(self) -> tuple[int, int]:
        """First and last row of the batch that belong to this process."""
        share = self.config.batch // self.accelerator.num_processes
        return share * self.accelerator.process_index, share * (self.accelerator.process_index + 1)

    def train(self, deadline: float = math.inf) -> trajectory.SeedSummary:
        """All remaining steps; returns the summary. A finished run is left as it is.

        Raises Interrupted, with the state saved, after `deadline` on the monotonic clock.
        """
        if self.run.finished:
            return trajectory.read_summary(self.run.folder)
        self.run.json("provenance.json", self._provenance())
        c, doublings = self.config, doubling(self.config.steps)
        even = {round(i * c.steps / c.evaluations) for i in range(1, c.evaluations + 1)}
        probes = c.benchmark.schedule.marks(c.steps) if self.knowledge else set[int]()

        def measured(done: int) -> None:
            if done in probes:
                self._probe()
            if done in even | doublings | {0}:
                self._evaluate(knock_outs=done in doublings | {0, c.steps})

        if self.step == 0:
            measured(0)
        loop = Loop(
            label=f"{c.model}, seed {self.seed}",
            steps=c.steps,
            step=self._step,
            marks=even | doublings | probes,
            measure=measured,
            save=lambda done: self.save(),
            pause=STATE_SECONDS,
            deadline=deadline,
        )
        loop.run(self.step)
        return self._finish()

    def _step(self, step: int) -> str:
        """One optimiser step; returns the loss, and retrieval and attention of the last evaluation."""
        began, c, (first, last) = time.monotonic(), self.config, self._mine()
        # every process draws everything and takes its rows, so the numbers do not depend on how many
        # processes there are
        everything = generate(c.benchmark, self.seed, step, c.batch, self.device)
        draws = generator(self.device, "routing", self.seed, step)
        routing = Routing.draw(len(self.bare.layers), everything, draws, c.temperature_at(step))
        batch = everything.rows(first, last)
        rate = self.config.learning_rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative"]
        self.model.train()
        try:
            outputs, terms = self.forward(batch, routing.rows(first, last), c.objective_at(step))
            self.accelerator.backward(terms["total"])
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            # CPUs have no error class of their own for this
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in said:
                raise
            raise UserError(
                f"out of memory at --batch {c.batch} and --length {c.benchmark.length} ({said}). Try "
                f"--batch {max(1, c.batch // 2)}."
            ) from error
        # no clipping: what makes a router attend again are rare, large gradients, and a clipped sum of them
        # lets the small, steady penalty win
        share = torch.stack([(t.path == EPISODIC).float().mean() for t in outputs.traces]).mean()
        measured = torch.stack([*(terms[name].detach().float() for name in TERMS), share])
        self.unread.append(self.accelerator.reduce(measured, "mean"))
        if len(self.unread) >= self.read_every:
            self._read_losses(step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.table.add(everything, outputs, first, last)
            if self.knowledge:
                self.knowledge.add(step + 1, everything, self.table.exposures.rows.sum(0))
        self.step = step + 1
        self.seconds += time.monotonic() - began
        total = self.recent.get("loss_total", [math.nan])[-1]
        return f"loss {total:.3f}, {self._note()}"

    def _read_losses(self, step: int) -> None:
        """Take the losses of the last steps, up to `step`, from the device. Raises UserError where one is not
        finite; no state was saved since.
        """
        if not self.unread:
            return
        first = step - len(self.unread) + 1
        for place, row in enumerate(torch.stack(self.unread).tolist()):
            values = dict(zip(MEASURED, row, strict=True))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                kept = (
                    f"the state of an earlier step is kept in {STATE}"
                    if (self.run.folder / STATE).exists()
                    else "no state was saved yet"
                )
                raise UserError(
                    f"the loss is not finite at step {first + place}, term {bad[0].removeprefix('loss_')}; "
                    f"{kept}. Lower --learning-rate and choose another --out."
                )
            for name, value in values.items():
                self.recent.setdefault(name, []).append(value)
        self.unread = []

    def _note(self) -> str:
        """Retrieval and attention of the last evaluation."""
        last = {(row[3], row[2]): row[4] for row in self.rows[-200:] if row[1] == -1}
        shown = (("accuracy", "recurring"), ("accuracy", "novel"), ("attention", "all"))
        recurring, novel, attention = (last.get(k, math.nan) for k in shown)
        return f"recurring {recurring:.2f}, novel {novel:.2f}, attention {attention:.3f}"

    def _held_out(self) -> Batch:
        """The held-out sequences: always the same, or with cohorts those that ask for all patterns so far."""
        c = self.config
        step = self.step if c.benchmark.cohorts else 0
        return generate(c.benchmark, self.seed, step, c.evaluation, self.device, "evaluation")

    def _probe(self) -> None:
        """Look at what is known of every pattern."""
        self.bare.eval()
        if self.knowledge:
            with self.accelerator.autocast():
                self.knowledge.probe(self.bare, self._held_out(), self.step, self.table.exposures.rows.sum(0))

    @torch.no_grad()
    def _evaluate(self, knock_outs: bool) -> None:
        """Measure on the held-out sequences and add the rows."""
        began = time.monotonic()
        self._read_losses(self.step)
        self.seconds += time.monotonic() - began
        self.bare.eval()
        c, batch = self.config, self._held_out()
        with self.accelerator.autocast():
            outputs = self.bare(batch)
            everywhere = self.bare(batch, dense=True)
        rows = measure(outputs, batch) + memories(everywhere, batch, c.cram.buffer)
        if knock_outs:
            knocks: dict[str, tuple[Part, ...]] = {
                **{part: (part,) for part in KNOCK_OUTS},
                "all": KNOCK_OUTS,
            }
            for name, parts in knocks.items():
                knocked = accuracies(self.bare(batch, without=frozenset(parts)), batch)
                rows += [(-1, kind, f"accuracy_without_{name}", value, n) for kind, value, n in knocked]
            rows += [
                (-1, "all", metric, value, batch.key.numel())
                for metric, value in operations(self.bare, batch).items()
            ]
        for metric, values in self.recent.items():
            rows.append((-1, "all", metric, float(np.mean(values)), len(values)))
        schedules = {
            "temperature": c.temperature_at(self.step),
            "penalty": c.objective_at(self.step).attention_penalty,
            "learning_rate": c.learning_rate_at(self.step),
            "seconds": self.seconds,
        }
        rows += [(-1, "all", metric, value, 1) for metric, value in schedules.items()]
        self.recent = {}
        self.rows += [(self.step, *row) for row in rows]
        self.accelerator.log(
            {f"{metric}/{kind}": v for layer, kind, metric, v, _ in rows if layer == -1}, step=self.step
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything the next step depends on, by name."""
        self._read_losses(self.step)
        tensors = {f"model:{name}": t for name, t in self.bare.state_dict().items()}
        tensors |= moments([self.optimizer], list(self.bare.named_parameters()))
        tensors["exposures"] = self.table.exposures.rows
        tensors["patterns"] = self.accelerator.reduce(self.table.sums, "sum")
        if self.knowledge:
            tensors |= {"recency": self.knowledge.recency, "knowledge": self.knowledge.rows}
        log = json.dumps({"rows": self.rows, "recent": self.recent})
        tensors["log"] = torch.frombuffer(bytearray(log.encode()), dtype=torch.uint8)
        return tensors

    def save(self) -> None:
        """Write the state, atomically; the next start goes on from here."""
        tensors = self._tensors()
        if self.accelerator.is_main_process:
            about = {
                "step": str(self.step),
                "seconds": str(self.seconds),
                "model": self.config.model,
                "kind": "consolidation",
                "config_digest": trajectory.config_digest(self.run.config),
                "checksum": _checksum(tensors),
            }
            save_tensors(self.run.folder / STATE, tensors, about)

    def _restore(self) -> None:
        """Go on from the saved state. Raises UserError when it is damaged, of another run, or not a state
        that this run can have.
        """
        path = self.run.folder / STATE
        tensors, about = load_tensors(path)
        remove = f"Remove {path} to start this seed again."
        expected = {f"model:{name}": t.shape for name, t in self.bare.state_dict().items()}
        own = {"exposures", "patterns", "log"} | ({"recency", "knowledge"} if self.knowledge else set())
        missing = {*expected, *own} - set(tensors)
        if about.get("kind") != "consolidation" or missing:
            raise UserError(
                f"{path} is not the state of such a run ({about.get('model', 'no model named')}; "
                f"{len(missing)} tensors are missing). {remove}"
            )
        if about.get("config_digest") != trajectory.config_digest(self.run.config):
            raise UserError(f"{path} is the state of a run with another configuration or seed. {remove}")
        if about.get("checksum") != _checksum(tensors):
            raise UserError(f"{path} is damaged: its checksum is not that of its content. {remove}")
        try:
            self.step, self.seconds = int(about["step"]), float(about["seconds"])
            log = json.loads(bytes(tensors["log"].numpy()).decode())
            self.rows, self.recent = [tuple(row) for row in log["rows"]], log["recent"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is damaged: its step or its rows cannot be read ({error}). {remove}"
            ) from error
        last = max((row[0] for row in self.rows), default=0)
        if not last <= self.step <= self.config.steps or not (
            math.isfinite(self.seconds) and self.seconds >= 0
        ):
            raise UserError(
                f"{path} says that {self.step} steps in {self.seconds} s are done, with rows up to step "
                f"{last}; the run has {self.config.steps} steps. {remove}"
            )
        shapes = {**expected, "exposures": self.table.exposures.rows.shape, "patterns": self.table.sums.shape}
        wrong = [name for name, shape in shapes.items() if tensors[name].shape != shape]
        if wrong:
            raise UserError(
                f"{path} has {wrong[0]} in the shape {tuple(tensors[wrong[0]].shape)}, asked "
                f"{tuple(shapes[wrong[0]])}. {remove}"
            )
        self.bare.load_state_dict(
            {k.removeprefix("model:"): t for k, t in tensors.items() if k.startswith("model:")}
        )
        restore_moments([self.optimizer], list(self.bare.named_parameters()), tensors)
        self.table.exposures.rows = tensors["exposures"].to(self.device)
        if self.knowledge:
            self.knowledge.recency = tensors["recency"].to(self.device)
            self.knowledge.rows = tensors["knowledge"].to(self.device)
        if self.accelerator.is_main_process:
            self.table.sums = tensors["patterns"].to(self.device)
        choice("resume", f"step {self.step}", f"{STATE} is there")

    def _provenance(self) -> dict[str, Any]:
        return provenance(
            seed=self.seed,
            device=str(self.device),
            threads=torch.get_num_threads(),
            processes=self.accelerator.num_processes,
            precision=self.accelerator.mixed_precision,
            parameters=parameters(self.bare),
        )

    def _finish(self) -> trajectory.SeedSummary:
        """Write the tables, the weights, and the summary."""
        self.table.sums = self.accelerator.reduce(self.table.sums, "sum")
        table = trajectory.tidy(self.rows)
        facts = {"model": self.config.model, "seed": self.seed, "config": self.run.config}
        digest_of_config = trajectory.config_digest(self.run.config)
        summary = summarise(table, self.config, self.seed, parameters(self.bare), digest_of_config)
        if self.accelerator.is_main_process:
            folder = self.run.folder
            trajectory.write(folder / "trajectory.parquet", table, facts)
            trajectory.write(folder / "patterns.parquet", self.table.table(), facts)
            if self.knowledge:
                trajectory.write(folder / "knowledge.parquet", self.knowledge.table(), facts)
            save_tensors(folder / "model.safetensors", self.bare.state_dict(), {"model": self.config.model})
            self.run.json("summary.json", sealed(summary.to_json()))
            (folder / STATE).unlink(missing_ok=True)
        self.accelerator.end_training()
        return summary

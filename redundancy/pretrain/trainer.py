"""The training loop: order of the data and learning rate are pure functions of (seed, step), so a resumed run
ends the same.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from labbook.console import UserError, choice
from labbook.run import (
    Run,
    digest,
    load_tensors,
    owner,
    read_table,
    save_tensors,
)
from labbook.training import Loop, doubling, moments, restore_moments
from redundancy.pretrain.config import PretrainConfig
from redundancy.pretrain.tokens import window_order

STATE_SECONDS = 120


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))


def checkpoint_steps(last: int) -> list[int]:
    """0, 1, 2, 4, 8, ... and the last step."""
    return sorted({0, last} | doubling(last))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 2 % of the steps, then a cosine to zero."""
    warmup = max(1, steps // 50)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def validation_loss(model: torch.nn.Module, windows: torch.Tensor, batch: int) -> float:
    """Mean loss in nats per token over (window, context + 1) token windows."""
    total, device = 0.0, next(model.parameters()).device
    for part in windows.split(batch):
        ids = part.to(device)
        logits = model(ids[:, :-1]).logits.float()
        total += float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").double())
    return total / (windows.shape[0] * (windows.shape[1] - 1))


def _new_model(config: PretrainConfig, end: int) -> GPT2LMHeadModel:
    """A GPT-2 of the configured shape with random weights; `end` is the token between texts."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocabulary,
            n_positions=config.context,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end,
            eos_token_id=end,
            loss_type="ForCausalLM",
        )
    )


class Trainer:
    """The training loop with its state: step, weights, AdamW moments, losses so far."""

    def __init__(
        self,
        config: PretrainConfig,
        run: Run,
        tokens: npt.NDArray[np.int64],
        validation: torch.Tensor,
        tokenizer: Any,
    ):
        self.config, self.run, self.tokens, self.validation, self.tokenizer = (
            config,
            run,
            tokens,
            validation,
            tokenizer,
        )
        precision = config.precision if config.precision != "auto" else ("bf16" if native_bf16() else "no")
        choice("precision", precision, "matrix products; weights, optimiser and losses stay float32")
        self.accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
        self.windows = (len(tokens) - 1) // config.context
        self.steps = self.windows // config.batch if config.steps is None else config.steps
        if self.steps < 1:
            raise UserError(
                f"the corpus has {len(tokens)} tokens, one step needs {config.batch * config.context}. Give "
                "more text or a smaller --batch."
            )
        torch.manual_seed(config.seed)
        model = _new_model(config, tokenizer.eos_token_id)
        # Muon for the matrices inside the blocks, AdamW for embeddings and vectors: on this text the
        # validation loss after 1 M tokens is 4.73-4.75 nats with Muon and 5.01 with AdamW alone, at the same
        # batch and schedule
        inside = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
        embeddings = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." not in name]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        rest = [
            {"params": embeddings, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        muon = torch.optim.Muon(inside, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True)
        self.model, *self.optimizers = self.accelerator.prepare(model, muon, adamw)
        self.loss = torch.compile(self._loss) if config.compile else self._loss
        self.bare: GPT2LMHeadModel = self.accelerator.unwrap_model(self.model)
        self.step, self.rows, self.recent = (
            0,
            list[dict[str, float]](),
            torch.zeros(0),
        )  # losses of the last 50 steps
        if (run.folder / "state.safetensors").exists():
            self._restore()

    def _loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per token of (window, context + 1) token windows."""
        with self.accelerator.autocast():
            logits = self.model(ids[:, :-1], use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    @property
    def _named(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.bare.named_parameters())

    def save(self) -> None:
        """Write the state, atomically; the next start goes on from here."""
        if self.accelerator.is_main_process:
            weights = {f"weight:{name}": p for name, p in self._named}
            save_tensors(
                self.run.folder / "state.safetensors",
                {**weights, **moments(self.optimizers, self._named), "recent": self.recent},
                {"step": str(self.step), "rows": _rows_digest(self.rows)},
                owner(self.run.folder / "state.safetensors"),
            )

    def _restore(self) -> None:
        path = self.run.folder / "state.safetensors"
        tensors, metadata = load_tensors(path, owner(path))
        wanted = {"recent", *(f"weight:{name}" for name, _ in self._named)}
        step = metadata.get("step", "")
        if not step.isdecimal() or int(step) > self.steps or not wanted <= set(tensors):
            raise UserError(
                f"{path} is no state of this training (step {step or 'missing'} of {self.steps}). Remove it "
                "to start again."
            )
        self.step, self.recent = int(step), tensors["recent"]
        table = read_table(self.run.folder / "trajectory.csv")
        columns = {"step", "tokens", "train_loss", "validation_loss"}
        if set(table.columns) != columns:
            raise UserError(
                f"{self.run.folder / 'trajectory.csv'} has the columns {', '.join(table.columns)} and not "
                f"{', '.join(sorted(columns))}. Restore it from a copy, or choose another --out."
            )
        self.rows = table.query("step <= @self.step").to_dict("records")  # type: ignore[assignment]
        if metadata.get("rows", _rows_digest(self.rows)) != _rows_digest(self.rows):
            raise UserError(
                f"{self.run.folder / 'trajectory.csv'} is not the table that belongs to the state of step "
                f"{self.step}: it was changed. Restore it from a copy, or choose another --out."
            )
        with torch.no_grad():
            for name, p in self._named:
                p.copy_(tensors[f"weight:{name}"])
        restore_moments(self.optimizers, self._named, tensors)
        choice("resume", f"step {self.step}", "state.safetensors is there")

    def batch(self, step: int) -> torch.Tensor:
        """This process' share of the windows of `step`: (window, context + 1)."""
        c, per_epoch = self.config, self.windows // self.config.batch
        order = window_order(self.windows, step // per_epoch, c.seed)
        first = (step % per_epoch) * c.batch
        mine = order[first : first + c.batch][
            self.accelerator.process_index :: self.accelerator.num_processes
        ]
        return torch.from_numpy(
            np.stack([self.tokens[i * c.context : (i + 1) * c.context + 1].astype(np.int64) for i in mine])
        )

    def checkpoint(self, train_loss: float) -> None:
        """Score the validation windows and write weights and `trajectory.csv`."""
        if not self.accelerator.is_main_process:
            return
        loss = validation_loss(self.bare, self.validation, self.config.batch)
        tokens = self.step * self.config.batch * self.config.context
        self.rows.append(
            {"step": self.step, "tokens": tokens, "train_loss": train_loss, "validation_loss": loss}
        )
        folder = self.run.folder / "checkpoints" / f"step-{self.step:06d}"
        save_tensors(folder / "model.safetensors", dict(self.bare.named_parameters()), {"format": "pt"})
        self.bare.config.save_pretrained(folder)
        # so that the last checkpoint, too, is a model that can be measured
        self.tokenizer.save_pretrained(folder)
        self.run.table("trajectory.csv", pd.DataFrame(self.rows))

    def train(self, deadline: float = math.inf) -> None:
        """Run all remaining steps; on Ctrl-C or SIGTERM, and after `deadline` on the monotonic clock, finish
        the step and save the state first.
        """
        if self.step == 0:
            self.checkpoint(float("nan"))
        loop = Loop(
            label="pretraining",
            steps=self.steps,
            step=self._step,
            marks=checkpoint_steps(self.steps),
            measure=lambda done: self.checkpoint(float(self.recent.mean())),
            save=lambda done: self.save(),
            pause=STATE_SECONDS,
            deadline=deadline,
        )
        loop.run(self.step)

    def _step(self, step: int) -> str:
        began, c, ids = time.monotonic(), self.config, self.batch(step).to(self.accelerator.device)
        rate = learning_rate(step, self.steps, c.learning_rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = self.loss(ids)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step = step + 1
        over_all = self.accelerator.reduce(loss.detach(), "mean")
        self.recent = torch.cat([self.recent[-49:], over_all.cpu().reshape(1)])
        if not bool(torch.isfinite(self.recent[-1])):
            raise UserError(
                f"the loss is not finite at step {self.step}. Lower --learning-rate; the last checkpoint "
                "is kept."
            )
        speed = c.batch * c.context / (time.monotonic() - began)
        return f"loss {float(self.recent[-1]):.3f}, {speed:,.0f} tokens/s"


def _rows_digest(rows: list[dict[str, float]]) -> str:
    """SHA-256 over the rows of `trajectory.csv`, whether their whole numbers were read as such or not."""
    return digest([json.dumps([{k: float(row[k]) for k in sorted(row)} for row in rows]).encode()])

"""Train a small GPT-2 on any text: `python -m redundancy.pretrain CORPUS --out DIR`.

The run folder holds the tokenizer and final weights in the hub's layout (`model/`), log-spaced checkpoints
(`checkpoints/step-*/`), `trajectory.csv` with the losses, and `card.md`. `--ship DIR` copies what the
project embeds, in half precision. A killed run, repeated with the same command, goes on where it stopped: data order and learning rate
are pure functions of (seed, step), and the state holds weights and optimiser moments, so the result is the same.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import tyro
from accelerate import Accelerator, PartialState
from tokenizers import ByteLevelBPETokenizer
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from labbook.console import Interrupted, UserError, choice, console, guarded, literal, progress, stopping
from labbook.run import (
    Run,
    digest,
    load_tensors,
    owner,
    provenance,
    read_json,
    read_table,
    replacing,
    save_tensors,
    write_json,
)
from redundancy.ngram import NGram
from redundancy.setup import check_seed
from redundancy.text import Corpus, TextOptions, read_corpus, split_documents

END = "<|endoftext|>"
STATE_SECONDS = 120


@dataclass(frozen=True)
class PretrainConfig(TextOptions):
    """What is trained, on what, for how long."""

    corpus: Annotated[str, tyro.conf.Positional]
    """A .txt, .parquet or .jsonl file, a folder of them, or a hub dataset id (streamed up to --characters)."""
    validation: str | None = None
    """Text for the validation loss, read like the corpus. None: 12 % of the corpus' documents, by hash."""
    validation_tokens: int = 131_072
    """Tokens of validation text scored at each checkpoint, spread evenly over it."""
    characters: int = 500_000_000
    """How much of a streamed hub dataset is read."""
    layers: int = 6
    """Decoder blocks."""
    heads: int = 4
    """Attention heads per block."""
    width: int = 128
    """d_model."""
    vocabulary: int = 2048
    """Byte-level BPE tokens, the end-of-text token included. Small, so that the weights go into the blocks."""
    context: int = 256
    """Tokens per training window."""
    batch: int = 16
    """Windows per step, over all processes."""
    steps: int | None = None
    """Optimiser steps. None: one pass over the text."""
    learning_rate: float = 6e-3
    """Peak, for Muon (scaled to AdamW's update size) and AdamW alike; 2 % linear warm-up, then cosine to zero."""
    weight_decay: float = 0.1
    """On matrices only."""
    seed: int = 0
    """Of the weights and of the order of the data."""
    compile: bool = False
    """Compile the loss with torch.compile: a fifth faster on two CPU cores; needs a C++ compiler there."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs and CPUs with native bf16 arithmetic, else float32. Weights stay float32."""


def check(config: PretrainConfig) -> None:
    """Raise UserError for numbers that no training can have, before anything is read."""
    least = {"layers": 1, "heads": 1, "width": 1, "context": 1, "batch": 1, "vocabulary": 257, "characters": 1}
    least |= {"validation_tokens": 1} | ({} if config.steps is None else {"steps": 1})
    for name, bound in least.items():
        value = getattr(config, name)
        if value < bound:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value} was asked for; it has to be at least {bound}. Change {flag}.")
    if config.width % config.heads:
        raise UserError(
            f"--width {config.width} was asked for with --heads {config.heads}; the width is a multiple of "
            "the heads. Change one."
        )
    if not (config.learning_rate > 0 and math.isfinite(config.learning_rate)):
        raise UserError(
            f"--learning-rate {config.learning_rate} was asked for; it has to be positive and finite. Change "
            "--learning-rate."
        )
    check_seed(config.seed)


def processes() -> PartialState:
    """The processes of this training (torchrun, accelerate launch): accelerate joins CPU processes only when told to."""
    return PartialState(cpu=not torch.cuda.is_available())


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))


def checkpoint_steps(last: int) -> list[int]:
    """0, 1, 2, 4, 8, ... and the last step."""
    return sorted({0, last, *(2**i for i in range(last.bit_length()) if 2**i < last)})


def train_tokenizer(corpus: Corpus, vocabulary: int, context: int, folder: Path) -> GPT2TokenizerFast:
    """Train a byte-level BPE tokenizer on the corpus and save it in the hub's layout."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        (d.text for d in corpus.documents), vocab_size=vocabulary, special_tokens=[END], show_progress=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    tokenizer = GPT2TokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=context,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode(texts: list[str], tokenizer: Any) -> npt.NDArray[np.int64]:
    """All texts as one array of token ids, each closed by the end-of-text token: (n,)."""
    pieces = []
    for text in texts:
        pieces.append(np.array([*tokenizer(text, verbose=False)["input_ids"], tokenizer.eos_token_id], dtype=np.int64))
    return np.concatenate(pieces)


def window_order(windows: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    """The order of the training windows in one epoch: a pure function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(windows)


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


def spread_windows(tokens: npt.NDArray[np.int64], context: int, budget: int) -> torch.Tensor:
    """Windows of context + 1 tokens at even distances over `tokens`: (about budget / context, context + 1)."""
    if len(tokens) < context + 1:
        raise UserError(
            f"the validation text has {len(tokens)} tokens, a window needs {context + 1}. Give more text or a smaller --context."
        )
    count = max(1, min(budget, len(tokens) - 1) // context)
    starts = np.linspace(0, len(tokens) - context - 1, count).astype(np.int64)
    return torch.from_numpy(np.stack([tokens[s : s + context + 1] for s in starts]))


class Trainer:
    """The training loop with its state: step, weights, AdamW moments, losses so far."""

    def __init__(
        self, config: PretrainConfig, run: Run, tokens: npt.NDArray[np.int64], validation: torch.Tensor, tokenizer: Any
    ):
        self.config, self.run, self.tokens, self.validation, self.tokenizer = config, run, tokens, validation, tokenizer
        precision = config.precision if config.precision != "auto" else ("bf16" if native_bf16() else "no")
        choice("precision", precision, "matrix products; weights, optimiser and losses stay float32")
        self.accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
        self.windows = (len(tokens) - 1) // config.context
        self.steps = self.windows // config.batch if config.steps is None else config.steps
        if self.steps < 1:
            raise UserError(
                f"the corpus has {len(tokens)} tokens, one step needs {config.batch * config.context}. Give more text or a smaller --batch."
            )
        torch.manual_seed(config.seed)
        end = tokenizer.eos_token_id
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocabulary, n_positions=config.context, n_embd=config.width, n_layer=config.layers, n_head=config.heads,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end, loss_type="ForCausalLM",
            )
        )  # fmt: skip
        # Muon for the matrices inside the blocks, AdamW for embeddings and vectors: on this text the validation loss after
        # 1 M tokens is 4.73-4.75 nats with Muon and 5.01 with AdamW alone, at the same batch and schedule
        inside = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
        embeddings = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." not in name]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        rest = [{"params": embeddings, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        muon = torch.optim.Muon(inside, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True)
        self.model, *self.optimizers = self.accelerator.prepare(model, muon, adamw)
        self.loss = torch.compile(self._loss) if config.compile else self._loss
        self.bare: GPT2LMHeadModel = self.accelerator.unwrap_model(self.model)
        self.step, self.rows, self.recent = 0, list[dict[str, float]](), torch.zeros(0)  # losses of the last 50 steps
        if (run.folder / "state.safetensors").exists():
            self._restore()

    def _loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per token of (window, context + 1) token windows."""
        with self.accelerator.autocast():
            logits = self.model(ids[:, :-1], use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    def _moments(self) -> dict[str, torch.Tensor]:
        """The optimisers' tensors by name and parameter."""
        named = list(self.bare.named_parameters())
        states = [
            (name, optimizer.state[p]) for optimizer in self.optimizers for name, p in named if p in optimizer.state
        ]
        return {f"{key}:{name}": tensor for name, state in states for key, tensor in state.items()}

    def save(self) -> None:
        """Write the state, atomically; the next start goes on from here."""
        if self.accelerator.is_main_process:
            weights = {f"weight:{name}": p for name, p in self.bare.named_parameters()}
            save_tensors(
                self.run.folder / "state.safetensors",
                {**weights, **self._moments(), "recent": self.recent},
                {"step": str(self.step), "rows": _rows_digest(self.rows)},
                owner(self.run.folder / "state.safetensors"),
            )

    def _restore(self) -> None:
        path = self.run.folder / "state.safetensors"
        tensors, metadata = load_tensors(path, owner(path))
        wanted = {"recent", *(f"weight:{name}" for name, _ in self.bare.named_parameters())}
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
                f"{self.run.folder / 'trajectory.csv'} is not the table that belongs to the state of step {self.step}: it was changed. "
                "Restore it from a copy, or choose another --out."
            )
        with torch.no_grad():
            for name, p in self.bare.named_parameters():
                p.copy_(tensors[f"weight:{name}"])
                optimizer = next(o for o in self.optimizers if any(p is q for g in o.param_groups for q in g["params"]))
                state = {
                    k.split(":")[0]: t
                    for k, t in tensors.items()
                    if k.endswith(f":{name}") and not k.startswith("weight:")
                }
                if state:
                    # AdamW keeps its step counter on the CPU
                    optimizer.state[p] = {k: t if k == "step" else t.to(p.device) for k, t in state.items()}
        choice("resume", f"step {self.step}", "state.safetensors is there")

    def batch(self, step: int) -> torch.Tensor:
        """This process' share of the windows of `step`: (window, context + 1)."""
        c, per_epoch = self.config, self.windows // self.config.batch
        order = window_order(self.windows, step // per_epoch, c.seed)
        first = (step % per_epoch) * c.batch
        mine = order[first : first + c.batch][self.accelerator.process_index :: self.accelerator.num_processes]
        return torch.from_numpy(
            np.stack([self.tokens[i * c.context : (i + 1) * c.context + 1].astype(np.int64) for i in mine])
        )

    def checkpoint(self, train_loss: float) -> None:
        """Score the validation windows and write weights and `trajectory.csv`."""
        if not self.accelerator.is_main_process:
            return
        loss = validation_loss(self.bare, self.validation, self.config.batch)
        tokens = self.step * self.config.batch * self.config.context
        self.rows.append({"step": self.step, "tokens": tokens, "train_loss": train_loss, "validation_loss": loss})
        folder = self.run.folder / "checkpoints" / f"step-{self.step:06d}"
        save_tensors(folder / "model.safetensors", dict(self.bare.named_parameters()), {"format": "pt"})
        self.bare.config.save_pretrained(folder)
        self.run.table("trajectory.csv", pd.DataFrame(self.rows))

    def train(self) -> None:
        """Run all remaining steps; on Ctrl-C or SIGTERM finish the step and save the state first."""
        marks, saved, c = set(checkpoint_steps(self.steps)), time.monotonic(), self.config
        device = self.accelerator.device
        if self.step == 0:
            self.checkpoint(float("nan"))
        with progress("pretraining", self.steps, self.step) as advance:
            while self.step < self.steps:
                began, ids = time.monotonic(), self.batch(self.step).to(device)
                rate = learning_rate(self.step, self.steps, c.learning_rate)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                loss = self.loss(ids)
                self.accelerator.backward(loss)
                self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                self.step += 1
                over_all = self.accelerator.reduce(loss.detach(), "mean")
                self.recent = torch.cat([self.recent[-49:], over_all.cpu().reshape(1)])
                if not bool(torch.isfinite(self.recent[-1])):
                    raise UserError(
                        f"the loss is not finite at step {self.step}. Lower --learning-rate; the last checkpoint is kept."
                    )
                speed = c.batch * c.context / (time.monotonic() - began)
                advance(1, f"loss {float(self.recent[-1]):.3f}, {speed:,.0f} tokens/s")
                if self.step in marks:
                    self.checkpoint(float(self.recent.mean()))
                if self.step in marks or stopping() or time.monotonic() - saved > STATE_SECONDS:
                    self.save()
                    saved = time.monotonic()
                if stopping():
                    raise Interrupted(f"The state of step {self.step} is saved; repeat the same command to go on.")


def _rows_digest(rows: list[dict[str, float]]) -> str:
    """SHA-256 over the rows of `trajectory.csv`, whether their whole numbers were read as such or not."""
    return digest([json.dumps([{k: float(row[k]) for k in sorted(row)} for row in rows]).encode()])


def baselines(train: npt.NDArray[np.int64], validation: torch.Tensor, vocabulary: int) -> dict[str, float]:
    """Nats per token of Kneser-Ney models of order 1, 3 and 5 of the same windows, trained on the same tokens."""
    losses = {}
    for order in (1, 3, 5):
        model = NGram(train.astype(np.int64), order, vocabulary)
        losses[f"{order}-gram"] = -float(np.mean([model.log_probabilities(w.numpy()) for w in validation]))
    return losses


def write_card(trainer: Trainer, folder: Path, facts: dict[str, Any]) -> None:
    """The model card: what it is, what it was trained on, and its losses beside the baselines."""
    c, last = trainer.config, trainer.rows[-1]
    per_byte = facts["tokens_per_byte"] / math.log(2)
    rows = [("this model", last["validation_loss"]), *((f"Kneser-Ney {k}", v) for k, v in facts["baselines"].items())]
    table = "\n".join(f"| {name} | {nats:.4f} | {nats * per_byte:.4f} |" for name, nats in rows)
    checkpoints = "\n".join(
        f"| {r['step']:.0f} | {r['tokens']:.0f} | {r['validation_loss']:.4f} |" for r in trainer.rows
    )
    text = f"""# A GPT-2 of {facts["parameters"]:,} parameters

`GPT2LMHeadModel` with {c.layers} blocks, {c.heads} heads, d_model {c.width}, context {c.context}, and a byte-level BPE tokenizer
of {c.vocabulary} tokens trained on the same text. Made by `python -m redundancy.pretrain` (commit {facts["commit"]}).

- Training text: {facts["train_documents"]} documents, {facts["train_characters"]:,} characters, {facts["train_tokens"]:,} tokens (`{Path(c.corpus).name}`, SHA-256 of its
  documents {facts["train_hash"][:16]}).
- Training: {trainer.steps} steps of {c.batch} x {c.context} tokens = {trainer.steps * c.batch * c.context:,} tokens; Muon inside the blocks, AdamW (.9, .95) elsewhere, peak learning
  rate {c.learning_rate}, weight decay {c.weight_decay}, cosine to zero; precision {trainer.accelerator.mixed_precision}; seed {c.seed}; {facts["device"]}.
- Validation text: {facts["validation_documents"]} documents that the model never saw, {trainer.validation.shape[0]} windows, {facts["scored"]:,} scored tokens,
  {1 / facts["tokens_per_byte"]:.3f} bytes per token.

| model | nats per token | bits per byte |
|---|---|---|
{table}

The n-gram models are interpolated Kneser-Ney, trained on the same training tokens and scored on the same tokens with the
same context.

| step | tokens | validation loss (nats per token) |
|---|---|---|
{checkpoints}
"""
    with replacing(folder / "card.md") as partial:
        partial.write_text(text, encoding="utf-8")


def pretrain(config: PretrainConfig, out: Path) -> Path:
    """Train as configured into `out` and return it. A finished run is left as it is.

    Raises UserError for numbers, text or a folder that it cannot be done with.
    """
    check(config)
    with processes().main_process_first():
        run = Run(out, config)
    if run.finished:
        console.print("this run is finished; nothing to do")
        return out
    corpus = read_corpus(config.corpus, config.characters, config)
    if config.validation is None:
        parts = split_documents(corpus.documents, config.seed)
        train_documents, held = parts["train"] + parts["evaluation"], parts["validation"]
        corpus = Corpus(corpus.source, corpus.unit, tuple(train_documents))
    else:
        held = list(read_corpus(config.validation, config.characters, config).documents)
        shared = {d.id for d in corpus.documents} & {d.id for d in held}
        if shared:
            raise UserError(
                f"{len(shared)} validation documents are also in the training text. Give --validation other documents."
            )
    with processes().main_process_first():
        tokenizer, tokens = tokenise(config, corpus, out)
    held_tokens = encode([d.text for d in held], tokenizer)
    validation = spread_windows(held_tokens, config.context, config.validation_tokens)
    trainer = Trainer(config, run, tokens, validation, tokenizer)
    facts = {
        "parameters": sum(p.numel() for p in trainer.bare.parameters()),
        "train_documents": len(corpus.documents),
        "train_characters": sum(len(d.text) for d in corpus.documents),
        "train_tokens": len(tokens),
        "train_hash": corpus.hash,
        "validation_documents": len(held),
        "scored": validation.shape[0] * config.context,
        "tokens_per_byte": len(held_tokens) / sum(len(d.text.encode()) for d in held),
        "device": str(trainer.accelerator.device),
    }
    about = provenance(**facts)
    run.json("provenance.json", about)
    console.print(f"{facts['parameters']:,} parameters, {len(tokens):,} training tokens, {trainer.steps} steps")
    trainer.train()
    if trainer.accelerator.is_main_process:
        trainer.bare.save_pretrained(out / "model")
        facts["baselines"] = baselines(tokens, validation, config.vocabulary)
        write_card(trainer, out, {**facts, "commit": about["commit"]})
        run.json(
            "summary.json",
            {
                "config": asdict(config),
                **facts,
                "checkpoints": trainer.rows[1:],
                "initial_loss": trainer.rows[0]["validation_loss"],
            },
        )
        (out / "state.safetensors").unlink(missing_ok=True)
    return out


def tokenise(config: PretrainConfig, corpus: Corpus, out: Path) -> tuple[Any, npt.NDArray[Any]]:
    """The tokenizer and the tokenised training text, made once and kept in the run folder with what they were
    made of.

    Raises UserError when the folder holds others: of another text, damaged, or changed.
    """
    store, about, model = out / "tokens.npy", out / "tokens.json", out / "model" / "tokenizer.json"

    def contents() -> dict[str, str]:
        files = {path.name: digest([path.read_bytes()]) for path in (store, model) if path.is_file()}
        return {"text": corpus.hash, **files}

    if not about.exists():
        with console.status("training the tokenizer and encoding the text"):
            tokenizer = train_tokenizer(corpus, config.vocabulary, config.context, out / "model")
            tokens = encode([d.text for d in corpus.documents], tokenizer)
        with replacing(store) as partial, partial.open("wb") as file:
            np.save(file, tokens.astype(np.uint16 if config.vocabulary <= 2**16 else np.int32))
        write_json(about, contents())
    stated, found = read_json(about), contents()
    if stated != found:
        changed = ", ".join(sorted(k for k in {*stated, *found} if stated.get(k) != found.get(k)))
        raise UserError(
            f"{out} holds the tokens of another text, or they were changed ({changed}). Choose another "
            "--out, or restore that folder and the text from a copy."
        )
    return GPT2TokenizerFast.from_pretrained(out / "model"), np.load(store, mmap_mode="r")


def ship(out: Path, folder: Path, steps: tuple[int, ...]) -> None:
    """Copy final weights, tokenizer, card and the checkpoints of `steps` to `folder`, weights in float16."""
    available = {int(p.name.split("-")[1]): p for p in (out / "checkpoints").iterdir()}
    missing = sorted(set(steps) - set(available))
    if missing:
        raise UserError(f"no checkpoints for steps {missing}; there are {sorted(available)}. Change --ship-steps.")
    for source, name in [(out / "model", "model"), *((available[s], f"checkpoints/step-{s:06d}") for s in steps)]:
        GPT2LMHeadModel.from_pretrained(source).half().save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
    GPT2TokenizerFast.from_pretrained(out / "model").save_pretrained(folder / "model")
    (folder / "card.md").write_text((out / "card.md").read_text(encoding="utf-8"), encoding="utf-8")
    pd.read_csv(out / "trajectory.csv").to_csv(folder / "trajectory.csv", index=False)


@dataclass(frozen=True)
class Command:
    """Train a small GPT-2 on any text."""

    config: tyro.conf.OmitArgPrefixes[PretrainConfig]
    out: Path
    """Run folder; the same command again resumes it."""
    ship: Path | None = None
    """Also copy final weights, tokenizer, card and the checkpoints of --ship-steps there, in float16."""
    ship_steps: tuple[int, ...] = ()
    """Checkpoints to ship beside the final weights."""


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m redundancy.pretrain")

    def body() -> None:
        pretrain(command.config, command.out)
        if command.ship is not None and processes().is_main_process:
            ship(command.out, command.ship, command.ship_steps)
        console.print(literal(command.ship or command.out))

    guarded(body)


if __name__ == "__main__":
    main()

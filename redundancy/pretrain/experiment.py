"""Train a small GPT-2 on any text: `python -m redundancy.pretrain CORPUS --out DIR`.

The run folder holds the tokenizer and final weights in the hub's layout (`model/`), log-spaced checkpoints
(`checkpoints/step-*/`), `trajectory.csv` with the losses, and `card.md`. `--ship DIR` copies what the project
embeds, in half precision. A killed run, repeated with the same command, goes on where it stopped: data order
and learning rate are pure functions of (seed, step), and the state holds weights and optimiser moments, so
the result is the same.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from transformers import GPT2LMHeadModel, GPT2TokenizerFast

from labbook.console import UserError, console
from labbook.report import Report
from labbook.run import Run, provenance, readable, replacing
from labbook.training import joined
from redundancy.corpus.documents import Document
from redundancy.facts import bits_per_byte
from redundancy.pretrain.config import PretrainConfig, check
from redundancy.pretrain.packed import SUFFIX, facts_of, pack, unpack
from redundancy.pretrain.tokens import baselines, encode, spread_windows, tokenise
from redundancy.pretrain.trainer import Trainer
from redundancy.text import Corpus, read_corpus, split_documents


def write_card(trainer: Trainer, folder: Path, facts: dict[str, Any]) -> None:
    """The model card: what it is, what it was trained on, and its losses beside the baselines."""
    c, last = trainer.config, trainer.rows[-1]
    bytes_per_token = 1 / facts["tokens_per_byte"]
    rows = [
        ("this model", last["validation_loss"]),
        *((f"Kneser-Ney {k}", v) for k, v in facts["baselines"].items()),
    ]
    table = "\n".join(
        f"| {name} | {nats:.4f} | {bits_per_byte(nats, bytes_per_token):.4f} |" for name, nats in rows
    )
    checkpoints = "\n".join(
        f"| {r['step']:.0f} | {r['tokens']:.0f} | {r['validation_loss']:.4f} |" for r in trainer.rows
    )
    text = f"""# A GPT-2 of {facts["parameters"]:,} parameters

`GPT2LMHeadModel` with {c.layers} blocks, {c.heads} heads, d_model {c.width}, context {c.context}, and a \
byte-level BPE tokenizer
of {c.vocabulary} tokens trained on the same text. Made by `python -m redundancy.pretrain` (commit \
{facts["commit"]}).

- Training text: {facts["train_documents"]} documents, {facts["train_characters"]:,} characters, \
{facts["train_tokens"]:,} tokens (`{Path(c.corpus).name}`, SHA-256 of its
  documents {facts["train_hash"][:16]}).
- Training: {trainer.steps} steps of {c.batch} x {c.context} tokens = \
{trainer.steps * c.batch * c.context:,} tokens; Muon inside the blocks, AdamW (.9, .95) elsewhere, \
peak learning
  rate {c.learning_rate}, weight decay {c.weight_decay}, cosine to zero; precision \
{trainer.accelerator.mixed_precision}; seed {c.seed}; {facts["device"]}.
- Validation text: {facts["validation_documents"]} documents that the model never saw, \
{trainer.validation.shape[0]} windows, {facts["scored"]:,} scored tokens,
  {1 / facts["tokens_per_byte"]:.3f} bytes per token.

| model | nats per token | bits per byte |
|---|---|---|
{table}

The n-gram models are interpolated Kneser-Ney, trained on the same training tokens and scored on the same \
tokens with the
same context.

| step | tokens | validation loss (nats per token) |
|---|---|---|
{checkpoints}
"""
    with replacing(folder / "card.md") as partial:
        partial.write_text(text, encoding="utf-8")


def page(trainer: Trainer, facts: dict[str, Any]) -> Report:
    """What the report of a run holds."""
    last = trainer.rows[-1]["validation_loss"]
    rivals = ", ".join(f"{name} {nats:.3f}" for name, nats in facts["baselines"].items())
    return Report(
        command="redundancy.pretrain",
        title=f"A GPT-2 of {facts['parameters']:,} parameters",
        verdict=[
            f"After {trainer.steps:,} steps the validation loss is {last:.3f} nats per token; at the start "
            f"it was {trainer.rows[0]['validation_loss']:.3f}. Interpolated Kneser-Ney models of the same "
            f"text reach: {rivals}."
        ],
        tables={"losses at the checkpoints": pd.DataFrame(trainer.rows)},
    )


def prepare(config: PretrainConfig, path: Path) -> Path:
    """Write the tokenised text of the configuration to `path` and return it."""
    check(config)
    corpus, held = _training_and_held_out(config)
    with console.status("training the tokenizer and encoding the text"), TemporaryDirectory() as scratch:
        pack(config, corpus, held, path, Path(scratch))
    return path


def pretrain(config: PretrainConfig, out: Path, *, report: bool = True, minutes: float | None = None) -> Path:
    """Train as configured into `out` and return it, with the run on one page if `report`. A finished run is
    left as it is.

    Raises UserError for numbers, text or a folder that it cannot be done with, and Interrupted when `minutes`
    are over, with the state saved.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    check(config)
    with joined().main_process_first():
        run = Run(out, config)
    if run.finished:
        console.print("this run is finished; nothing to do")
        return out
    if Path(config.corpus).suffix == SUFFIX:
        packed = unpack(Path(config.corpus), config)
        with joined().main_process_first():
            tokenizer: Any = packed.tokenizer(out / "model", config.context)
        tokens, held_tokens, known = packed.tokens, packed.held.astype(np.int64), packed.facts
    else:
        corpus, held = _training_and_held_out(config)
        with joined().main_process_first():
            tokenizer, tokens = tokenise(config, corpus, out)
        held_tokens = encode([d.text for d in held], tokenizer)
        known = facts_of(corpus, held, len(held_tokens))
    validation = spread_windows(held_tokens, config.context, config.validation_tokens)
    trainer = Trainer(config, run, tokens, validation, tokenizer)
    facts = {
        "parameters": sum(p.numel() for p in trainer.bare.parameters()),
        **{name: known[name] for name in ("train_documents", "train_characters")},
        "train_tokens": len(tokens),
        **{name: known[name] for name in ("train_hash", "validation_documents")},
        "scored": validation.shape[0] * config.context,
        "tokens_per_byte": known["tokens_per_byte"],
        "device": str(trainer.accelerator.device),
    }
    about = provenance(**facts)
    run.json("provenance.json", about)
    console.print(
        f"{facts['parameters']:,} parameters, {len(tokens):,} training tokens, {trainer.steps} steps"
    )
    trainer.train(deadline)
    if trainer.accelerator.is_main_process:
        trainer.bare.save_pretrained(out / "model")
        readable(out)
        facts["baselines"] = known.get("baselines") or baselines(tokens, validation, config.vocabulary)
        write_card(trainer, out, {**facts, "commit": about["commit"]})
        if report:
            page(trainer, facts).write(out)
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


def _training_and_held_out(config: PretrainConfig) -> tuple[Corpus, list[Document]]:
    """The training text and the validation documents. Raises UserError where they share a document."""
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
                f"{len(shared)} validation documents are also in the training text. Give --validation other "
                "documents."
            )
    return corpus, held


def ship(out: Path, folder: Path, steps: tuple[int, ...]) -> None:
    """Copy final weights, tokenizer, card and the checkpoints of `steps` to `folder`, weights in float16."""
    available = {int(p.name.split("-")[1]): p for p in (out / "checkpoints").iterdir()}
    missing = sorted(set(steps) - set(available))
    if missing:
        raise UserError(
            f"no checkpoints for steps {missing}; there are {sorted(available)}. Change --ship-steps."
        )
    for source, name in [
        (out / "model", "model"),
        *((available[s], f"checkpoints/step-{s:06d}") for s in steps),
    ]:
        GPT2LMHeadModel.from_pretrained(source).half().save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
    readable(folder)
    GPT2TokenizerFast.from_pretrained(out / "model").save_pretrained(folder / "model")
    (folder / "card.md").write_text((out / "card.md").read_text(encoding="utf-8"), encoding="utf-8")
    pd.read_csv(out / "trajectory.csv").to_csv(folder / "trajectory.csv", index=False)

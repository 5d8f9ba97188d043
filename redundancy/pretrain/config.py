"""What `redundancy.pretrain` is asked: the model, the text, and for how long."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from labbook.command import Start
from labbook.console import UserError
from redundancy.request import TextOptions, check_seed


@dataclass(frozen=True)
class PretrainConfig(TextOptions):
    """What is trained, on what, for how long."""

    corpus: Annotated[str, tyro.conf.Positional]
    """A .txt, .parquet or .jsonl file, a folder of them, a hub dataset id (streamed up to --characters), or
    the .npz file that --pack made of one.
    """
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
    """Byte-level BPE tokens, the end-of-text token included. Small, so that the weights go into the blocks.
    """
    context: int = 256
    """Tokens per training window."""
    batch: int = 16
    """Windows per step, over all processes."""
    steps: int | None = None
    """Optimiser steps. None: one pass over the text."""
    learning_rate: float = 6e-3
    """Peak, for Muon (scaled to AdamW's update size) and AdamW alike; 2 % linear warm-up, then cosine to
    zero.
    """
    weight_decay: float = 0.1
    """On matrices only."""
    seed: int = 0
    """Of the weights and of the order of the data."""
    compile: bool = False
    """Compile the loss with torch.compile: a fifth faster on two CPU cores; needs a C++ compiler there."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs and CPUs with native bf16 arithmetic, else float32. Weights stay float32.
    """


def check(config: PretrainConfig) -> None:
    """Raise UserError for numbers that no training can have, before anything is read."""
    least = {
        "layers": 1,
        "heads": 1,
        "width": 1,
        "context": 1,
        "batch": 1,
        "vocabulary": 257,
        "characters": 1,
    }
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


# by name: the fields that differ from the defaults
PRESETS: dict[str, dict[str, object]] = {
    # the shape of the smallest GPT-2 (Radford et al. 2019); 2,048 steps are 67 M tokens, and 13 checkpoints
    "gpt2-124m": {
        "layers": 12,
        "heads": 12,
        "width": 768,
        "vocabulary": 50_257,
        "context": 1024,
        "batch": 32,
        "steps": 2048,
        "learning_rate": 2e-3,
        "compile": True,
    }
}


def begin(args: list[str]) -> Start:
    """`--preset NAME` before everything else: its values are the defaults, and the other flags override them.

    Raises UserError for an unknown name.
    """
    if "--preset" not in args:
        return Start(None, args)
    place = args.index("--preset")
    name = args[place + 1] if place + 1 < len(args) else ""
    if name not in PRESETS:
        raise UserError(f"--preset {name}: there is {', '.join(PRESETS)}. Change --preset.")
    config: Any = PretrainConfig(corpus=tyro.MISSING, **PRESETS[name])  # type: ignore[arg-type]
    return Start(config, [*args[:place], *args[place + 2 :]], f" [--preset {name}]")


@dataclass(frozen=True)
class Command:
    """Train a small GPT-2 on any text."""

    config: tyro.conf.OmitArgPrefixes[PretrainConfig]
    out: Path
    """Run folder; the same command again resumes it."""
    pack: Path | None = None
    """Train nothing, but write the tokenised text to this .npz file, for a machine that has no text."""
    minutes: float | None = None
    """Stop after this long, with the state saved; the same command again goes on."""
    ship: Path | None = None
    """Also copy final weights, tokenizer, card and the checkpoints of --ship-steps there, in float16."""
    ship_steps: tuple[int, ...] = ()
    """Checkpoints to ship beside the final weights."""
    report: bool = True
    """Write report.html, the run on one page, into the folder."""

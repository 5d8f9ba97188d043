"""What every command on a model is asked, and the choices that only need the model's dimensions."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from labbook.command import conform
from labbook.console import UserError, choice

Feature = Literal["resid_pre", "ln1", "embedding"]
# what can enter: for an MLP behind attention the stream that resid_pre has become
Entering = Literal["resid_pre", "resid_mid", "ln1", "embedding"]
# what adds to the residual stream: a sublayer, or both of a block together
Target = Literal["attention", "mlp", "block"]
TARGETS: tuple[Target, ...] = ("attention", "mlp", "block")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How documents are made of the rows of a table (.parquet, .jsonl) or of a hub data set."""

    text_column: str = "text"
    """Column of a table or hub data set that holds the text."""
    split: str | None = None
    """Split of a hub data set; default: train."""
    document_column: str | None = None
    """Column that says which document a row belongs to; rows of one document are joined in their order."""
    rows: Literal["auto", "documents", "lines"] = "auto"
    """What a row is: a document, or a line of a longer one that runs from heading to heading (`= Title =`),
    or from blank row to blank row where there are no headings; auto: lines where rows are blank or headings,
    documents where they are long, else you are asked.
    """


@dataclass(frozen=True)
class Request(TextOptions):
    """Everything that changes a number. `None` means chosen automatically, and the choice is printed."""

    model: tyro.conf.Positional[str] = "embedded"
    """embedded, a hub id (gpt2, gpt2-medium, ...), a local folder, a .gguf file, smollm2-135m, or
    random:MODEL.
    """
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    corpus: str | None = None
    """A .txt, .parquet or .jsonl file, a folder of them, or a hub dataset id[:configuration]; default: the
    embedded text.
    """
    tokens: int | None = None
    """Training tokens; default: 150 per column of the hidden state, at least 100,000, at most what the text
    holds.
    """
    eval_tokens: int | None = None
    """Held-out tokens; default: as many as training tokens."""
    quick: bool = False
    """A first look: 20,000 training and 10,000 held-out tokens unless given."""
    bos: Literal["auto", "yes", "no"] = "auto"
    """Whether every window begins with the BOS token, at position 0, which is not scored; auto: as the model
    was trained.
    """
    context: int | None = None
    """Tokens per window; default: 256, or what the model takes where that is less."""
    layers: tuple[int, ...] | None = None
    """Blocks to probe, counted from 0; default: all."""
    ridge: Annotated[float | Literal["auto"], tyro.conf.arg(metavar="auto|FLOAT")] = "auto"
    """Penalty per token on standardised features; auto: chosen per layer on the validation documents."""
    keep_position_0: bool = False
    """Score the first position of each window too; by default it is reported apart, because attention can
    only go to itself there.
    """
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Of weights and activations; statistics are float32 and float64 in any case."""
    random_seeds: int = 3
    """Networks of the same architecture with random weights that the control is averaged over, at least 2."""
    seed: int = 0
    """Of the document split, the order of windows, random weights and the bootstrap."""
    trust_remote_code: bool = False
    """Allow a hub model to run its own Python code."""

    def __post_init__(self) -> None:
        conform(self)

    def default_eval_tokens(self, tokens: int) -> int:
        """Held-out tokens where none are asked for, given the training tokens."""
        return tokens


@dataclass(frozen=True)
class Settings:
    """What changes no number."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..., or split: the layers spread over all devices, for a model larger than
    one.
    """
    batch_size: Annotated[int | Literal["auto"], tyro.conf.arg(metavar="auto|INT")] = "auto"
    """Windows per forward pass."""
    out: Path | None = None
    """Run folder; default: runs/<model>-<time>. The same command with the same folder resumes it."""
    resume: bool = False
    """Go on with the newest unfinished run of this configuration under runs/."""
    report: bool = True
    """Write report.html, the run on one page, into the folder."""

    def __post_init__(self) -> None:
        conform(self)


R = TypeVar("R", bound=Request)
# tokens of a window where none are asked for
CONTEXT = 256
# seeds of several generators are made of one by adding small numbers
LARGEST_SEED = 2**62


def check(config: Request) -> None:
    """Raise UserError for what no model can serve, before anything is loaded."""
    for name, value in (("--tokens", config.tokens), ("--eval-tokens", config.eval_tokens)):
        if value is not None and value < 1:
            raise UserError(
                f"{name} {value} was asked for; at least 1 token is needed. Change {name}, or leave it out."
            )
    if config.ridge != "auto" and not (config.ridge > 0 and math.isfinite(config.ridge)):
        raise UserError(
            f"--ridge {config.ridge} was asked for; the penalty has to be positive and finite. Change "
            "--ridge, or use auto."
        )
    if config.revision is not None and config.model == "embedded":
        raise UserError(
            f"--revision {config.revision!r} is one of a hub model, and the embedded model has none. Leave "
            "it out, or change MODEL."
        )
    check_seed(config.seed)


def check_seed(seed: int) -> None:
    """Raise UserError for a seed that the random generators do not take."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(
            f"--seed {seed} was asked for; seeds are whole numbers from 0 to {LARGEST_SEED}. Change --seed."
        )


def resolve(config: R, width: int, depth: int, positions: int) -> R:
    """Check the request against the model's dimensions and fill in the automatic choices.

    Raises UserError for a context, layers, token numbers or penalty that the model cannot serve.
    """
    check(config)
    context = config.context
    if context is None:
        context = min(CONTEXT, positions)
        less = context < CONTEXT
        choice("context", context, f"all that {config.model} takes" if less else "--context changes it")
    if not 8 <= context <= positions:
        raise UserError(
            f"--context {context} was asked for; {config.model} takes 8 to {positions} tokens. Change "
            "--context."
        )
    layers = tuple(range(depth)) if config.layers is None else tuple(sorted(set(config.layers)))
    if not layers or layers[0] < 0 or layers[-1] >= depth:
        raise UserError(
            f"--layers {config.layers} was asked for; {config.model} has layers 0 to {depth - 1}. Change "
            "--layers."
        )
    if config.random_seeds < 2:
        raise UserError(
            f"--random-seeds {config.random_seeds} was asked for; the spread between random networks needs "
            "at least 2. Change --random-seeds."
        )
    tokens, why = config.tokens, "asked for"
    if tokens is None:
        tokens, why = (
            (20_000, "--quick")
            if config.quick
            else (max(100_000, 150 * (width + 1)), "150 per coefficient, at least 100,000")
        )
    choice(
        "training tokens",
        f"{tokens:,}",
        f"{why}; the probe fits {width + 1:,} coefficients to each output, so {tokens / (width + 1):.0f} for "
        "each of them",
    )
    evaluation = config.eval_tokens
    if evaluation is None:
        evaluation = min(10_000, tokens) if config.quick else config.default_eval_tokens(tokens)
    if tokens < width + 1:
        raise UserError(
            f"--tokens {tokens} was asked for; {config.model} needs at least {width + 1} (d_model + 1 to fit "
            "a probe). Change --tokens."
        )
    return replace(config, tokens=tokens, eval_tokens=evaluation, context=context, layers=layers)

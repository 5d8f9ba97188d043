"""What every command on a model shares: the request, its automatic choices, the model, the text, the run
folder.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro

from labbook import processes
from labbook.console import UserError, choice, console, warn
from labbook.run import Busy, Run, provenance
from redundancy.facts import Facts
from redundancy.model.capture import Feature, check_identity
from redundancy.model.decoder import Decoder, dimensions
from redundancy.model.loading import (
    Source,
    choose_device,
    choose_dtype,
    load_config,
    load_model,
    load_tokenizer,
    locate,
)
from redundancy.passes import Task
from redundancy.text import (
    FEWEST_DOCUMENTS,
    SPLITS,
    Corpus,
    TextOptions,
    Windows,
    bos_token,
    cut_windows,
    read_corpus,
    split_documents,
)

# Characters per token when a stream has to be bounded before its tokenizer has seen it; generous, so that
# text does not run out.
CHARACTERS_PER_TOKEN = 8


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
    context: int = 256
    """Tokens per window."""
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


R = TypeVar("R", bound=Request)
# held-out documents below which a warning comes with every interval
FEW_DOCUMENTS = 10
# training tokens per fitted row below which a warning comes with a corpus that is too short for the request
ENOUGH_PER_ROW = 150


# Seeds of several generators are made of one by adding small numbers.
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
    if not 8 <= config.context <= positions:
        raise UserError(
            f"--context {config.context} was asked for; {config.model} takes 8 to {positions} tokens. Change "
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
            else (max(100_000, 150 * (width + 1)), "150 per fitted row, at least 100,000")
        )
    choice("training tokens", f"{tokens:,}", f"{why}; {tokens / (width + 1):.0f} per fitted row")
    evaluation = config.eval_tokens
    if evaluation is None:
        evaluation = min(10_000, tokens) if config.quick else config.default_eval_tokens(tokens)
    if tokens < width + 1:
        raise UserError(
            f"--tokens {tokens} was asked for; {config.model} needs at least {width + 1} (d_model + 1 to fit "
            "a probe). Change --tokens."
        )
    return replace(config, tokens=tokens, eval_tokens=evaluation, layers=layers)


def prepare_windows(
    config: R, corpus: Corpus, tokenizer: Any, decoder: Decoder, bos: int | None
) -> dict[str, Windows]:
    """Split the corpus by document and cut it into token windows; training windows in random order.

    With `bos` every window begins with that token (see `text.cut_windows`).

    Raises UserError when there is too little text for the probe, or tokens the model does not know.
    """
    assert config.tokens is not None and config.eval_tokens is not None
    budget = {
        "train": config.tokens,
        "validation": max(config.tokens // 4, 2 * config.context),
        "evaluation": config.eval_tokens,
    }
    parts = split_documents(corpus.documents, config.seed)
    windows = {}
    for number, split in enumerate(SPLITS):
        cut = cut_windows(parts[split], tokenizer, config.context, budget[split], bos)
        if cut.tokens and int(cut.ids.max()) >= decoder.vocabulary:
            raise UserError(
                f"the tokenizer gives token id {cut.ids.max()}, {decoder.name} has {decoder.vocabulary}: "
                "they do not belong together. Choose another MODEL."
            )
        windows[split] = cut.shuffled(config.seed + number)
        documents = f"{len(cut.names)} {corpus.unit}s"
        choice(
            f"{split} text",
            f"{cut.tokens:,} tokens of {documents}",
            "by a keyed hash of each text"
            if cut.tokens >= budget[split]
            else f"all there is; {budget[split]:,} asked",
        )
    if windows["train"].tokens < decoder.d_model + 1:
        raise UserError(
            f"the training documents hold {windows['train'].tokens} tokens; a probe of {decoder.name} needs "
            f"at least d_model + 1 = {decoder.d_model + 1}. Give --corpus more text."
        )
    held_out = len(windows["evaluation"].names)
    if windows["validation"].tokens < 2 or held_out < FEWEST_DOCUMENTS:
        raise UserError(
            f"the corpus leaves {held_out} held-out {corpus.unit}s and {windows['validation'].tokens} "
            f"validation tokens; an interval over {corpus.unit}s needs at least {FEWEST_DOCUMENTS} of them. "
            "Give --corpus more or longer documents."
        )
    per_row = windows["train"].tokens / (decoder.d_model + 1)
    if windows["train"].tokens < budget["train"] and per_row < ENOUGH_PER_ROW:
        warn(
            f"the training documents hold {per_row:.0f} tokens per fitted row where {ENOUGH_PER_ROW} are "
            "wanted; the probe may be better than it looks here. Give --corpus more text, and see "
            "--learning-curve."
        )
    if held_out < FEW_DOCUMENTS:
        warn(
            f"intervals rest on {held_out} held-out {corpus.unit}s; below {FEW_DOCUMENTS} they may hold the "
            "truth less often than they say where documents differ much (figures/coverage_documents.csv)."
        )
    return windows


def bytes_per_token(windows: Windows, tokenizer: Any) -> float:
    """UTF-8 bytes of text per token: what turns nats per token into bits per byte, which tokenizers share."""
    texts = (
        tokenizer.decode(row[:n])
        for row, n in zip(windows.ids.tolist(), windows.lengths.tolist(), strict=True)
    )
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / windows.tokens


def batch_size(settings: Settings, decoder: Decoder, context: int) -> int:
    """Windows per forward pass."""
    if settings.batch_size != "auto":
        if settings.batch_size < 1:
            raise UserError(f"--batch-size {settings.batch_size} was asked for; it has to be at least 1.")
        return settings.batch_size
    tokens = 32_768 if decoder.device.type == "cuda" else 4096
    size = max(1, tokens // context)
    choice("batch size", size, f"{tokens:,} tokens at a time suit a {decoder.device.type}")
    return size


def run_folder(config: dict[str, Any], settings: Settings) -> Path:
    """The folder of this run: --out, the newest unfinished run of the same configuration, or a new one under
    runs/.
    """
    # a name is part of a file name, which has at most 255 bytes
    name = re.sub(r"[^\w.-]", "-", config["model"].replace("/", "--"))[:80].strip(".-") or "model"
    if settings.out is not None:
        return settings.out
    if settings.resume:
        for folder in sorted(Path("runs").glob(f"{name}-*"), reverse=True):
            try:
                Run(folder, config)
                if not (folder / "summary.json").exists():
                    return folder
            except Busy:
                raise
            except UserError:
                continue  # a run with another configuration
        raise UserError(
            "--resume was asked for, but runs/ holds no unfinished run of this configuration. Name it with "
            "--out, or leave --resume out."
        )
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


@dataclass(frozen=True)
class Prepared:
    """A request met: the model on its device, the windows of text, and the facts about them.

    Attributes
    ----------
    config : the request with every automatic choice filled in.
    windows : `train`, `validation` and `evaluation`.
    facts : what goes into provenance.
    """

    config: Request
    source: Source
    decoder: Decoder
    windows: dict[str, Windows]
    facts: Facts

    def task(self, settings: Settings, feature: Feature = "resid_pre") -> Task:
        """What the passes over the text need."""
        config = self.config
        return Task(
            windows=self.windows,
            layers=config.layers or (),
            feature=feature,
            ridge=None if config.ridge == "auto" else float(config.ridge),
            start_position=0 if config.keep_position_0 else 1,
            seed=config.seed,
            batch=batch_size(settings, self.decoder, config.context),
        )

    def open_run(self, settings: Settings, more: Mapping[str, Any] | None = None) -> Run:
        """The run folder of this request (`more` joins its configuration), with its provenance written unless
        it is finished.
        """
        hashes = {"weight_hash": self.facts.weight_hash, "data_hash": self.facts.data_hash}
        config = {**asdict(self.config), **hashes, **(more or {})}
        folder = run_folder(config, settings) if processes.rank() == 0 else Path()
        run = Run(processes.agree(folder), config)
        if not run.finished:
            run.json("provenance.json", provenance(**self.facts.json()))
        return run


def prepare(config: Request, settings: Settings, source: Source | None = None) -> Prepared:
    """Find the model, check the request against it, load it, cut the text, and check that attention is where
    it is taken to be.

    `source` stands for config.model where that names several. Raises UserError for everything that cannot be
    met.
    """
    check(config)
    name = (
        (Path(config.model).resolve().name if Path(config.model).is_dir() else config.model)
        if source
        else None
    )
    source = source or locate(config.model, config.revision, config.trust_remote_code)
    if source.gguf and not source.random:
        own = source.gguf
        types = ", ".join(f"{count} {kind}" for kind, count in own.tensor_types.items())
        choice("model", source.name, f"{own.path.name} calls itself {own.name!r}; its tensors are {types}")
    shape = dimensions(load_config(source), source.name)
    positions = getattr(shape, "max_position_embeddings", None) or 2**31
    config = resolve(config, shape.hidden_size, shape.num_hidden_layers, positions)
    assert config.tokens is not None and config.eval_tokens is not None
    corpus = read_corpus(
        config.corpus, CHARACTERS_PER_TOKEN * 2 * (config.tokens + config.eval_tokens), config
    )
    device, why = choose_device(settings.device)
    choice("device", device, why)
    dtype, why = choose_dtype(config.dtype, device)
    choice("dtype", str(dtype).removeprefix("torch."), why)
    config = replace(config, dtype=str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(source)
    decoder = load_model(source, device, dtype, config.seed, split=settings.device == "split")
    if decoder.besides:
        others = ", ".join(decoder.besides)
        choice(
            "attention",
            decoder.attention_name,
            f"{others} in the same blocks mixes positions too and is not measured",
        )
    bos, why = bos_token(tokenizer, config.bos, source.gguf.add_bos if source.gguf else None)
    if bos is not None and config.keep_position_0:
        raise UserError(
            f"--keep-position-0 was asked for, but position 0 is the BOS token {tokenizer.decode([bos])!r}, "
            f"the same in every window ({why}). Leave it out, or use --bos no."
        )
    choice("BOS token", "none" if bos is None else repr(tokenizer.decode([bos])), why)
    config = replace(config, bos="no" if bos is None else "yes")
    windows = prepare_windows(config, corpus, tokenizer, decoder, bos)
    identity = check_identity(decoder, torch.from_numpy(windows["train"].ids[:2]))
    console.print(f"[dim]sum_h z_h W_O\\[h] + b_O = attn_out holds to[/dim] {identity:.0e}")
    facts = Facts(
        model=name or decoder.name,
        gguf=None if source.random else source.gguf,
        weight_hash=decoder.weight_hash(),
        data_hash=corpus.hash,
        corpus=corpus.source,
        unit=corpus.unit,
        bos=bos,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processes=processes.count(),
        documents={split: tuple(w.names) for split, w in windows.items()},
        tokens={split: w.tokens for split, w in windows.items()},
        depth=len(decoder.layers),
        bytes_per_token=bytes_per_token(windows["evaluation"], tokenizer),
        seed=config.seed,
    )
    return Prepared(config, source, decoder, windows, facts)

"""Measure how much of attention's output a linear map of the hidden state predicts: `python -m redundancy.probe [MODEL]`.

`execute` is the experiment, step by step. The definitions of the scores are in `scores`, of the controls in `controls`.
"""

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from labbook.console import UserError, choice, console, guarded
from labbook.estimate import Bootstrap
from labbook.run import Run, provenance
from redundancy.capture import Feature, check_identity
from redundancy.measure import Task, measure
from redundancy.models import (
    Decoder,
    choose_device,
    choose_dtype,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    random_twin,
)
from redundancy.ridge import PENALTIES
from redundancy.tables import Tables, print_tables, tabulate
from redundancy.text import SPLITS, Corpus, Windows, cut_windows, read_corpus, split_documents

# Characters per token when a stream has to be bounded before its tokenizer has seen it; generous, so that text does not run out.
CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True)
class ProbeConfig:
    """Everything that changes a number. `None` means chosen automatically, and the choice is printed."""

    model: tyro.conf.Positional[str] = "embedded"
    """embedded, a hub id (gpt2, gpt2-medium, ...), a local folder, a .gguf file, smollm2-135m, or random:MODEL."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    corpus: str | None = None
    """A .txt, .parquet or .jsonl file, a folder of them, or a hub dataset id[:configuration]; default: the embedded text."""
    tokens: int | None = None
    """Training tokens; default: 150 per column of the hidden state, at least 100,000, at most what the text holds."""
    eval_tokens: int | None = None
    """Held-out tokens; default: as many as training tokens."""
    context: int = 256
    """Tokens per window."""
    layers: tuple[int, ...] | None = None
    """Blocks to probe, counted from 0; default: all."""
    feature: Feature = "resid_pre"
    """What predicts: the residual stream before the block, after its first norm (ln1), or the embedding."""
    ridge: Annotated[float | Literal["auto"], tyro.conf.arg(metavar="auto|FLOAT")] = "auto"
    """Penalty per token on standardised features; auto: chosen per layer on the validation documents."""
    keep_position_0: bool = False
    """Score the first position of each window too; by default it is reported apart, because attention can only go to itself there."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Of weights and activations; statistics are float32 and float64 in any case."""
    seed: int = 0
    """Of the document split, the order of windows, random weights and the bootstrap."""
    trust_remote_code: bool = False
    """Allow a hub model to run its own Python code."""


@dataclass(frozen=True)
class Settings:
    """What changes no number."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    batch_size: Annotated[int | Literal["auto"], tyro.conf.arg(metavar="auto|INT")] = "auto"
    """Windows per forward pass."""
    out: Path | None = None
    """Run folder; default: runs/<model>-<time>. The same command with the same folder resumes it."""
    resume: bool = False
    """Go on with the newest unfinished run of this configuration under runs/."""
    quick: bool = False
    """A first look: 20,000 training and 10,000 held-out tokens unless given."""


def resolve(config: ProbeConfig, settings: Settings, width: int, depth: int, positions: int) -> ProbeConfig:
    """Check the request against the model's dimensions and fill in the automatic choices.

    Raises UserError for a context, layers, token numbers or penalty that the model cannot serve.
    """
    if not 8 <= config.context <= positions:
        raise UserError(
            f"--context {config.context} was asked for; {config.model} takes 8 to {positions} tokens. Change --context."
        )
    layers = tuple(range(depth)) if config.layers is None else tuple(sorted(set(config.layers)))
    if not layers or layers[0] < 0 or layers[-1] >= depth:
        raise UserError(
            f"--layers {config.layers} was asked for; {config.model} has layers 0 to {depth - 1}. Change --layers."
        )
    if config.ridge != "auto" and config.ridge <= 0:
        raise UserError(
            f"--ridge {config.ridge} was asked for; the penalty has to be positive. Change --ridge, or use auto."
        )
    tokens, why = config.tokens, "asked for"
    if tokens is None:
        tokens, why = (
            (20_000, "--quick")
            if settings.quick
            else (max(100_000, 150 * (width + 1)), "150 per fitted row, at least 100,000")
        )
    choice("training tokens", f"{tokens:,}", f"{why}; {tokens / (width + 1):.0f} per fitted row")
    evaluation = config.eval_tokens or (min(10_000, tokens) if settings.quick else tokens)
    for name, value, least in (("--tokens", tokens, width + 1), ("--eval-tokens", evaluation, 1)):
        if value < least:
            raise UserError(
                f"{name} {value} was asked for; {config.model} needs at least {least} (d_model + 1 to fit a probe). Change {name}."
            )
    return replace(config, tokens=tokens, eval_tokens=evaluation, layers=layers)


def prepare_windows(config: ProbeConfig, corpus: Corpus, tokenizer: Any, decoder: Decoder) -> dict[str, Windows]:
    """Split the corpus by document and cut it into token windows; training windows in random order.

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
        cut = cut_windows(parts[split], tokenizer, config.context, budget[split])
        if cut.tokens and int(cut.ids.max()) >= decoder.vocabulary:
            raise UserError(
                f"the tokenizer gives token id {cut.ids.max()}, {decoder.name} has {decoder.vocabulary}: they do not belong together. Choose another MODEL."
            )
        windows[split] = cut.shuffled(config.seed + number)
        documents = f"{len(cut.names)} {corpus.unit}s"
        choice(
            f"{split} text",
            f"{cut.tokens:,} tokens of {documents}",
            "by a keyed hash of each text" if cut.tokens >= budget[split] else f"all there is; {budget[split]:,} asked",
        )
    if windows["train"].tokens < decoder.d_model + 1:
        raise UserError(
            f"the training documents hold {windows['train'].tokens} tokens; a probe of {decoder.name} needs at least d_model + 1 = "
            f"{decoder.d_model + 1}. Give --corpus more text."
        )
    for split in ("validation", "evaluation"):
        if windows[split].tokens < 2 or len(windows["evaluation"].names) < 2:
            raise UserError(
                f"the {split} documents hold too little text for an interval over documents. Give --corpus more or longer documents."
            )
    return windows


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
    """The folder of this run: --out, the newest unfinished run of the same configuration, or a new one under runs/."""
    name = config["model"].replace("/", "--").replace(":", "-").strip(".-") or "model"
    if settings.out is not None:
        return settings.out
    if settings.resume:
        for folder in sorted(Path("runs").glob(f"{name}-*"), reverse=True):
            try:
                if not Run(folder, config).finished:
                    return folder
            except UserError:
                continue  # a run with another configuration
        raise UserError(
            "--resume was asked for, but runs/ holds no unfinished run of this configuration. Name it with --out, or leave --resume out."
        )
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def execute(config: ProbeConfig, settings: Settings) -> Tables:
    """The experiment: model, text, moments, ridge, held-out errors, the same with random weights, tables, figures."""
    source = locate(config.model, config.revision, config.trust_remote_code)
    shape = load_config(source).get_text_config(decoder=True)
    config = resolve(
        config,
        settings,
        shape.hidden_size,
        shape.num_hidden_layers,
        getattr(shape, "max_position_embeddings", None) or 2**31,
    )
    assert config.tokens is not None and config.eval_tokens is not None
    corpus = read_corpus(config.corpus, CHARACTERS_PER_TOKEN * 2 * (config.tokens + config.eval_tokens))
    device, why = choose_device(settings.device)
    choice("device", device, why)
    dtype, why = choose_dtype(config.dtype, device)
    choice("dtype", str(dtype).removeprefix("torch."), why)
    config = replace(config, dtype=str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(source)
    decoder = load_model(source, device, dtype, config.seed)
    windows = prepare_windows(config, corpus, tokenizer, decoder)
    hashes = {"weight_hash": decoder.weight_hash(), "data_hash": corpus.hash}
    run = Run(run_folder({**asdict(config), **hashes}, settings), {**asdict(config), **hashes})
    if run.finished:
        console.print("this run is finished; nothing is computed again")
        return Tables.read(run.folder)

    identity = check_identity(decoder, torch.from_numpy(windows["train"].ids[:2]))
    console.print(f"[dim]sum_h z_h W_O\\[h] + b_O = attn_out holds to[/dim] {identity:.0e}")
    facts = {
        "model": decoder.name,
        **hashes,
        "corpus": corpus.source,
        "unit": corpus.unit,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "documents": {split: list(w.names) for split, w in windows.items()},
        "tokens": {split: w.tokens for split, w in windows.items()},
        "seed": config.seed,
    }
    run.json("provenance.json", provenance(**facts))
    ridge = None if config.ridge == "auto" else float(config.ridge)
    task = Task(
        windows=windows,
        layers=config.layers or (),
        feature=config.feature,
        ridge=ridge,
        start_position=0 if config.keep_position_0 else 1,
        seed=config.seed,
        batch=batch_size(settings, decoder, config.context),
    )

    state = run.folder / "state"
    trained, fitted = measure(decoder, task, controls=True, state=state, label="model")
    twin, _ = measure(random_twin(decoder, config.seed + 1), task, controls=False, state=state, label="random weights")

    penalties = {n: f.penalties for n, f in fitted.items()}
    chosen = [p[config.feature] for p in penalties.values()]
    why = (
        f"smallest validation error per layer, from {PENALTIES[0]:g} to {PENALTIES[-1]:g}"
        if ridge is None
        else "asked for"
    )
    choice("ridge penalty", f"{min(chosen):g} to {max(chosen):g}", why)

    bootstrap = Bootstrap(len(windows["evaluation"].names), config.seed)
    tables = tabulate(decoder, task, trained, twin, penalties, bootstrap, facts)
    tables.write(run)
    shutil.rmtree(state, ignore_errors=True)
    return replace(tables, folder=run.folder)


def probe_model(model: str | None = None, *, settings: Settings | None = None, **options: Any) -> Tables:
    """Measure attention redundancy of `model`, as `python -m redundancy.probe` does, and return its tables.

    Parameters
    ----------
    model : as MODEL on the command line; None is the embedded model.
    settings : device, batch size, folder.
    options : fields of `ProbeConfig`, such as corpus="books/", tokens=100_000, layers=(0, 5).

    Returns
    -------
    Tables : `layers`, `heads`, `controls`, `histogram` as DataFrames, `summary` as a dict, `folder` of the run.

    Raises
    ------
    UserError : with what was asked, what is available, and the option to change.
    """
    unknown = sorted(set(options) - set(asdict(ProbeConfig())))
    if unknown:
        raise UserError(f"unknown options {unknown}; there are {sorted(asdict(ProbeConfig()))}.")
    return execute(ProbeConfig(model=model or "embedded", **options), settings or Settings())


@dataclass(frozen=True)
class Command:
    """Measure how much of attention's output a linear map of the hidden state predicts, beside its controls."""

    config: tyro.conf.OmitArgPrefixes[ProbeConfig]
    settings: tyro.conf.OmitArgPrefixes[Settings]


def main(args: list[str] | None = None) -> None:
    """The command line."""
    command = tyro.cli(Command, args=args, prog="python -m redundancy.probe")

    def body() -> None:
        from redundancy.figures import draw  # plotting libraries are slow to import; errors above should be fast

        tables = execute(command.config, command.settings)
        draw(tables.folder, tables.folder)
        print_tables(tables)
        console.print(str(tables.folder))

    guarded(body)


if __name__ == "__main__":
    main()

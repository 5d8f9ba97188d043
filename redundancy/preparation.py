"""A request met: the model, its automatic choices, the text, the run folder."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from labbook import processes
from labbook.console import CALL, UserError, choice, console, counted, warn
from labbook.run import Busy, Run, provenance, require_place, unused
from redundancy.facts import Facts
from redundancy.finished import FINGERPRINT, fingerprint, finished, known, say_finished
from redundancy.given.text import named, require_known, say_tokenizer
from redundancy.model.capture import check_identity
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
from redundancy.overlap import require_apart
from redundancy.passes import Task
from redundancy.request import Entering, Feature, R, Request, Settings, check, resolve
from redundancy.text import (
    FEWEST_DOCUMENTS,
    SPLITS,
    Corpus,
    Windows,
    bos_token,
    cut_windows,
    read_corpus,
    require_sections,
    split_documents,
)

# Characters per token when a stream has to be bounded before its tokenizer has seen it; generous, so that
# text does not run out.
CHARACTERS_PER_TOKEN = 8
# held-out documents below which a warning comes with every interval
FEW_DOCUMENTS = 10
# validation documents below which a warning names them
FEW_VALIDATION = 3
# training tokens per coefficient below which a warning comes with a corpus that is too short for the request
ENOUGH_PER_COEFFICIENT = 150


@dataclass(frozen=True)
class Given:
    """What stands for names of the request.

    Attributes
    ----------
    source : in the place of MODEL: a loaded model, or one of several.
    name : what the model is called in tables; None is the name of the source.
    corpus : in the place of --corpus: texts or token ids.
    call : the Python call, where something in it is an object that no command line can name; else empty.
    """

    source: Source | None = None
    name: str | None = None
    corpus: Corpus | None = None
    call: str = ""


NOTHING = Given()


def prepare_windows(
    config: R, corpus: Corpus, tokenizer: Any, decoder: Decoder, bos: int | None
) -> dict[str, Windows]:
    """Split the corpus by document and cut it into token windows; training windows in random order.

    With `bos` every window begins with that token (see `text.cut_windows`).

    Raises UserError when there is too little text for the probe, or tokens the model does not know.
    """
    assert config.tokens is not None and config.eval_tokens is not None and config.context is not None
    budget = {
        "train": config.tokens,
        "validation": max(config.tokens // 4, 2 * config.context),
        "evaluation": config.eval_tokens,
    }
    require_sections(corpus)
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
        documents = counted(len(cut.names), corpus.unit)
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
            f"the corpus leaves {counted(held_out, f'held-out {corpus.unit}')} and "
            f"{windows['validation'].tokens} validation tokens; an interval over {corpus.unit}s needs at "
            f"least {FEWEST_DOCUMENTS} of them. Give --corpus more or longer documents."
        )
    chosen_on = len(windows["validation"].names)
    if chosen_on < FEW_VALIDATION:
        warn(
            f"choices such as the ridge penalty rest on {counted(chosen_on, f'validation {corpus.unit}')} "
            f"({', '.join(windows['validation'].names)}); below {FEW_VALIDATION} what suits one text decides "
            "them. Give --corpus more documents."
        )
    require_apart(windows["train"], windows["evaluation"], corpus.unit)
    each = windows["train"].tokens / (decoder.d_model + 1)
    if windows["train"].tokens < budget["train"] and each < ENOUGH_PER_COEFFICIENT:
        warn(
            f"the training documents hold {each:.0f} tokens for each coefficient of the probe where "
            f"{ENOUGH_PER_COEFFICIENT} are wanted; the probe may be better than it looks here. Give --corpus "
            "more text, and see --learning-curve."
        )
    if held_out < FEW_DOCUMENTS:
        warn(
            f"intervals rest on {counted(held_out, f'held-out {corpus.unit}')}; below {FEW_DOCUMENTS} they "
            "may hold the truth less often than they say where documents differ much "
            "(figures/coverage_documents.csv)."
        )
    return windows


def bytes_per_token(windows: Windows, tokenizer: Any, bos: int | None = None) -> float:
    """UTF-8 bytes of text per token: what turns nats per token into bits per byte, which tokenizers share;
    nan where token ids are given and no tokenizer says what they stand for.

    With `bos` every window begins with that token, which is no text.
    """
    if tokenizer is None:
        return math.nan
    first = 0 if bos is None else 1
    texts = (
        tokenizer.decode(row[first:n])
        for row, n in zip(windows.ids.tolist(), windows.lengths.tolist(), strict=True)
    )
    tokens = windows.tokens - first * len(windows.lengths)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / tokens


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
    folder = unused(name)
    choice("run folder", folder, "a new one; --out names another")
    return folder


@dataclass(frozen=True)
class Prepared:
    """A request met: the model on its device, the windows of text, and the facts about them.

    Attributes
    ----------
    config : the request with every automatic choice filled in.
    windows : `train`, `validation` and `evaluation`.
    facts : what goes into provenance.
    fingerprint : of the request, where it names files only (see `finished.fingerprint`).
    call : see `Given`.
    """

    config: Request
    source: Source
    decoder: Decoder
    windows: dict[str, Windows]
    facts: Facts
    fingerprint: str | None = None
    call: str = ""

    def task(self, settings: Settings, feature: Entering = "resid_pre") -> Task:
        """What the passes over the text need."""
        config = self.config
        assert config.context is not None
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
        it is finished, which is said.
        """
        hashes = {"weight_hash": self.facts.weight_hash, "data_hash": self.facts.data_hash}
        config = {**asdict(self.config), **hashes, **(more or {})}
        folder = run_folder(config, settings) if processes.rank() == 0 else Path()
        run = Run(processes.agree(folder), config)
        if run.finished:
            say_finished()
        else:
            own = {FINGERPRINT: self.fingerprint, CALL: self.call}
            told = {name: value for name, value in own.items() if value}
            run.json("provenance.json", provenance(**self.facts.json(), **told))
        return run


def entering(decoder: Decoder, feature: Feature = "resid_pre") -> Entering:
    """What enters the target: of an MLP behind attention the stream that resid_pre has become."""
    return "resid_mid" if decoder.target == "mlp" and decoder.mlp(0).behind else feature


def repeated(config: Request, settings: Settings, given: Given) -> Path | None:
    """The folder of --out where the same request is finished there; None where work is left."""
    folder = finished(config, settings) if not given.call else None
    if folder is not None:
        say_finished()
    return folder


def prepare(config: Request, settings: Settings, given: Given = NOTHING) -> Prepared:
    """Find the model, check the request against it, load it, cut the text, and check that attention is where
    it is taken to be.

    Raises UserError for everything that cannot be met.
    """
    check(config)
    # the first process makes the folder, maybe before another one has come here
    if settings.out is not None and processes.rank() == 0:
        require_place(settings.out, known(config))
    asked = fingerprint(config) if not given.call else None
    source = given.source or locate(config.model, config.revision, trust_remote_code=config.trust_remote_code)
    if source.gguf and not source.random:
        own = source.gguf
        types = ", ".join(f"{count} {kind}" for kind, count in own.tensor_types.items())
        choice("model", source.name, f"{own.path.name} calls itself {own.name!r}; its tensors are {types}")
    shape = dimensions(load_config(source), source.name)
    positions = getattr(shape, "max_position_embeddings", None) or 2**31
    config = resolve(config, shape.hidden_size, shape.num_hidden_layers, positions)
    assert config.tokens is not None and config.eval_tokens is not None
    corpus = given.corpus or read_corpus(
        config.corpus, CHARACTERS_PER_TOKEN * 2 * (config.tokens + config.eval_tokens), config
    )
    device, why = choose_device(settings.device, source.model)
    choice("device", device, why)
    dtype, why = choose_dtype(config.dtype, device, source.model)
    choice("dtype", str(dtype).removeprefix("torch."), why)
    config = replace(config, dtype=str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
    coded = any(document.ids is not None for document in corpus.documents)
    # a loaded model has no tokenizer of its own, and token ids need none
    tokenizer = None if coded and source.model and not source.tokenizer else load_tokenizer(source)
    if coded:
        say_tokenizer(tokenizer)
        corpus = named(corpus, tokenizer)
    decoder = load_model(source, device, dtype, config.seed, split=settings.device == "split")
    if decoder.besides:
        others = ", ".join(decoder.besides)
        choice(
            "attention",
            decoder.attention_name,
            f"{others} in the same blocks mixes positions too and is not measured",
        )
    if coded:
        require_known(corpus, decoder.vocabulary, decoder.name)
    bos = _choose_bos(config, source, tokenizer)
    config = replace(config, bos="no" if bos is None else "yes")
    windows = prepare_windows(config, corpus, tokenizer, decoder, bos)
    identity = check_identity(decoder, torch.from_numpy(windows["train"].ids[:2]))
    console.print(f"[dim]sum_h z_h W_O\\[h] + b_O = attn_out holds to[/dim] {identity:.0e}")
    facts = Facts(
        model=given.name or decoder.name,
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
        bytes_per_token=bytes_per_token(windows["evaluation"], tokenizer, bos),
        seed=config.seed,
    )
    return Prepared(config, source, decoder, windows, facts, asked, given.call)


def _choose_bos(config: Request, source: Source, tokenizer: Any) -> int | None:
    """The token that every window begins with, or None. Raises UserError where it would be scored, or is
    not known.
    """
    if tokenizer is None:
        if config.bos == "yes":
            raise UserError(
                "--bos yes was asked for, but no tokenizer says which token that is. Give tokenizer=, or "
                "let the token ids begin with it."
            )
        return None
    bos, why = bos_token(tokenizer, config.bos, source.gguf.add_bos if source.gguf else None)
    if bos is not None and config.keep_position_0:
        raise UserError(
            f"--keep-position-0 was asked for, but position 0 is the BOS token {tokenizer.decode([bos])!r}, "
            f"the same in every window ({why}). Leave it out, or use --bos no."
        )
    choice("BOS token", "none" if bos is None else repr(tokenizer.decode([bos])), why)
    return bos

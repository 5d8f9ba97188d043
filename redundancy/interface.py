"""The commands as functions: `probe_model`, `measure_training`, `remove_attention`.

Nothing heavy is imported before one of them is called: `import redundancy` takes no time.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from labbook.console import UserError, call_of, keywords

if TYPE_CHECKING:
    from redundancy.probe.tables import Tables
    from redundancy.removal.config import PartName
    from redundancy.removal.tables import Losses
    from redundancy.request import R, Target
    from redundancy.text import Corpus
    from redundancy.training.tables import Course

# classes of libraries that are not imported here stand as Any: a transformers model or TransformerLens
# bridge, a transformers tokenizer, an array of token ids
Model: TypeAlias = str | Path | Any
Tokenizer: TypeAlias = str | Path | Any
Text: TypeAlias = str | Path | Iterable[str] | Iterable[Path] | Iterable[Sequence[int]] | Any


def _name(model: Model, given: str) -> str:
    """What the request calls the model: as it was named, or by the name that the object has."""
    return str(model) if isinstance(model, str | Path) else given


def _objects(asked: Mapping[str, Any]) -> list[str]:
    """The arguments that no command line can name: what is neither a name nor a path, and any tokenizer."""
    named = {"model": str | Path, "corpus": str | Path | None, "tokenizer": None}
    found = [name for name, kind in named.items() if not isinstance(asked[name], kind or type(None))]
    return found + ["checkpoints"] * isinstance(asked.get("checkpoints"), Mapping)


def _names(checkpoints: Any) -> Any:
    """Checkpoints by name; what cannot be listed is left for the request to refuse."""
    listed = isinstance(checkpoints, Iterable) and not isinstance(checkpoints, str)
    return tuple(map(str, checkpoints)) if listed else checkpoints


def _text(corpus: Text | None, config: "R") -> "tuple[Corpus | None, R]":
    """The corpus where it is no name, and the request with what it is called."""
    if corpus is None or isinstance(corpus, str | Path):
        return None, replace(config, corpus=None if corpus is None else str(corpus))
    from redundancy.given.text import corpus_of

    found = corpus_of(corpus, config)
    return found, replace(config, corpus=found.source)


def probe_model(
    model: Model = "embedded",
    tokenizer: Tokenizer | None = None,
    corpus: Text | None = None,
    *,
    feature: Literal["resid_pre", "ln1", "embedding"] = "resid_pre",
    target: Literal["attention", "mlp", "block"] = "attention",
    learning_curve: bool = False,
    revision: str | None = None,
    tokens: int | None = None,
    eval_tokens: int | None = None,
    quick: bool = False,
    bos: Literal["auto", "yes", "no"] = "auto",
    context: int | None = None,
    layers: Sequence[int] | None = None,
    ridge: float | Literal["auto"] = "auto",
    keep_position_0: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto",
    random_seeds: int = 3,
    seed: int = 0,
    trust_remote_code: bool = False,
    text_column: str = "text",
    split: str | None = None,
    document_column: str | None = None,
    rows: Literal["auto", "documents", "lines"] = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    probes: bool = True,
) -> "Tables":
    """Measure how much of attention's output a linear map of the hidden state predicts, beside its controls.

    The same numbers as `python -m redundancy.probe` gives for the same request.

    Parameters
    ----------
    model : a name or path as on the command line, a loaded transformers model, or a TransformerLens
        TransformerBridge whose weights were not processed. A loaded model is left as it is.
    tokenizer : of a loaded model, unless token ids are given; or its name or folder. A bridge brings its own,
        which TransformerLens makes put a BOS token before every text: bos="no" where the model was trained
        without one.
    corpus : a path or hub data set (str), a list of paths (pathlib.Path), a list of texts (str), each of them
        a document, or a list of token-id sequences (int), each a document; None is the embedded text. Token
        ids need no tokenizer; without one there are no bits per byte, and no BOS token is added.
    feature : what predicts: the residual stream before the block, after its first norm (ln1), or the
        embedding. Of an MLP behind attention, resid_pre stands for the stream that enters it (resid_mid).
    target : what is predicted: the attention output, or what the MLP or the whole block adds to the stream.
    learning_curve : fit to a quarter and to half of the training text too, and say whether more would change
        it.
    tokens, eval_tokens : training and held-out tokens. Without them 150 training tokens per column of the
        hidden state, at least 100,000, as many held-out tokens, and at most what the text holds.
    quick : a first look: 20,000 training and 10,000 held-out tokens unless given.
    layers : blocks, counted from 0; None is all.
    context : tokens per window; None: 256, or what the model takes where that is less.
    bos : whether every window begins with the BOS token, at position 0, which is not scored; auto: as the
        model was trained.
    ridge : penalty per token on standardised features; auto: chosen per layer on the validation documents.
    keep_position_0 : score the first position of each window too.
    dtype : of weights and activations; auto: that of a loaded model, else float32, or bfloat16 on a GPU that
        computes it.
    random_seeds : networks with random weights that the control is averaged over, at least 2.
    seed : of the document split, the order of windows, random weights and the bootstrap.
    revision, trust_remote_code : of a hub model.
    text_column, split, document_column, rows : how documents are made of the rows of a table (.parquet,
        .jsonl) or of a hub data set.
    device : auto (a loaded model stays where it is), cpu, cuda, cuda:1, ..., or split.
    batch_size : windows per forward pass; changes no number.
    out, resume : run folder (None: runs/<model>-<time> in the current folder, which is printed), and whether
        the newest unfinished run of this request goes on. The same call with the same folder resumes it, or
        does nothing when it is finished.
    probes : keep the fitted probes in the run folder, see `Probes`.

    Returns
    -------
    Tables : `layers`, `heads`, `controls`, `histogram`, `distribution`, `learning` as DataFrames; `summary`,
        a dict with the means over layers and the verdict; `probes`; `folder` of the run; `plot()`,
        `save(folder)`.

    Raises
    ------
    UserError : with what was asked, what is available, and the keyword to change.

    Examples
    --------
    The embedded model and text, one layer, in a few seconds:

    >>> from redundancy import probe_model
    >>> result = probe_model(layers=[0], tokens=2000, eval_tokens=2000, context=64, out="first")
    >>> sorted(result.layers["feature"].unique())[:3]
    ['aligned_shuffled', 'position_mean', 'previous_token']
    >>> result.summary["metrics"]["R2"]["n"] > 5
    True

    Your own model and texts:

    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> from redundancy.text import DATA, read_corpus
    >>> model = AutoModelForCausalLM.from_pretrained(DATA / "model", dtype="float32")
    >>> tokenizer = AutoTokenizer.from_pretrained(DATA / "model")
    >>> texts = [document.text for document in read_corpus(None).documents]
    >>> own = probe_model(
    ...     model, tokenizer, texts, layers=[0], tokens=2000, eval_tokens=2000, context=64, out="own"
    ... )
    >>> own.layers.equals(result.layers)
    True
    """
    # of any type: the request takes what its fields are, and refuses the rest
    asked = dict(locals())
    # here and not above: torch and transformers take seconds to import
    from redundancy.given.model import evaluating, source_of
    from redundancy.preparation import Given
    from redundancy.probe.config import ProbeConfig, ProbeSettings
    from redundancy.probe.experiment import execute

    call = call_of(probe_model, asked, _objects(asked))
    with keywords(), evaluating(model):
        source = source_of(model, tokenizer, revision, trust_remote_code=trust_remote_code)
        config = ProbeConfig(
            model=_name(model, source.name),
            feature=feature,
            target=target,
            learning_curve=learning_curve,
            revision=revision,
            tokens=tokens,
            eval_tokens=eval_tokens,
            quick=quick,
            bos=bos,
            context=context,
            layers=asked["layers"],
            ridge=ridge,
            keep_position_0=keep_position_0,
            dtype=dtype,
            random_seeds=random_seeds,
            seed=seed,
            trust_remote_code=trust_remote_code,
            text_column=text_column,
            split=split,
            document_column=document_column,
            rows=rows,
        )
        text, config = _text(corpus, config)
        settings = ProbeSettings(
            device=device,
            batch_size=batch_size,
            out=asked["out"],
            resume=resume,
            probes=probes,
        )
        return execute(config, settings, Given(source, corpus=text, call=call))


def measure_training(
    model: Model = "embedded",
    tokenizer: Tokenizer | None = None,
    corpus: Text | None = None,
    *,
    revisions: Sequence[str] = (),
    checkpoints: Sequence[str | Path] | Mapping[int, Model] = (),
    target: Literal["attention", "mlp", "block"] = "attention",
    revision: str | None = None,
    tokens: int | None = None,
    eval_tokens: int | None = None,
    quick: bool = False,
    bos: Literal["auto", "yes", "no"] = "auto",
    context: int | None = None,
    layers: Sequence[int] | None = None,
    ridge: float | Literal["auto"] = "auto",
    keep_position_0: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto",
    random_seeds: int = 3,
    seed: int = 0,
    trust_remote_code: bool = False,
    text_column: str = "text",
    split: str | None = None,
    document_column: str | None = None,
    rows: Literal["auto", "documents", "lines"] = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    resume: bool = False,
) -> "Course":
    """Measure attention redundancy at every checkpoint of a training run, on the same held-out documents.

    The same numbers as `python -m redundancy.training` gives for the same request.

    Parameters
    ----------
    model : the embedded model, a folder of checkpoints, or, with `revisions`, a hub id; with a mapping of
        `checkpoints` the name of the series.
    tokenizer : of the checkpoints where they are loaded models, unless token ids are given; or its name or
        folder.
    corpus : a path or hub data set (str), a list of paths (pathlib.Path), a list of texts (str), each of them
        a document, or a list of token-id sequences (int), each a document; None is the embedded text. Token
        ids need no tokenizer; without one there are no bits per byte, and no BOS token is added.
    revisions : of a hub model, such as ["step0", "step512"], or ["all"].
    checkpoints : names or paths (their steps are read from the names), or training step -> name, path or
        loaded model.
    target : what is predicted: the attention output, or what the MLP or the whole block adds to the stream.
    tokens, eval_tokens : training and held-out tokens. Without them 150 training tokens per column of the
        hidden state, at least 100,000, as many held-out tokens, and at most what the text holds.
    quick : a first look: 20,000 training and 10,000 held-out tokens unless given.
    layers : blocks, counted from 0; None is all.
    context : tokens per window; None: 256, or what the model takes where that is less.
    bos : whether every window begins with the BOS token, at position 0, which is not scored; auto: as the
        model was trained.
    ridge : penalty per token on standardised features; auto: chosen per layer on the validation documents.
    keep_position_0 : score the first position of each window too.
    dtype : of weights and activations; auto: that of a loaded model, else float32, or bfloat16 on a GPU that
        computes it.
    random_seeds : networks with random weights that the control is averaged over, at least 2.
    seed : of the document split, the order of windows, random weights and the bootstrap.
    revision, trust_remote_code : of a hub model.
    text_column, split, document_column, rows : how documents are made of the rows of a table (.parquet,
        .jsonl) or of a hub data set.
    device : auto (a loaded model stays where it is), cpu, cuda, cuda:1, ..., or split.
    batch_size : windows per forward pass; changes no number.
    out, resume : run folder (None: runs/<model>-<time> in the current folder, which is printed), and whether
        the newest unfinished run of this request goes on. The same call with the same folder resumes it, or
        does nothing when it is finished.

    Returns
    -------
    Course : `layers`, `overall`, `drivers`, `attention`, `losses`, `trend` as DataFrames; `summary`;
        `folder`; `plot()`, `save(folder)`.

    Raises
    ------
    UserError : with what was asked, what is available, and the keyword to change.

    Examples
    --------
    >>> from redundancy import measure_training
    >>> from redundancy.text import DATA
    >>> steps = {0: "random:embedded", 1000: "embedded"}
    >>> course = measure_training(
    ...     "mine", checkpoints=steps, layers=[0], tokens=2000, eval_tokens=2000, context=64, out="course"
    ... )
    >>> sorted(set(course.overall["step"].tolist()))
    [0, 1000]
    """
    asked = dict(locals())
    from redundancy.given.model import evaluating, source_of
    from redundancy.preparation import Given
    from redundancy.request import Settings
    from redundancy.training.checkpoints import Checkpoint, require_course
    from redundancy.training.config import TrainingConfig
    from redundancy.training.experiment import execute

    call = call_of(measure_training, asked, _objects(asked))
    with keywords():
        config = TrainingConfig(
            model=str(model),
            revisions=asked["revisions"],
            # objects are known by their steps, and by their hashes once they are measured
            checkpoints=_names(checkpoints),
            target=target,
            revision=revision,
            tokens=tokens,
            eval_tokens=eval_tokens,
            quick=quick,
            bos=bos,
            context=context,
            layers=asked["layers"],
            ridge=ridge,
            keep_position_0=keep_position_0,
            dtype=dtype,
            random_seeds=random_seeds,
            seed=seed,
            trust_remote_code=trust_remote_code,
            text_column=text_column,
            split=split,
            document_column=document_column,
            rows=rows,
        )
        text, config = _text(corpus, config)
        settings = Settings(
            device=device,
            batch_size=batch_size,
            out=asked["out"],
            resume=resume,
        )
        given, modes = list[Checkpoint](), ExitStack()
        if isinstance(checkpoints, Mapping):
            for step, one in sorted(checkpoints.items()):
                modes.enter_context(evaluating(one))
                source = source_of(one, tokenizer, trust_remote_code=trust_remote_code)
                given.append(Checkpoint(f"step {step}", step, source))
            require_course(given)
        elif tokenizer is not None:
            raise UserError(
                "tokenizer= is for checkpoints that are given as training step -> model; those that are "
                "named bring their own. Leave it out."
            )
        with modes:
            return execute(config, settings, Given(corpus=text, call=call), given)


def remove_attention(
    model: Model = "embedded",
    tokenizer: Tokenizer | None = None,
    corpus: Text | None = None,
    *,
    parts: "Sequence[PartName] | None" = None,
    orders: Sequence[str] | None = None,
    targets: "Sequence[Target]" = ("attention", "mlp", "block"),
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0),
    revision: str | None = None,
    tokens: int | None = None,
    eval_tokens: int | None = None,
    quick: bool = False,
    bos: Literal["auto", "yes", "no"] = "auto",
    context: int | None = None,
    layers: Sequence[int] | None = None,
    ridge: float | Literal["auto"] = "auto",
    keep_position_0: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto",
    random_seeds: int = 3,
    seed: int = 0,
    trust_remote_code: bool = False,
    text_column: str = "text",
    split: str | None = None,
    document_column: str | None = None,
    rows: Literal["auto", "documents", "lines"] = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    resume: bool = False,
) -> "Losses":
    """Put predictions in the place of attention, for a layer, a head, all layers, or the operations that need
    it least, and measure what the loss does.

    The same numbers as `python -m redundancy.removal` gives for the same request.

    Parameters
    ----------
    model : a name or path as on the command line, a loaded transformers model, or a TransformerLens
        TransformerBridge whose weights were not processed. A loaded model is left as it is.
    tokenizer : of a loaded model, unless token ids are given; or its name or folder. A bridge brings its own,
        which TransformerLens makes put a BOS token before every text: bos="no" where the model was trained
        without one.
    corpus : a path or hub data set (str), a list of paths (pathlib.Path), a list of texts (str), each of them
        a document, or a list of token-id sequences (int), each a document; None is the embedded text. Token
        ids need no tokenizer; without one there are no bits per byte, and no BOS token is added.
    parts : of `redundancy.removal.config.PARTS`; None is all of them.
    orders : of the part curve, of `redundancy.removal.config.ORDERS`; None is all that the parts make.
    targets : what the part methods removes whole, of attention, mlp, block.
    shares : of the attention operations at which the removal curve is measured.
    tokens, eval_tokens : training and held-out tokens. Without them 150 training tokens per column of the
        hidden state, at least 100,000, 20,000 held-out tokens, and at most what the text holds.
    quick : a first look: 20,000 training and 10,000 held-out tokens unless given.
    layers : blocks, counted from 0; None is all.
    context : tokens per window; None: 256, or what the model takes where that is less.
    bos : whether every window begins with the BOS token, at position 0, which is not scored; auto: as the
        model was trained.
    ridge : penalty per token on standardised features; auto: chosen per layer on the validation documents.
    keep_position_0 : score the first position of each window too.
    dtype : of weights and activations; auto: that of a loaded model, else float32, or bfloat16 on a GPU that
        computes it.
    random_seeds : networks with random weights that the control is averaged over, at least 2.
    seed : of the document split, the order of windows, random weights and the bootstrap.
    revision, trust_remote_code : of a hub model.
    text_column, split, document_column, rows : how documents are made of the rows of a table (.parquet,
        .jsonl) or of a hub data set.
    device : auto (a loaded model stays where it is), cpu, cuda, cuda:1, ..., or split.
    batch_size : windows per forward pass; changes no number.
    out, resume : run folder (None: runs/<model>-<time> in the current folder, which is printed), and whether
        the newest unfinished run of this request goes on. The same call with the same folder resumes it, or
        does nothing when it is finished.

    Returns
    -------
    Losses : `predictors`, `substitution`, `curve`, `removable`, `cost` as DataFrames; `summary`; `folder`;
        `plot()`, `save(folder)`.

    Raises
    ------
    UserError : with what was asked, what is available, and the keyword to change.

    Examples
    --------
    >>> from redundancy import remove_attention
    >>> losses = remove_attention(
    ...     parts=["all"], layers=[0], tokens=2000, eval_tokens=2000, context=64, out="removal"
    ... )
    >>> sorted(losses.summary["all_layers"])[:3]
    ['position_mean', 'probe', 'resampled']
    """
    asked = dict(locals())
    from redundancy.given.model import evaluating, source_of
    from redundancy.preparation import Given
    from redundancy.removal.config import PARTS, RemovalConfig
    from redundancy.removal.experiment import execute
    from redundancy.request import Settings

    call = call_of(remove_attention, asked, _objects(asked))
    with keywords(), evaluating(model):
        source = source_of(model, tokenizer, revision, trust_remote_code=trust_remote_code)
        config = RemovalConfig(
            model=_name(model, source.name),
            parts=PARTS if parts is None else asked["parts"],
            orders=asked["orders"],
            targets=asked["targets"],
            shares=asked["shares"],
            revision=revision,
            tokens=tokens,
            eval_tokens=eval_tokens,
            quick=quick,
            bos=bos,
            context=context,
            layers=asked["layers"],
            ridge=ridge,
            keep_position_0=keep_position_0,
            dtype=dtype,
            random_seeds=random_seeds,
            seed=seed,
            trust_remote_code=trust_remote_code,
            text_column=text_column,
            split=split,
            document_column=document_column,
            rows=rows,
        )
        text, config = _text(corpus, config)
        settings = Settings(
            device=device,
            batch_size=batch_size,
            out=asked["out"],
            resume=resume,
        )
        return execute(config, settings, Given(source, corpus=text, call=call))

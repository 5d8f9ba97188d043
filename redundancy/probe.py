"""Measure how much of attention's output a linear map of the hidden state predicts: `python -m redundancy.probe [MODEL]`.

`execute` is the experiment, step by step. The definitions of the scores are in `scores`, of the controls in `controls`.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from typing import Any

import tyro

from labbook import processes
from labbook.console import UserError, choice, console, guarded, literal
from labbook.estimate import Bootstrap
from redundancy.capture import Feature
from redundancy.measure import measure
from redundancy.models import random_twin
from redundancy.ridge import PENALTIES
from redundancy.setup import Request, Settings, prepare
from redundancy.tables import Tables, print_tables, tabulate


@dataclass(frozen=True)
class ProbeConfig(Request):
    """Everything that changes a number of a probe run. `None` means chosen automatically, and the choice is printed."""

    feature: Feature = "resid_pre"
    """What predicts: the residual stream before the block, after its first norm (ln1), or the embedding."""


def execute(config: ProbeConfig, settings: Settings) -> Tables:
    """The experiment: model, text, moments, ridge, held-out errors, the same with random weights, tables."""
    prepared = prepare(config, settings)
    run = prepared.open_run(settings)
    if run.finished:
        console.print("this run is finished; nothing is computed again")
        return Tables.read(run.folder)
    decoder, task = prepared.decoder, prepared.task(settings, config.feature)

    state = run.folder / "state"
    trained, fitted = measure(decoder, task, controls=True, state=state, label="model")
    twin, _ = measure(random_twin(decoder, task.seed + 1), task, controls=False, state=state, label="random weights")

    penalties = {n: f.penalties for n, f in fitted.items()}
    chosen = [p[task.feature] for p in penalties.values()]
    why = (
        f"smallest validation error per layer, from {PENALTIES[0]:g} to {PENALTIES[-1]:g}"
        if task.ridge is None
        else "asked for"
    )
    choice("ridge penalty", f"{min(chosen):g} to {max(chosen):g}", why)

    bootstrap = Bootstrap(len(task.windows["evaluation"].names), task.seed)
    tables = tabulate(decoder, task, trained, twin, penalties, bootstrap, prepared.facts)
    tables.write(run)
    if processes.rank() == 0:
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

        with processes.together():
            tables = execute(command.config, command.settings)
            if processes.rank() == 0:
                draw(tables.folder, tables.folder)
                print_tables(tables)
                console.print(literal(tables.folder))

    guarded(body)


if __name__ == "__main__":
    main()

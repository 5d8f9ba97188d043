"""What the experiments of the paper are made of: tables of cells, and how each cell is trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from consolidation.config import Keys, SRCDConfig
from consolidation.train.config import TrainConfig
from labbook.console import UserError

# every published hyperparameter
PAPERS = TrainConfig()

# tables of cells of `consolidation/design.md`, in the order of its letters
DESIGNED = ("factorial", "learned")
# models and loads, in units of the preset's patterns, of that design
FACTORIAL = (
    ("cram", 1),
    ("control", 1),
    ("no-consolidation", 1),
    ("cram", 4),
    ("control", 4),
    ("no-quality", 1),
)


@dataclass(frozen=True)
class Cell:
    """One condition: the table it stands in, its name there, the folder of its run (shared between tables),
    and how it is trained.
    """

    table: str
    name: str
    folder: str
    config: TrainConfig
    needs: str | None = None
    """Folder of the run whose weights it starts from."""


def cells(base: TrainConfig, tables: tuple[str, ...]) -> list[Cell]:
    """All cells of the tables asked for. Raises UserError for an unknown table, and for none."""
    if not tables:
        raise UserError(f"--tables names no table; there are {', '.join(TABLES)}. Name some.")
    unknown = [t for t in tables if t not in TABLES]
    if unknown:
        raise UserError(f"there is no table {unknown[0]!r}; there are {', '.join(TABLES)}. Change --tables.")
    return [cell for table in tables for cell in TABLES[table](base)]


def _models(table: str, *names: str) -> Callable[[TrainConfig], list[Cell]]:
    return lambda base: [Cell(table, name, name, replace(base, model=name)) for name in names]


def _schedule(base: TrainConfig) -> list[Cell]:
    steps, start = base.steps, base.pressure_start
    conditions = {"as the preset": base}
    for name, end in (("1/3", steps // 3), ("2/3", 2 * steps // 3), ("1", steps)):
        annealed = replace(base, temperature=(1.0, 0.1), temperature_steps=end)
        conditions[f"temperature 1 to .1, ends at {name}"] = annealed
    conditions["temperature constant"] = replace(base, temperature=(1.0, 1.0), temperature_steps=0)
    for name, at in (("half as late", start // 2), ("half as late again", start + start // 2)):
        conditions[f"pressure sets in {name}"] = replace(base, pressure_start=at)
    conditions["pressure from the start"] = replace(base, pressure_start=0, pressure_ramp=0)
    return [_changed("schedule", name, base, config) for name, config in conditions.items()]


def _changed(table: str, name: str, base: TrainConfig, config: TrainConfig) -> Cell:
    """The cell of a changed configuration; one that changes nothing shares the folder of `cram`."""
    folder = (
        "cram" if config == base else f"{table}-{name.replace(',', '').replace(' ', '-').replace('/', 'of')}"
    )
    return Cell(table, name, folder, config)


PRICE = "price of attention"
# what the preset changes of the paper's objective and model, one at a time, back to the paper
PUBLISHED: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    PRICE: lambda base: _weighted(base, attention_penalty=PAPERS.objective.attention_penalty),
    "onset of pressure": lambda base: replace(
        base, pressure_start=PAPERS.pressure_start, pressure_ramp=PAPERS.pressure_ramp
    ),
    # the paper anneals over the first 3,000 of 10,000 steps
    "temperature": lambda base: replace(
        base,
        temperature=PAPERS.temperature,
        temperature_steps=round(base.steps * PAPERS.temperature_steps / PAPERS.steps),
    ),
    "semantic rank": lambda base: replace(
        base, cram=replace(base.cram, semantic_rank=PAPERS.cram.semantic_rank)
    ),
}


# put back together: a cell that was added after either of these alone had been seen to end attention
PAIR = ("onset of pressure", "temperature")


def put_back(*names: str) -> str:
    """The cell of `published` with these settings as ours and the others as the paper's."""
    return f"published, {' and '.join(names)} ours"


def alone(name: str) -> str:
    """The cell of `published` with this setting as the paper's and the others as ours."""
    return f"ours, {name} published"


def _weighted(base: TrainConfig, **weights: float) -> TrainConfig:
    return replace(base, objective=replace(base.objective, **weights))


def _published(base: TrainConfig) -> list[Cell]:
    """From the paper's settings to ours, one step at a time: all of `PUBLISHED` together, each of them put
    back to ours and a pair of them, each alone in ours; the temperature annealed over all of training,
    alone and together; all together with the paper's learning rate, and with its batch too; and ours without
    lambda_S, which pays for the semantic path at every position.

    Cells that `schedule` has share its folders.
    """

    def of(*names: str) -> TrainConfig:
        config = base
        for name in names:
            config = PUBLISHED[name](config)
        return config

    def slowly(config: TrainConfig) -> TrainConfig:
        return replace(config, temperature=PAPERS.temperature, temperature_steps=base.steps)

    conditions = {"all ours": base, "all published": of(*PUBLISHED)}
    for back in (*((name,) for name in PUBLISHED), PAIR):
        left = (other for other in PUBLISHED if other not in back)
        conditions[put_back(*back)] = of(*left)
    for name in PUBLISHED:
        conditions[alone(name)] = of(name)
    conditions["all published, temperature over all of training"] = slowly(of(*PUBLISHED))
    slower = replace(of(*PUBLISHED), learning_rate=PAPERS.learning_rate)
    conditions["all published, learning rate"] = slower
    conditions["all published, learning rate and batch"] = replace(slower, batch=PAPERS.batch)
    conditions["ours, temperature over all of training"] = slowly(base)
    conditions["ours, no semantic reward"] = _weighted(base, semantic_reward=0.0)
    there, found = _schedule(base), list[Cell]()
    for name, config in conditions.items():
        same = [cell.folder for cell in (*there, *found) if cell.config == config]
        own = f"published-{name.replace(',', '').replace(' ', '-')}"
        found.append(Cell("published", name, same[0] if same else own, config))
    return found


def _recurrence(base: TrainConfig) -> list[Cell]:
    shares = (0.0, 0.25, 0.5, 0.7, 0.9, 1.0)
    return [
        _changed(
            "recurrence", f"{s:.0%}", base, replace(base, benchmark=replace(base.benchmark, recurrence=s))
        )
        for s in shares
    ]


def _novel(base: TrainConfig) -> list[Cell]:
    kinds: tuple[Literal["disjoint", "shared"], ...] = ("disjoint", "shared")
    return [
        _changed("novel", kind, base, replace(base, benchmark=replace(base.benchmark, novel=kind)))
        for kind in kinds
    ]


def _keys(base: TrainConfig) -> list[Cell]:
    kinds: tuple[Keys, ...] = ("learned", "fixed")
    found = []
    for kind in kinds:
        for model in ("cram", "control"):
            config = replace(base, model=model, cram=replace(base.cram, keys=kind))
            # the cells of other tables, where those have it
            other = f"mode-keys-{kind}" if model == "cram" else f"keys-{model}-keys-{kind}"
            folder = model if kind == base.cram.keys else other
            found.append(Cell("keys", f"{model}, keys {kind}", folder, config))
    return found


def _factorial(base: TrainConfig) -> list[Cell]:
    """The cells of `consolidation/design.md`."""
    return [_designed("factorial", base, model, load) for model, load in FACTORIAL]


def _controls(base: TrainConfig) -> list[Cell]:
    """Other controls in the place of the factorial's B."""
    return [_designed("controls", base, model) for model in ("control-network", "control-narrow")]


def _learned(base: TrainConfig) -> list[Cell]:
    """Cells A and B of the design with learned keys."""
    return [_designed("learned", base, model, keys="learned") for model in ("cram", "control")]


def _designed(table: str, base: TrainConfig, model: str, load: int = 1, keys: Keys = "fixed") -> Cell:
    """A model as the design trains it: fixed keys, twice the steps, and `load` times the patterns."""
    patterns = load * base.benchmark.patterns
    config = replace(
        base,
        model=model,
        steps=2 * base.steps,
        cram=replace(base.cram, keys=keys, quality="predicted"),
        benchmark=replace(base.benchmark, patterns=patterns),
    )
    return Cell(table, f"{model}, {patterns} patterns", f"{table}-{model}-{patterns}", config)


def _mode(base: TrainConfig) -> list[Cell]:
    conditions = {
        "q predicted": replace(base.cram, quality="predicted"),
        "q oracle": replace(base.cram, quality="oracle"),
        "keys fixed": replace(base.cram, keys="fixed"),
        "keys learned": replace(base.cram, keys="learned"),
    }
    return [_changed("mode", name, base, replace(base, cram=cram)) for name, cram in conditions.items()]


def _task(benchmark: SRCDConfig, task: Literal["copy", "associative"]) -> SRCDConfig:
    """The benchmark as another task on the same keys. Copy binds a novel key for every query: where there are
    fewer (at the published size 100 for 102 queries), it asks for as many as there are, because more keys
    would not fit the embedding that is transferred.
    """
    room = benchmark.novel_keys - benchmark.distractor_count
    if task == "copy" and benchmark.query_count > room:
        return replace(benchmark, variant=task, queries=room / benchmark.length)
    return replace(benchmark, variant=task)


def _transfer(base: TrainConfig) -> list[Cell]:
    short = replace(
        base,
        steps=base.steps // 4,
        pressure_start=base.pressure_start // 4,
        pressure_ramp=base.pressure_ramp // 4,
        temperature_steps=base.temperature_steps // 4,
    )
    tasks: tuple[Literal["copy", "associative"], ...] = ("copy", "associative")
    found = []
    for task in tasks:
        whole = replace(short, benchmark=_task(base.benchmark, task))
        heads = replace(whole, trained="heads")
        longer = replace(base, benchmark=whole.benchmark)
        conditions = (
            ("trained", heads, "cram"),
            ("random", heads, None),
            ("from scratch", whole, None),
            ("from scratch longer", longer, None),
        )
        for name, config, needs in conditions:
            folder = f"transfer-{task}-{name.replace(' ', '-')}"
            found.append(Cell("transfer", f"{task}, {name}", folder, config, needs))
    return found


TABLES: dict[str, Callable[[TrainConfig], list[Cell]]] = {
    "keys": _keys,
    "table1": _models("table1", "cram", "no-consolidation", "transformer", "mamba", "jamba", "seqboat"),
    "table4": _models("table4", "cram", "control", "no-consolidation", "no-quality", "fast-semantic"),
    "schedule": _schedule,
    "recurrence": _recurrence,
    "novel": _novel,
    "mode": _mode,
    "transfer": _transfer,
    "factorial": _factorial,
    "controls": _controls,
    "learned": _learned,
    "published": _published,
}

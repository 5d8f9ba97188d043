"""What holds the project together: dependencies, directions of imports, notebooks, the embedded run."""

import ast
import base64
import io
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from extension.commands import commands, parser
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from consolidation.decay import humans
from consolidation.train import trajectory
from consolidation.train.presets import PRESETS, preset
from labbook import style
from labbook.console import UserError
from redundancy.model.loading import load_model, locate
from redundancy.probe import __main__ as probe
from redundancy.text import DATA, read_corpus
from replication import __main__ as replication
from replication import abstract
from replication.costs import costs
from replication.results import findings, results

ROOT = Path(__file__).parent.parent
RUN = DATA / "runs" / "embedded" / "probe"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = tuple(PYPROJECT["tool"]["mypy"]["packages"])
# ground floor first; a module may import from the rows above its own
FLOORS = (
    {"labbook.estimate", "labbook.escape", "labbook.entry"},
    {"labbook.console"},
    {"labbook.style"},
    {"labbook.processes", "labbook.reading", "labbook.command", "labbook.view"},
    {"labbook.run"},
    {"labbook.training", "labbook.report"},
    {"redundancy.request", "redundancy.benchmark.config", "redundancy.coverage.config"},
    {"redundancy.corpus.hub"},
    {"redundancy.corpus.documents"},
    {"redundancy.text", "redundancy.model.blocks", "redundancy.model.gguf_file"},
    {
        "redundancy.probe.config",
        "redundancy.training.config",
        "redundancy.removal.config",
        "redundancy.finished",
    },
    {"redundancy.model.mlp"},
    {"redundancy.batches", "redundancy.model.decoder", "redundancy.facts"},
    {"redundancy.model.weights", "redundancy.model.pair"},
    {
        "redundancy.model.loading",
        "redundancy.model.capture",
        "redundancy.model.prefix",
        "redundancy.regression.moments",
    },
    {
        "redundancy.model.substitution",
        "redundancy.model.updates",
        "redundancy.regression.ridge",
        "redundancy.given.model",
        "redundancy.given.text",
    },
    {"redundancy.regression.controls"},
    {"redundancy.regression.scores", "redundancy.regression.network"},
    {"redundancy.passes", "redundancy.aggregate"},
    {"redundancy.evaluation", "redundancy.overlap"},
    {"redundancy.preparation"},
    {"redundancy.probe.summary", "redundancy.training.summary"},
    {"redundancy.probe.learning", "redundancy.probe.kept"},
    {"redundancy.probe.tables"},
    {"redundancy.probe.figures", "redundancy.probe.report"},
    {"redundancy.probe.experiment"},
    {"redundancy.probe.__main__"},
    {"redundancy.training.attention", "redundancy.training.checkpoints"},
    {"redundancy.training.tables"},
    {"redundancy.training.figures", "redundancy.training.report"},
    {"redundancy.training.experiment"},
    {"redundancy.training.__main__"},
    {"redundancy.removal.gradients", "redundancy.pretrain.ngram"},
    {
        "redundancy.removal.need",
        "redundancy.removal.replacements.descent",
        "redundancy.removal.replacements.rivals",
        "redundancy.removal.replacements.previous",
        "redundancy.removal.replacements.sampled",
        "redundancy.removal.replacements.sequence",
        "redundancy.removal.replacements.weighted",
    },
    {
        "redundancy.removal.replacements.inplace",
        "redundancy.removal.routing.known",
        "redundancy.removal.routing.routers",
        "redundancy.removal.routing.whole",
    },
    {"redundancy.removal.replacements.floor", "redundancy.removal.routing.trained"},
    {"redundancy.removal.plan", "redundancy.removal.curve"},
    {"redundancy.removal.pruning.methods", "redundancy.removal.routing.orders"},
    {"redundancy.removal.pruning.calibration", "redundancy.removal.pruning.greedy"},
    {"redundancy.removal.pruning.experiment"},
    {"redundancy.removal.pruning.tables"},
    {"redundancy.removal.pruning.figures"},
    {"redundancy.replaced.kept"},
    {
        "redundancy.replaced.cache",
        "redundancy.replaced.maps",
        "redundancy.replaced.replacement",
        "redundancy.replaced.skipping",
    },
    {"redundancy.replaced.model"},
    {"redundancy.replaced.interface"},
    {"redundancy.removal.summary", "redundancy.removal.cost"},
    {"redundancy.removal.tables"},
    {"redundancy.removal.figures", "redundancy.removal.report"},
    {"redundancy.removal.experiment"},
    {"redundancy.removal.__main__"},
    {"redundancy.pretrain.config"},
    {"redundancy.pretrain.tokens"},
    {"redundancy.pretrain.trainer", "redundancy.pretrain.packed"},
    {"redundancy.pretrain.experiment"},
    {"redundancy.pretrain.__main__"},
    {"redundancy.benchmark.timing"},
    {"redundancy.benchmark.removal"},
    {"redundancy.benchmark.experiment", "redundancy.coverage.simulation"},
    {"redundancy.benchmark.__main__", "redundancy.coverage.__main__"},
    {"redundancy.interface"},
    {"redundancy.__main__"},
    {"consolidation.decay.units", "consolidation.decay.functions"},
    {"consolidation.decay.curve", "consolidation.decay.forms"},
    {"consolidation.decay.solver"},
    {"consolidation.decay.inference", "consolidation.decay.equivalence", "consolidation.decay.transitions"},
    {
        "consolidation.decay.comparison",
        "consolidation.decay.variation.multiverse",
        "consolidation.decay.humans",
        "consolidation.decay.variation.overdispersion",
        "consolidation.decay.variation.hierarchical",
    },
    {
        "consolidation.decay.exponents",
        "consolidation.decay.variation.specifications",
        "consolidation.decay.variation.averaging",
    },
    {"consolidation.decay.variation.influence"},
    {"consolidation.decay.analysis"},
    {"consolidation.schedule"},
    {"consolidation.config"},
    {"consolidation.srcd", "consolidation.train.config"},
    {"consolidation.episodic", "consolidation.theory"},
    {"consolidation.cram"},
    {"consolidation.naive", "consolidation.rivals", "consolidation.step"},
    {"consolidation.train.trajectory", "consolidation.train.presets", "consolidation.train.patterns"},
    {"consolidation.train.evaluation", "consolidation.train.curves", "consolidation.train.knowledge"},
    {"consolidation.train.trainer", "consolidation.train.figures"},
    {"consolidation.train.experiment"},
    {"consolidation.train.result"},
    {"consolidation.train.__main__"},
    {"consolidation.replicate.cells", "consolidation.replicate.config"},
    {"consolidation.replicate.tabulation"},
    {
        "consolidation.replicate.contrasts",
        "consolidation.replicate.figures",
        "consolidation.replicate.budget",
    },
    {"consolidation.replicate.factorial"},
    {"consolidation.replicate.cell_figures"},
    {"consolidation.replicate.experiment"},
    {"consolidation.replicate.__main__"},
    {"consolidation.experiments.config", "consolidation.experiments.outcome"},
    {"consolidation.experiments.readings"},
    {"consolidation.experiments.identification"},
    {
        "consolidation.experiments.practice",
        "consolidation.experiments.retention",
        "consolidation.experiments.savings",
        "consolidation.experiments.spacing",
        "consolidation.experiments.frequency",
    },
    {"consolidation.experiments.figures"},
    {"consolidation.experiments.experiment"},
    {"consolidation.experiments.__main__"},
    {"consolidation.fit.config"},
    {"consolidation.fit.given"},
    {"consolidation.fit.table"},
    {"consolidation.fit.source", "consolidation.fit.short"},
    {"consolidation.fit.citation", "consolidation.fit.figures"},
    {"consolidation.fit.report"},
    {"consolidation.fit.result"},
    {"consolidation.fit.experiment"},
    {"consolidation.fit.__main__"},
    {"consolidation.benchmark.config", "consolidation.coverage.config"},
    {
        "consolidation.benchmark.experiment",
        "consolidation.coverage.simulation",
        "consolidation.coverage.rejection",
    },
    {"consolidation.humans", "consolidation.benchmark.__main__", "consolidation.coverage.__main__"},
    {"consolidation.interface"},
    {"consolidation.__main__"},
    {"replication.verdict", "replication.paper", "replication.captions"},
    {"replication.rows"},
    {"replication.claims.decided", "replication.claims.beside"},
    {"replication.claims.varied"},
    {"replication.claims.factorial"},
    {
        "replication.claims.finding",
        "replication.claims.prediction",
        "replication.claims.removal",
        "replication.claims.consolidation",
        "replication.claims.decay",
    },
    {"replication.claims.experiments", "replication.claims.tables", "replication.claims.settings"},
    {"replication.results", "replication.abstract"},
    {"replication.costs", "replication.gpu.config"},
    {"replication.__main__", "replication.gpu.stages"},
    {"replication.gpu.experiment"},
    {"replication.gpu.__main__"},
)
# imported inside a function, when a figure is asked for
LATE = {
    ("redundancy.probe.tables", "redundancy.probe.figures"),
    ("redundancy.training.tables", "redundancy.training.figures"),
    ("redundancy.removal.tables", "redundancy.removal.figures"),
}


def requirements() -> dict[str, Requirement]:
    project = PYPROJECT["project"]
    lines = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    found = [Requirement(line) for line in lines if not line.startswith(project["name"])]
    return {canonicalize_name(r.name): r for r in found}


def pins(lines: list[str]) -> dict[str, str]:
    parts = [
        line.strip().removeprefix("- ").split("==")
        for line in lines
        if "==" in line and not line.startswith("#")
    ]
    return {canonicalize_name(name): version for name, version in parts}


def test_pyproject_constraints_and_conda_environment_agree():
    constraints = pins((ROOT / "constraints.txt").read_text().splitlines())
    conda = pins((ROOT / "environment.yml").read_text().splitlines())
    wanted = requirements()
    assert set(conda) == set(wanted)
    for name, requirement in wanted.items():
        assert conda[name] == constraints[name], name
        assert requirement.specifier.contains(constraints[name]), name
    assert constraints["torch"] == "2.13.0"
    assert wanted["torch"].specifier.contains("2.11.0")
    assert wanted["transformers"].specifier.contains("5.9.0")


def imported(source: str, modules: set[str]) -> set[str]:
    """The `modules` that a source imports, in any form and at any depth."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & modules


@pytest.mark.parametrize(
    "source",
    [
        "from redundancy.text import DATA",
        "from redundancy import text",
        "from redundancy.pretrain import ngram\nfrom redundancy import text",
        "import redundancy.text",
        "import redundancy.text as t",
        "def f():\n    from redundancy import ngram, text as t",
        "if True:\n    import json, redundancy.text",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert "redundancy.text" in imported(source, {"redundancy.text"})


def module_of(path: Path) -> str:
    """Dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def sources(package: str) -> list[Path]:
    """Every source file of a package, at any depth."""
    return sorted((ROOT / package).rglob("*.py"))


def test_imports_run_one_way():
    floor = {module: number for number, modules in enumerate(FLOORS) for module in modules}
    # the name of a package is its door and stands on no floor
    paths = {module_of(p): p for package in PACKAGES for p in sources(package) if p.stem != "__init__"}
    assert set(paths) == set(floor)
    for module, path in paths.items():
        for other in imported(path.read_text(), set(floor)):
            if (module, other) not in LATE:
                assert floor[other] < floor[module], f"{module} imports {other}"


def test_rooms_are_small():
    for package in PACKAGES:
        for folder in {path.parent for path in sources(package)}:
            modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
            assert len(modules) <= 12, f"{folder} has {len(modules)} modules"


def test_help_imports_nothing_heavy():
    names = [name for package in ("redundancy", "consolidation") for name in commands(package)]
    assert len(names) == 13
    asks = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        importlib.import_module(name).main(["--help"])
    heavy = {"torch", "transformers", "accelerate", "scipy", "pandas", "matplotlib"} & set(sys.modules)
    assert not heavy, f"{name} imports {heavy}"
"""
    done = subprocess.run([sys.executable, "-c", asks, *names], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(names)


def test_a_decay_fit_needs_no_torch():
    asks = "import sys, consolidation.fit.experiment; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w>-])")
# of pip, torchrun and git, of the console scripts themselves, and the variables of a style sheet
FLAGS_OF_OTHERS = {
    "--no-deps",
    "--nproc-per-node",
    "--porcelain",
    "--untracked-files",
    "--version",
    "--line",
    "--soft",
    # taken off before the rest is parsed, because it says what the defaults are
    "--preset",
}


def flags_named(source: str) -> set[str]:
    """Every flag in messages and docstrings of a source."""
    strings = (
        n.value
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )
    return {flag for text in strings for flag in FLAG.findall(text)}


def flags_there(package: str) -> set[str]:
    """The flags of all commands of a package, from the parsers that tyro builds for them."""
    actions = (action for module in commands(package) for action in parser(module)._actions)
    return {option for action in actions for option in action.option_strings}


def test_flags_are_told_from_drawings():
    assert flags_named("x = 'use --eval-tokens 5, --bos; a --z--> b --attn_out--> c' \nf'--out {x}'") == {
        "--eval-tokens",
        "--bos",
        "--out",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_advice_names_flags_that_exist(package):
    # the ground floor and the top floor speak of every command
    speaks_of = PACKAGES if package in ("labbook", "replication") else (package,)
    there = set().union(*(flags_there(name) for name in speaks_of if name != "labbook"))
    assert {"--out"} < there
    for path in sources(package):
        unknown = flags_named(path.read_text()) - there - FLAGS_OF_OTHERS
        assert not unknown, f"{path.name} names {sorted(unknown)}"


def cells_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_notebooks_are_stored_with_the_outputs_of_the_shipped_runs():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        assert path.stat().st_size < 1_000_000, path.name
        code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
        # the first cell says what is shown, in one name, and shows nothing
        assert code[0]["source"][-1].startswith('RUN = os.environ.get("RUN", '), path.name
        for number, cell in enumerate(code):
            assert cell["execution_count"] == number + 1, path.name
            assert number == 0 or cell["outputs"], (path.name, "".join(cell["source"]))
            for output in cell["outputs"]:
                assert output["output_type"] in ("display_data", "execute_result"), (path.name, output)
                assert "ipywidgets" not in json.dumps(output)
        shown = [output.get("data", {}) for cell in code for output in cell["outputs"]]
        pictures = [data["image/png"] for data in shown if "image/png" in data]
        assert len(pictures) == sum("style.show(" in "".join(cell["source"]) for cell in code)
        for picture in pictures:
            assert Image.open(io.BytesIO(base64.b64decode("".join(picture)))).mode == "P", path.name


def test_figures_of_a_users_run_go_into_its_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("FIGURES", raising=False)
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    own.mkdir()
    shipped.mkdir()
    figures = str(tmp_path / "project" / "figures")
    assert style.destination(str(own), str(shipped), figures) == own
    assert style.destination(str(shipped), str(shipped), figures) == Path(figures)
    assert style.destination(f"{own}/../shipped", str(shipped), figures) == Path(figures)
    elsewhere = style.destination(str(tmp_path / "curve.csv"), "series", figures)
    assert elsewhere == tmp_path / "project" / "runs" / "figures-curve"
    assert style.destination("series", "series", figures) == Path(figures)
    with pytest.raises(UserError, match="RUN names"):
        style.folder(str(tmp_path / "missing"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix", "count"),
    [
        ("01_attention_redundancy", "redundancy_", 3),
        ("02_redundancy_over_training", "training_", 3),
        ("02b_removal", "removal_", 6),
        pytest.param("03_consolidation", "consolidation_", 5, marks=pytest.mark.slow),
        pytest.param("04_decay_exponents", "decay_", 5, marks=pytest.mark.slow),
        pytest.param("05_memory_experiments", "experiments_", 5, marks=pytest.mark.slow),
    ],
)
def test_notebooks_regenerate_the_committed_figures(tmp_path, monkeypatch, name, prefix, count):
    monkeypatch.setenv("FIGURES", str(tmp_path))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    names = {p.name for p in (ROOT / "figures").glob(f"{prefix}*")}
    assert names == {p.name for p in tmp_path.iterdir()}
    assert len(names) == 2 * count  # png and pdf


def test_the_graphical_abstract_is_drawn_from_the_shipped_runs(tmp_path):
    runs = [replication.read_run(folder) for folder in replication.shipped()]
    paths = abstract.draw(runs, tmp_path)
    assert {path.name for path in paths} == {p.name for p in (ROOT / "figures").glob("graphical_abstract.*")}
    # a number that moved moves a hundredth of the picture, another version of a library less than this
    drawn, committed = (
        np.asarray(Image.open(place / "graphical_abstract.png")) / 255
        for place in (tmp_path, ROOT / "figures")
    )
    assert drawn.shape == committed.shape and (np.abs(drawn - committed) > 0.1).mean() < 0.001
    with pytest.raises(ValueError, match="removal"):
        abstract.graphical_abstract([run for run in runs if run.kind != "removal"])


def test_no_file_names_a_place_on_somebodys_machine():
    places = re.compile(r"/(root|work|home/[a-z]+|tmp/[a-z]+)/")
    folders = [p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "runs"))]
    files = [p for p in ROOT.iterdir() if p.is_file()] + [p for folder in folders for p in folder.rglob("*")]
    for path in files:
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".json", ".csv", ".ipynb"}:
            assert not places.search(path.read_text(encoding="utf-8")), path


def test_the_shipped_run_is_of_the_shipped_model_and_text(tmp_path):
    about = json.loads((RUN / "provenance.json").read_text())

    assert read_corpus(None).hash == about["data_hash"]
    assert (
        load_model(locate(None), torch.device("cpu"), torch.float32, 0).weight_hash() == about["weight_hash"]
    )


@pytest.mark.slow
def test_the_embedded_run_reproduces_the_committed_table(tmp_path):
    """The whole main job against the shipped run: float32 sums differ between machines, by far less than any
    interval.
    """
    config = json.loads((RUN / "config.json").read_text())
    probe.main(["--layers", "0", "3", "--out", str(tmp_path / "run")])
    columns = ["layer", "feature", "metric"]
    ours = pd.read_csv(tmp_path / "run" / "layers.csv").set_index(columns)
    reference = pd.read_csv(RUN / "layers.csv").set_index(columns)
    reference = reference[reference.index.get_level_values("layer").isin([0, 3])]
    assert sorted(ours.index) == sorted(reference.index)
    assert config["model"] == "embedded"
    for column in ("estimate", "lower", "upper"):
        difference = (ours[column] - reference.loc[ours.index, column]).abs()
        assert np.nanmax(difference) < 2e-3, difference.idxmax()


@pytest.mark.parametrize(
    "command",
    [
        "make probe",
        "make test",
        "make figures",
        "redundancy.probe gpt2-medium",
        "redundancy.training",
        "redundancy.removal",
        "consolidation.train",
        "consolidation.replicate",
        "consolidation.experiments",
        "consolidation.fit",
        "consolidation.humans",
        "consolidation.benchmark",
        "consolidation.coverage",
        "accelerate launch",
        "torchrun",
    ],
)
def test_the_readme_names_the_commands(command):
    assert command in (ROOT / "README.md").read_text()


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9216


def test_the_pages_are_those_of_the_shipped_runs(tmp_path):
    replication.main(["--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == replication.PAGE.read_text()
    runs = [replication.read_run(folder) for folder in replication.shipped()]
    rows = replication.headline(replication.rows_of(runs))
    assert results(runs, rows) == replication.RESULTS.read_text()
    readme = replication.README.read_text()
    assert replication.between(readme, findings(runs)) == readme
    page = replication.COSTS.read_text()
    assert replication.between(page, costs(), replication.COST_MARKS) == page
    for page in (replication.PAGE, replication.RESULTS, replication.README):
        text = page.read_text()
        for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
            section = target.removeprefix("#claim-")
            there = f"\n## Claim {section}\n" in text if section != target else (ROOT / target).exists()
            assert there, target


def test_shipped_runs_are_finished_runs_of_the_models_they_name():
    for folder in replication.shipped():
        run = replication.read_run(folder)
        match run.kind:
            case "experiments":
                there = preset(folder.name if folder.name in PRESETS else "small")
                _, other, price = folder.name.partition("-price-")
                if other:
                    there = replace(there, objective=replace(there.objective, attention_penalty=float(price)))
                assert set(pd.read_csv(folder / "cells.csv")["table"]) <= set(run.summary["tables"])
                assert run.summary["config"] == json.loads(json.dumps(there.recorded()))
            case "fit":
                assert folder.parent.name == "fits"
                assert run.summary["schema"] >= 2
            case "people":
                assert run.summary["experiment"] == folder.name
            case kind:
                assert kind == folder.name
                assert json.loads((folder / "config.json").read_text())["model"] == folder.parent.name


def test_shipped_reference_runs_have_the_seeds_that_the_table_counts():
    folder = humans.DATA / "runs" / "small"
    cells = (
        pd.read_csv(folder / "cells.csv")
        .query("table == 'table4' and metric == 'attention'")
        .set_index("cell")
    )
    assert set(cells.index) == {"cram", "control", "no-consolidation", "no-quality", "fast-semantic"}
    for name, row in cells.iterrows():
        found = trajectory.summaries(folder / name)
        assert row["n"] == len(found) == 5
        assert row["estimate"] == pytest.approx(np.mean([s.attention["all"] for s in found]))
        assert {s.seed for s in found} == set(range(5))
        assert trajectory.load(folder / name, "patterns")["queries"].sum() > 0

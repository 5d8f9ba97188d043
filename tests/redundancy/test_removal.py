"""The removal command in-process: its tables, its order of operations, kill and resume, and how it fails."""

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from labbook import console
from labbook.run import sealed, write_json
from redundancy import evaluation
from redundancy import passes as measure
from redundancy.removal import __main__ as removal
from redundancy.removal import experiment
from redundancy.removal.config import ORDERS
from redundancy.removal.curve import BUDGETS
from redundancy.removal.figures import FAMILIES, REMOVAL_FIGURES, draw_removal, removal_ranked
from redundancy.removal.pruning.tables import COLUMNS
from redundancy.removal.tables import FRAMES, NEWER, Losses
from redundancy.text import DATA
from tests.conftest import fails
from tests.planted import arguments

pytestmark = pytest.mark.slow

KEYS = ["part", "layer", "head", "replacement", "metric"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, gpt2_folder, text_folder):
    out = tmp_path_factory.mktemp("run") / "removal"
    removal.main(arguments(gpt2_folder, text_folder, out))
    return out


def test_a_run_folder_holds_tables_and_figures(finished):
    names = {p.name for p in finished.iterdir()}
    figures = {f"{name}.{kind}" for name in REMOVAL_FIGURES for kind in ("png", "pdf")}
    tables = {f"{name}.csv" for name in (*FRAMES, *NEWER, *COLUMNS, "cost")}
    kept = {f"{name}.{kind}" for name in ("probes", "routers") for kind in ("safetensors", "json")}
    about = {"config.json", "provenance.json", "report.html", "summary.json"}
    assert names == {*about, *kept, *tables, *figures}
    losses = Losses.read(finished)
    every = losses.substitution[losses.substitution["metric"] == "loss_increase"]
    assert (every["part"] == "heads").sum() == 3 * 3 * 4
    everywhere = {"probe", "weighted", "token_mean", "resampled", "training_mean", "zero", "shuffled", "mlp"}
    everywhere |= {
        "rank_4",
        "in_place",
        "in_place_rank_16",
        "in_place_mlp",
        "sequential",
        "sequential_intact",
        "previous_1",
        "previous_8",
    }
    assert everywhere <= set(every[every["part"] == "all"]["replacement"])
    assert {"previous_8", "weighted", "resampled"} <= set(every[every["part"] == "layers"]["replacement"])
    assert set(every[every["part"] == "floor"]["replacement"]) == {"bigram", "network"}
    assert set(losses.headline.floor) == {"bigram", "network"}
    recovered = losses.substitution[losses.substitution["metric"] == "loss_recovered_zero"]
    assert not recovered["replacement"].eq("zero").any()
    assert set(losses.curve["order"]) == set(ORDERS) == set(losses.removable["order"])
    assert set(losses.removable["budget"]) == set(BUDGETS)
    for table in (losses.substitution, losses.curve, losses.removable, losses.predictors):
        assert {"estimate", "lower", "upper", "n"} <= set(table.columns)
        assert (table["n"] == losses.summary["loss_intact"]["n"]).all()
    assert "nats per token" in losses.summary["verdict"]


def test_the_same_replacement_gives_the_same_loss_in_every_part(finished):
    """All layers by the probe appear in `all`, `cumulative` and at the end of the curves; the first layer in
    two parts.
    """
    losses = Losses.read(finished)
    table = losses.substitution[losses.substitution["metric"] == "loss_increase"].set_index(
        ["part", "layer", "replacement"]
    )["estimate"]
    whole = (
        table["all"].loc[np.nan, "probe"]
        if np.nan in table["all"].index
        else table["all"].xs("probe", level="replacement").iloc[0]
    )
    assert table["cumulative"].loc[2, "probe"] == pytest.approx(whole, abs=1e-9)
    assert table["cumulative"].loc[0, "probe"] == pytest.approx(table["layers"].loc[0, "probe"], abs=1e-9)
    others = losses.curve["order"].isin(["layers_dropped", "trained_together", "past_fisher"])
    ends = losses.curve[(losses.curve["target_share"] == 1) & ~others]
    placed = table["all"].xs("with_position", level="replacement").iloc[0]
    assert np.allclose(ends[ends["metric"] == "loss_increase"]["estimate"], placed, atol=1e-9)
    assert np.allclose(ends[ends["metric"] == "share"]["estimate"], 1)


def test_orders_are_compared_in_pairs_and_kinds_of_tokens_are_counted(finished):
    losses = Losses.read(finished)
    orders = [order for order in ORDERS if (losses.curve["order"] == order).any()]
    assert len(losses.paired) == len(BUDGETS) * len(orders) * (len(orders) - 1) / 2
    pair = losses.paired.query("order == 'predicted_fisher' and minus == 'random' and budget == 0.1")
    shares = losses.removable.query("budget == 0.1").set_index("order")["estimate"]
    if shares[["predicted_fisher", "random"]].notna().all():
        expected = shares["predicted_fisher"] - shares["random"]
        assert pair["estimate"].iloc[0] == pytest.approx(expected)
    kinds = losses.kinds
    assert set(kinds["tokens_of"]) == {"copied", "rare"}
    assert kinds.groupby("tokens_of")["tokens"].nunique().eq(1).all()
    rare = kinds[(kinds["tokens_of"] == "rare") & (kinds["part"] == "all")]
    assert {"loss_increase", "more_than_others"} == set(rare["metric"])


def test_a_run_of_an_older_version_is_read_and_drawn(tmp_path):
    """The shipped run may be older than tables that came later."""
    old, new = tmp_path / "old", DATA / "runs" / "embedded" / "removal"
    shutil.copytree(new, old)
    summary = json.loads((old / "summary.json").read_text())
    del summary["checksum"]
    for name in (*NEWER, *COLUMNS):
        (old / f"{name}.csv").unlink()
        del summary["sha256"][f"{name}.csv"]
    write_json(old / "summary.json", sealed(summary))
    losses = Losses.read(old)
    assert losses.paired.empty
    assert losses.kinds.empty
    assert {path.stem for path in draw_removal(old, tmp_path / "figures")} == (
        set(REMOVAL_FIGURES) - {"removal_methods"}
    )


def test_realised_shares_are_near_their_targets_and_exact_where_they_can_be(finished):
    shares = (
        Losses.read(finished)
        .curve.query("metric == 'share'")
        .set_index(["order", "target_share"])["estimate"]
    )
    for order in ("known_relative", "predicted_displacement", "random"):
        found = shares[order]
        assert np.abs(found - found.index).max() < 0.12, order
    heads = shares["heads_relative"]
    assert np.allclose(heads * 12, np.round(heads * 12), atol=1e-9)


def test_the_share_of_the_loss_recovered_is_that_of_the_two_losses(finished):
    table = Losses.read(finished).substitution
    whole = table[table["part"] == "all"].set_index(["metric", "replacement"])["estimate"]
    if ("loss_recovered", "probe") in whole.index:
        worst = whole["loss_increase", "training_mean"]
        assert whole["loss_recovered", "probe"] == pytest.approx(
            (worst - whole["loss_increase", "probe"]) / worst
        )
    assert not (table["metric"].eq("loss_recovered") & table["replacement"].eq("training_mean")).any()


@pytest.fixture(scope="module")
def parts():
    return ["--parts", "all", "curve", "--shares", "0.3", "1", "--layers", "0", "2", "--batch-size", "8"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, gpt2_folder, text_folder, parts):
    out = tmp_path_factory.mktemp("run") / "whole"
    removal.main(arguments(gpt2_folder, text_folder, out, *parts))
    return out


@pytest.mark.parametrize(("stage", "stop_at"), [("moments", 5), ("moments", 24), ("losses", 60)])
def test_a_killed_run_resumes_to_the_same_numbers(
    uninterrupted, gpt2_folder, text_folder, tmp_path, monkeypatch, parts, stage, stop_at
):
    count, out = [0], tmp_path / "killed"
    module, name = (measure.LayerMoments, "add") if stage == "moments" else (evaluation, "next_token_logits")
    original = getattr(module, name)

    def counted(*args):
        count[0] += 1
        console._Signals.received = count[0] == stop_at
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, counted)
        # a signal is seen at the end of a batch; keep it on until then
        patch.setattr(measure, "stopping", lambda: count[0] >= stop_at)
        with pytest.raises(SystemExit) as stop:
            removal.main(arguments(gpt2_folder, text_folder, out, *parts))
    assert stop.value.code == 130
    assert not (out / "summary.json").exists()
    removal.main(arguments(gpt2_folder, text_folder, out, *parts))
    for table in (*FRAMES, *NEWER):
        assert (out / f"{table}.csv").read_bytes() == (uninterrupted / f"{table}.csv").read_bytes(), table
    assert not (out / "state").exists()


def test_the_same_command_again_computes_nothing(
    uninterrupted, gpt2_folder, text_folder, parts, monkeypatch, capsys
):
    monkeypatch.setattr(experiment, "evaluate", lambda *a, **k: pytest.fail("computed again"))
    again = arguments(gpt2_folder, text_folder, uninterrupted, *parts)
    removal.main([*again, "--full"])
    out = capsys.readouterr().out
    assert "nothing is computed again" in out
    assert out.strip().splitlines()[-1] == str(uninterrupted)
    # without --full no model is loaded, the verdict is printed once more
    monkeypatch.setattr(experiment, "execute", lambda *a, **k: pytest.fail("a model was loaded"))
    removal.main(again)
    out = capsys.readouterr().out
    assert "nothing is computed again" in out
    assert "nats per token" in out
    assert out.strip().splitlines()[-1] == str(uninterrupted)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--shares", "0.3", "0.5", "0.3"], "--shares names 0.3 2 times"),
        (["--orders", "predicted_fisher", "predicted_fisher"], "--orders names predicted_fisher 2 times"),
        (["--orders", "random"], "names random alone, the control"),
    ],
)
def test_what_is_named_twice_or_is_the_control_alone_is_refused(
    capsys, gpt2_folder, text_folder, tmp_path, asked, said
):
    args = ["--parts", "curve", *asked, "--out", str(tmp_path / "o")]
    text = fails(removal.main, capsys, [str(gpt2_folder), "--corpus", str(text_folder), *args])
    assert said in " ".join(text.split())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("shares", [["0"], ["0.5", "1.2"], ["-0.1"], ["nan"]])
def test_impossible_shares_name_the_flag(capsys, gpt2_folder, text_folder, tmp_path, shares):
    text = fails(
        removal.main, capsys, arguments(gpt2_folder, text_folder, tmp_path / "o", "--shares", *shares)
    )
    assert "Change --shares" in text
    assert not (tmp_path / "o").exists()


def test_routers_without_a_curve_name_the_flag(capsys, gpt2_folder, text_folder, tmp_path):
    text = fails(
        removal.main, capsys, arguments(gpt2_folder, text_folder, tmp_path / "o", "--parts", "routers")
    )
    assert "Add curve" in text
    assert not (tmp_path / "o").exists()


def test_a_run_of_another_model_is_refused(capsys, uninterrupted, gpt2_folder, text_folder, parts):
    other = [f"random:{gpt2_folder}", *arguments(gpt2_folder, text_folder, uninterrupted, *parts)[1:]]
    assert "model: there" in fails(removal.main, capsys, other)


def test_a_run_of_other_weights_is_refused(tmp_path, capsys, uninterrupted, gpt2_folder, text_folder, parts):
    """As after the files of the model were replaced: what they hold is not what the run was made of."""
    there = tmp_path / "run"
    shutil.copytree(uninterrupted, there)
    for name, field in (("config.json", "weight_hash"), ("provenance.json", "fingerprint")):
        about = json.loads((there / name).read_text())
        (there / name).write_text(json.dumps(about | {field: "0" * len(about[field])}))
    text = fails(removal.main, capsys, arguments(gpt2_folder, text_folder, there, *parts))
    assert "weight_hash: there" in text


def test_a_folder_that_is_no_removal_run_is_named(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({}))
    with pytest.raises(console.UserError, match="not a finished removal run"):
        draw_removal(tmp_path, tmp_path)


def test_every_colour_of_the_ranking_is_named():
    figure = removal_ranked(Losses.read(DATA / "runs" / "embedded" / "removal"))
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {name for _, name in FAMILIES.values()}
    figure = removal_ranked(Losses.read(DATA / "runs" / "smollm2-135m" / "removal"))
    (legend,) = figure.legends  # only what is drawn
    assert not any("not deployable" in text.get_text() for text in legend.get_texts())
    plt.close("all")


def test_position_0_can_be_removed_too(gpt2_folder, text_folder, tmp_path):
    args = ["--parts", "all", "curve", "--shares", "1", "--keep-position-0"]
    removal.main(arguments(gpt2_folder, text_folder, tmp_path / "o", *args))
    losses = Losses.read(tmp_path / "o")
    assert losses.summary["position_0"] == "substituted"
    assert pd.Series(losses.curve.query("metric == 'share' and target_share == 1")["estimate"]).eq(1).all()

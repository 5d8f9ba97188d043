"""Run folders and messages under hostile conditions: two writers, refused paths, damaged files, names that
hold markup.
"""

import errno
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from labbook import console
from labbook.console import UserError, choice, guarded, progress, warn
from labbook.run import (
    Busy,
    Run,
    load_tensors,
    owner,
    read_finished,
    read_json,
    readable,
    replacing,
    save_tensors,
    write_json,
)
from redundancy.pretrain import __main__ as pretrain
from redundancy.pretrain import trainer
from redundancy.probe import __main__ as probe
from tests.conftest import fails
from tests.planted import SMALL, arguments

ROOT_USER = os.geteuid() == 0


def test_the_new_file_has_a_name_of_its_own_and_follows_no_link(tmp_path, monkeypatch):
    names = set()
    for _ in range(5):
        with replacing(tmp_path / "table.csv") as partial:
            names.add(partial.name)
            assert partial.stat().st_size == 0
            partial.write_text("whole")
    assert len(names) == 5
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / ".table.csv.partial").symlink_to(victim)  # a name that can be guessed
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f".table.csv.{'0' * 16}.partial").symlink_to(victim)  # even one that was guessed
    with pytest.raises(UserError, match="cannot be written"), replacing(tmp_path / "table.csv") as partial:
        partial.write_text("mine")
    assert victim.read_text() == "precious"
    assert (tmp_path / "table.csv").read_text() == "whole"


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="not this"), replacing(tmp_path / "a.json") as partial:
        partial.write_text("half")
        raise ValueError("not this")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


HOLD = """
import sys, time
from pathlib import Path
from labbook.run import Run
run = Run(Path(sys.argv[1]), {"a": 1})
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_told_and_a_killed_one_leaves_no_lock(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(Busy, match=r"being written by another process.*--out"):
            Run(folder, {"a": 1})
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    run = Run(folder, {"a": 1})
    again = Run(folder, {"a": 1})  # the same process may open it twice
    again.finish({}, {"x": 1})
    assert {p.name for p in folder.iterdir()} == {"config.json", "summary.json"}
    assert run.finished


def test_a_lock_ends_with_its_run(tmp_path):
    run = Run(tmp_path / "run", {"a": 1})
    del run
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "held"
        other.kill()


def places(tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    yield tmp_path / "file" / "below" / "run"
    yield tmp_path / "file"
    yield tmp_path / "dangling"
    yield tmp_path / "loop" / "run"
    yield tmp_path / ("x" * 300)
    if not ROOT_USER:
        (tmp_path / "shut").mkdir(mode=0o500)
        yield tmp_path / "shut" / "run"


def test_places_that_cannot_be_written_are_user_errors(tmp_path):
    for place in places(tmp_path):
        with pytest.raises(UserError, match="--out"):
            Run(place, {"a": 1})
    with pytest.raises(UserError, match=r"dangling is a link to nothing.*--out"):
        write_json(tmp_path / "dangling" / "a.json", {})
    with pytest.raises(UserError, match=r"file is a file.*--out"):
        write_json(tmp_path / "file" / "a.json", {})


def test_commands_name_places_that_cannot_be_written(tmp_path, capsys, gpt2_folder, text_folder):
    for place in places(tmp_path):
        assert "--out" in fails(probe.main, capsys, arguments(gpt2_folder, text_folder, place))
        assert "--out" in fails(pretrain.main, capsys, [str(text_folder), "--out", str(place), *SMALL])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_refusals_of_the_system_are_user_errors(tmp_path, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number), "there")

    run = Run(tmp_path / "run", {"a": 1})
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(.*--out"):
        run.json("summary.json", {})


def said(capsys, error: BaseException) -> str:
    def body():
        raise error

    with pytest.raises(SystemExit) as stop:
        guarded(body)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_what_runs_out_is_named(capsys):
    assert "no space left on the device" in said(
        capsys, OSError(errno.ENOSPC, "No space left on device", "a.npy")
    )
    assert "no space left on the device" in said(
        capsys, OSError(errno.EDQUOT, "Disk quota exceeded", "a.npy")
    )
    assert "no space left on the device" in said(capsys, Exception("No space left on device (os error 28)"))
    assert "no space left on the device" in said(
        capsys, OSError("44924 requested and 1984 written")
    )  # NumPy's words
    assert "out of memory" in said(capsys, MemoryError())
    assert "out of memory" in said(capsys, pa.ArrowMemoryError("realloc of size 167936 failed"))
    assert "out of memory" in said(capsys, RuntimeError("can't start new thread"))
    assert "out of memory" in said(capsys, torch.OutOfMemoryError("CUDA out of memory"))
    text = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    assert "out of memory" in said(capsys, RuntimeError(text))
    assert "Check the path" in said(capsys, PermissionError(errno.EACCES, "Permission denied", "/there"))
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)


def test_refused_memory_is_not_taken_for_damage(capsys, monkeypatch, gpt2_folder, text_folder, tmp_path):
    def refuse(*args, **kwargs):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 201326592 bytes"
        )

    def refuse_table(*args, **kwargs):
        raise pa.ArrowMemoryError("realloc of size 167936 failed")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.GPT2LMHeadModel.from_pretrained", refuse)
        text = fails(probe.main, capsys, arguments(gpt2_folder, text_folder, tmp_path / "o"))
    assert "does not fit on cpu" in text
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetFile.iter_batches", refuse_table)
        assert "out of memory" in fails(probe.main, capsys, [str(gpt2_folder), "--context", "32"])


def test_a_full_disk_in_pretraining_is_named(capsys, monkeypatch, text_folder, tmp_path):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "tokens.npy")

    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", full)
        assert "no space left" in fails(
            pretrain.main, capsys, [str(text_folder), "--out", str(tmp_path / "o"), *SMALL]
        )
    assert not list((tmp_path / "o").glob(".*.partial"))
    pretrain.main([str(text_folder), "--out", str(tmp_path / "o"), *SMALL])
    assert (tmp_path / "o" / "summary.json").exists()


def test_tensors_carry_a_checksum_and_what_they_belong_to(tmp_path):
    (tmp_path / "one").mkdir()
    write_json(tmp_path / "one" / "config.json", {"a": 1})
    path = tmp_path / "one" / "state" / "sums.safetensors"
    tensors = {"x": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}
    save_tensors(path, tensors, {"step": "7"}, owner(path))
    found, about = load_tensors(path, owner(path))
    assert about == {"step": "7"}
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)

    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[-5] ^= 1  # a bit of a value: the file is well formed
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="not those of its checksum"):
        load_tensors(path, owner(path))
    path.write_bytes(content.replace(b'"step":"7"', b'"step":"9"'))
    with pytest.raises(UserError, match="not those of its checksum"):
        load_tensors(path, owner(path))

    path.write_bytes(content)
    other = path.with_name("scores.safetensors")
    other.write_bytes(content)
    with pytest.raises(UserError, match="belongs to another run or another part"):
        load_tensors(other, owner(other))
    write_json(tmp_path / "one" / "config.json", {"a": 2})
    with pytest.raises(UserError, match="belongs to another run or another part"):
        load_tensors(path, owner(path))
    save_file(load_file(path), path)
    with pytest.raises(UserError, match="belongs to another run or another part"):
        load_tensors(path, owner(path))


def test_a_state_of_another_run_is_an_error(tmp_path, capsys, gpt2_folder, text_folder, monkeypatch):
    from redundancy import passes as measure

    count = [0]
    add = measure.LayerMoments.add

    def stop_soon(self, *args):
        count[0] += 1
        console._Signals.received = count[0] == 9
        return add(self, *args)

    for name, seed in (("one", "0"), ("two", "1")):
        count[0] = 0
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(measure.LayerMoments, "add", stop_soon)
            probe.main(
                arguments(gpt2_folder, text_folder, tmp_path / name, "--seed", seed, "--batch-size", "8")
            )
        assert stop.value.code == 130
    states = [next((tmp_path / name / "state").iterdir()) for name in ("one", "two")]
    states[1].write_bytes(states[0].read_bytes())
    again = arguments(gpt2_folder, text_folder, tmp_path / "two", "--seed", "1", "--batch-size", "8")
    assert "belongs to another run" in fails(probe.main, capsys, again)
    tensors, _ = load_tensors(states[0], owner(states[0]))
    save_tensors(states[0], tensors, {"train": "100000"}, owner(states[0]))
    again = arguments(gpt2_folder, text_folder, tmp_path / "one", "--batch-size", "8")
    assert "counts {'train': '100000'} windows" in fails(probe.main, capsys, again)


def test_damaged_files_of_a_run_are_named(tmp_path):
    folder = tmp_path / "run"
    table = pd.DataFrame({"a": [1.5, 2.5]})
    Run(folder, {"a": 1}).finish({"layers": table}, {"verdict": "fine"})
    summary, tables = read_finished(folder, ["layers"], "probe")
    assert summary == {"verdict": "fine"}
    pd.testing.assert_frame_equal(tables["layers"], table)
    (folder / "layers.csv").write_text("a\n1.5\n2.6\n")
    with pytest.raises(UserError, match=r"layers.csv is not the table that this run wrote"):
        read_finished(folder, ["layers"], "probe")
    for content in (b"", b"{", b"[1]", b"\xff\xfe{}", b"[" * 100_000):
        (folder / "summary.json").write_bytes(content)
        with pytest.raises(UserError, match=r"summary.json (is not readable JSON|holds a list)"):
            read_finished(folder, ["layers"], "probe")
        (folder / "config.json").write_bytes(content)
        with pytest.raises(UserError, match=r"config.json (is not readable JSON|holds a list)"):
            Run(folder, {"a": 1})
    (folder / "summary.json").write_text("{}")
    for content in (b"", b"a,b\n1\n2,3,4,5\n", b"\xff\xfe\x00"):
        (folder / "layers.csv").write_bytes(content)
        with pytest.raises(UserError, match=r"layers.csv is not a readable table"):
            read_finished(folder, ["layers"], "probe")
    with pytest.raises(UserError, match="not readable JSON"):
        read_json(tmp_path / "nowhere.json")


def test_damage_in_a_pretraining_folder_is_named(tmp_path, capsys, monkeypatch, text_folder):
    out, original, count = tmp_path / "o", trainer.learning_rate, [0]

    def stop_in_step_seven(*args):
        count[0] += 1
        console._Signals.received = count[0] >= 7
        return original(*args)

    again = [str(text_folder), "--out", str(out), *SMALL]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(trainer, "learning_rate", stop_in_step_seven)
        pretrain.main(again)
    capsys.readouterr()
    for name, damage, message in (
        ("tokens.npy", lambda b: b[:-8] + b"\1" * 8, "they were changed (tokens.npy)"),
        ("tokens.npy", lambda b: b"", "they were changed (tokens.npy)"),
        ("model/tokenizer.json", lambda b: b.replace(b"a", b"b", 1), "they were changed (tokenizer.json)"),
        ("trajectory.csv", lambda b: b.replace(b"step", b"stop"), "trajectory.csv has the columns"),
        ("trajectory.csv", lambda b: b"", "trajectory.csv is not a readable table"),
        ("state.safetensors", lambda b: b[:-8] + b"\1" * 8, "not those of its checksum"),
        ("state.safetensors", lambda b: b"half", "is damaged"),
        ("config.json", lambda b: b[:40], "config.json is not readable JSON"),
        ("tokens.json", lambda b: b"[]", "tokens.json holds a list"),
    ):
        path = out / name
        content = path.read_bytes()
        path.write_bytes(damage(content))
        assert message in fails(pretrain.main, capsys, again), name
        path.write_bytes(content)
    tensors, _ = load_tensors(out / "state.safetensors")
    save_tensors(out / "state.safetensors", tensors, {"step": "99"}, owner(out / "state.safetensors"))
    assert "step 99 of 12" in fails(pretrain.main, capsys, again)
    save_tensors(out / "state.safetensors", tensors, {"step": "7"}, owner(out / "state.safetensors"))
    pretrain.main(again)
    assert (out / "summary.json").exists()


def test_pretraining_refuses_impossible_numbers(capsys, text_folder, tmp_path):
    for flag, value in (
        ("--steps", "0"),
        ("--steps", "-1"),
        ("--batch", "0"),
        ("--layers", "0"),
        ("--heads", "0"),
        ("--heads", "3"),
        ("--width", "-8"),
        ("--context", "0"),
        ("--vocabulary", "10"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--learning-rate", "0"),
        ("--validation-tokens", "0"),
        ("--characters", "0"),
        ("--seed", "-1"),
        ("--seed", str(2**70)),
    ):
        text = fails(
            pretrain.main, capsys, [str(text_folder), "--out", str(tmp_path / "o"), *SMALL, flag, value]
        )
        assert flag in text
        assert not (tmp_path / "o").exists()


HOSTILE = "o[red]x[/dim]\x1b[31m[link=http://x]\u202e"


def test_messages_hold_outside_text_literally(capsys):
    choice(HOSTILE, HOSTILE, HOSTILE)
    warn(HOSTILE)
    with progress(HOSTILE, 2) as advance:
        advance(1, HOSTILE)
    with pytest.raises(SystemExit):
        guarded(lambda: (_ for _ in ()).throw(UserError(f"no {HOSTILE}\nhere")))
    with pytest.raises(SystemExit):
        guarded(lambda: (_ for _ in ()).throw(console.Interrupted(HOSTILE)))
    with pytest.raises(SystemExit):
        guarded(lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full", HOSTILE)))
    found = capsys.readouterr()
    for text in (found.out, found.err):
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
        assert "o[red]x[/dim]\\x1b[31m[link=http://x]" in text


def test_commands_print_hostile_paths_literally(capsys, gpt2_folder, text_folder, tmp_path):
    name = "o[red]x[dim]\x1b[31m"
    probe.main(arguments(gpt2_folder, text_folder, tmp_path / name, "--layers", "0"))
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    assert out.strip().splitlines()[-1] == str(tmp_path / "o[red]x[dim]\\x1b[31m")
    text = fails(probe.main, capsys, [f"./{name}"])
    assert "\x1b[31m" not in text
    assert "o[red]x[dim]" in text


def test_what_is_not_defined_is_null(tmp_path):
    Run(tmp_path / "run", {"a": 1}).finish({"t": pd.DataFrame({"x": [1.0]})}, {"value": float("nan")})
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["value"] is None


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_of_tensors_are_as_readable_as_the_others(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "t.safetensors", {"x": torch.zeros(2)}, {})
        write_json(tmp_path / "t.json", {})
        save_file({"x": torch.zeros(2)}, tmp_path / "library.safetensors")
        readable(tmp_path)
    finally:
        os.umask(before)
    modes = [
        (tmp_path / name).stat().st_mode & 0o777
        for name in ("t.safetensors", "t.json", "library.safetensors")
    ]
    assert modes == [0o666 & ~mask] * 3

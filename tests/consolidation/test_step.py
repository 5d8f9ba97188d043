"""The step as it runs on GPUs, on a CPU: the same numbers, and no question from the host to the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from consolidation.cram import Model, Routing
from consolidation.episodic import EpisodicMemory
from consolidation.rivals import build
from consolidation.srcd import generate, generator
from consolidation.step import Step
from consolidation.train.presets import preset
from consolidation.train.trainer import Trainer
from labbook.console import UserError
from labbook.run import load_tensors

CPU = torch.device("cpu")
TINY = preset("tiny")
QUICK = replace(TINY, steps=12, evaluations=2, evaluation=8, batch=4, pressure_start=4, pressure_ramp=4)
# operations whose result, or whose shape, the host has to wait for
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


class Questions(TorchDispatchMode):
    """Notes every operation that a GPU would make the host wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func is torch.ops.aten.index.Tensor and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        if func in WAITING or by_mask:
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


def made(name: str = "cram", layers: int = 1, chunk: int = 512) -> Model:
    torch.manual_seed(0)
    return build(name, TINY.benchmark, replace(TINY.cram, layers=layers, chunk=chunk)).train()


def results(
    model: Model,
    step: Step,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Terms, gradients and the running scale after one step from the same start."""
    start = {name: t.clone() for name, t in model.state_dict().items()}
    batch = generate(TINY.benchmark, 0, 0, 4)
    routing = Routing.draw(len(model.layers), batch, generator(CPU, "noise"), 0.9)
    _, terms = step(batch, routing, TINY.objective)
    terms["total"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    scale = model.layers[0].scale.clone() if hasattr(model.layers[0], "scale") else torch.zeros(())
    model.zero_grad()
    model.load_state_dict(start)
    return torch.stack([*terms.values()]).detach(), gradients, scale


def same(one, other, **tolerance):
    torch.testing.assert_close(one[0], other[0], **tolerance)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], msg=name, **tolerance)
    torch.testing.assert_close(one[2], other[2], **tolerance)


@pytest.mark.parametrize("chunk", [512, 24])
def test_masking_in_training_is_skipping(chunk):
    """Attention everywhere, masked: numbers and gradients of attention where it is read."""
    model = made(chunk=chunk, layers=2)
    step = Step(None, model, nullcontext, CPU, "auto", 1)
    assert not step.dense and step.compiled is None
    skipped = results(model, step)
    step.dense = True
    same(skipped, results(model, step), rtol=1e-4, atol=1e-6)


# torch's own code looks at gradients of tensors inside the graph
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_the_compiled_step_is_the_plain_one(monkeypatch):
    """Captured without a break, backward pass included: all of the compiler but code generation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    model = made(layers=2)
    plain = Step(None, model, nullcontext, CPU, "no", 1)
    plain.dense = True
    compiled = Step(None, model, nullcontext, CPU, "yes", 1)
    assert compiled.compiled is not None
    torch._dynamo.utils.counters.clear()
    same(results(model, plain), results(model, compiled), rtol=1e-5, atol=1e-7)
    # both layers, and every later temperature and penalty, share one compiled form
    batch = generate(TINY.benchmark, 0, 1, 4)
    routing = Routing.draw(2, batch, generator(CPU, "noise"), 0.5)
    compiled(batch, routing, replace(TINY.objective, attention_penalty=0.3))
    # and so does the next seed
    other = made(layers=2)
    Step(None, other, nullcontext, CPU, "yes", 1)(batch, routing, TINY.objective)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    # in bf16 too nothing breaks the graph
    compiled.autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    _, terms = compiled(batch, routing, TINY.objective)
    terms["total"].backward()
    assert bool(terms["total"].isfinite())


def test_what_cannot_be_compiled_stays_plain_and_says_so(capsys):
    model = made()
    step = Step(None, model, nullcontext, CPU, "auto", 1)

    def broken(*_: object) -> None:
        raise RuntimeError("no compiler was found\nat length")

    expected = results(model, step)
    step.compiled = broken
    same(expected, results(model, step), rtol=0, atol=0)
    assert "cannot be compiled here (no compiler was found)" in capsys.readouterr().err
    assert step.compiled is None


@pytest.mark.parametrize("name", ["cram", "control", "seqboat"])
def test_no_step_asks_the_device(name, tmp_path):
    trainer = Trainer(replace(QUICK, model=name), 0, tmp_path)
    trainer.forward.dense, trainer.read_every = True, 50
    trainer._step(0)
    with Questions() as questions:
        trainer._step(1)
    assert questions.asked == []
    # the counter counts: attention where it is read has to know how many positions read
    trainer.forward.dense = name not in ("cram", "control")
    with Questions() as questions:
        trainer._step(2)
    assert bool(questions.asked) == (name != "seqboat")


def test_losses_that_are_read_late_are_the_same(tmp_path):
    folders = [tmp_path / "each", tmp_path / "late"]
    for folder, every in zip(folders, (1, 5), strict=True):
        trainer = Trainer(QUICK, 0, folder)
        trainer.read_every = every
        trainer.train()
        assert trainer.unread == []
    one, other = (load_tensors(folder / "model.safetensors")[0] for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)
    tables = [(folder / "patterns.parquet").read_bytes() for folder in folders]
    assert tables[0] == tables[1]


def test_a_late_loss_that_is_not_finite_names_its_step(tmp_path):
    trainer = Trainer(QUICK, 0, tmp_path)
    trainer.read_every = 3
    for step in range(4):
        trainer._step(step)
    trainer.unread.append(torch.full_like(trainer.unread[0], torch.nan))
    with pytest.raises(UserError, match="not finite at step 5, term dynamics; no state was saved yet"):
        trainer._read_losses(5)


def test_bf16_is_near_float32_and_keeps_its_statistics_in_float32():
    model = made()
    step = Step(None, model, partial(torch.autocast, "cpu", torch.bfloat16), CPU, "no", 1)
    half, gradients, scale = results(model, step)
    step.autocast = nullcontext
    full, _, expected = results(model, step)
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.02)
    assert all(bool(g.isfinite().all()) for g in gradients.values())
    assert scale.dtype == torch.float32
    x = torch.randn(2, 600, 32)
    with torch.autocast("cpu", torch.bfloat16):
        novelty = EpisodicMemory.novelty(x)
    assert torch.equal(novelty, EpisodicMemory.novelty(x))
    torch.testing.assert_close(scale, expected, rtol=1e-3, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_asks_the_gpu(tmp_path):
    trainer = Trainer(QUICK, 0, tmp_path)
    for step in range(3):
        trainer._step(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._step(3)
    finally:
        torch.cuda.set_sync_debug_mode("default")

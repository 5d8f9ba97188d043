"""What the parts of a decoder block do, found by running them and not by their names.

    block l:
    resid_pre --> [norm] --> attention --> z W_O + b_O --> [norm] --> x scale --(+)--> MLP --> resid_post
                             ^ mixes positions             ^ OLMo-2   ^ Granite  |
                               with a softmax                Gemma 2             what reaches the stream

A sublayer mixes positions when a change at one position changes its output at later ones; it is attention
when a softmax (or torch's own attention, which contains one) runs in it. What reaches the residual stream is
resid_post - resid_pre of a copy of the block whose other weight matrices are zero, so that the MLP adds
nothing.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What attention computes its weights with; state-space and linear-attention sublayers use none of them.
SOFTMAXES = (
    torch.softmax,
    Tensor.softmax,
    torch.nn.functional.softmax,
    torch.nn.functional.scaled_dot_product_attention,
)
# Relative; rounding alone stays far below it, although norms of many models compute in float32 whatever
# enters them.
TOLERANCE = 1e-4


class NotLocated(Exception):
    """A part of a block could not be told for certain. The text says why."""


@dataclass(frozen=True)
class Call:
    """How a module was called in a forward pass, and the states that entered and left it.

    Attributes
    ----------
    module : the module.
    args, kwargs : its arguments.
    entered, left : its first (batch, position, width) argument and result; None where there is none.
    output : all that it returned.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    entered: Tensor | None = None
    left: Tensor | None = None
    output: Any = None

    def again(self, states: Tensor) -> Tensor | None:
        """The states that leave the module when `states` enter it in place of those of the call.

        Whatever else entered it row by row (a residual, an embedding) is that of row 0 in every row.
        """

        def swap(value: Any) -> Any:
            if value is self.entered:
                return states
            if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == states.shape[0]:
                return value[:1].expand_as(value)
            return value

        return _states(
            self.module(*map(swap, self.args), **{name: swap(value) for name, value in self.kwargs.items()})
        )


def _states(value: Any) -> Tensor | None:
    """The first floating (batch, position, width) tensor in `value`."""
    parts = value if isinstance(value, tuple | list) else (value,)
    return next((p for p in parts if isinstance(p, Tensor) and p.dim() == 3 and p.is_floating_point()), None)


def record(modules: Sequence[nn.Module], forward: Callable[[], object]) -> list[Call]:
    """The calls of `modules` while `forward` runs, in the order in which they return. Of a module that ran
    twice, both.
    """
    calls: list[Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entered = _states((*args, *kwargs.values()))
        # a copy: some blocks (Falcon) go on adding to it in place
        own = output.clone() if isinstance(output, Tensor) else output
        calls.append(Call(module, args, kwargs, entered, _states(output), own))

    hooks = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class _Softmaxes(TorchFunctionMode):
    """Notes in which of `modules` a softmax is computed."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        self.modules, self.inside, self.found = modules, list[nn.Module](), list[nn.Module]()

    def __enter__(self) -> "_Softmaxes":
        self.hooks = [
            hook
            for module in self.modules
            for hook in (
                module.register_forward_pre_hook(lambda module, args: self.inside.append(module)),
                module.register_forward_hook(lambda module, args, output: self._leave()),
            )
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def _leave(self) -> None:
        self.inside.pop()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in SOFTMAXES:
            self.found += [
                module for module in self.inside if not any(module is other for other in self.found)
            ]
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Mixing:
    """Which direct children of a block mix positions, and which of those are attention, by name."""

    all: tuple[str, ...]
    attention: tuple[str, ...]


def find_mixing(blocks: Sequence[nn.Module], forward: Callable[[], object], epsilon: float) -> list[Mixing]:
    """For every block, the children whose output at later positions depends on earlier ones.

    `forward` runs the model on at least 3 rows of 16 positions; `epsilon` is the precision of its arithmetic.
    """
    children = {id(m): (n, name) for n, block in enumerate(blocks) for name, m in block.named_children()}
    modules = [m for block in blocks for m in block.children()]
    with _Softmaxes(modules) as softmaxes:
        calls = record(modules, forward)
    mixes: list[list[str]] = [[] for _ in blocks]
    for call in calls:
        number, name = children[id(call.module)]
        if name not in mixes[number] and _mixes(call, epsilon):
            mixes[number].append(name)
    with_softmax = {children[id(m)] for m in softmaxes.found}
    return [
        Mixing(tuple(m), tuple(name for name in m if (n, name) in with_softmax)) for n, m in enumerate(mixes)
    ]


def _mixes(call: Call, epsilon: float) -> bool:
    """Whether a change at positions 4 to 7 of what entered changes what leaves from position 8 on."""
    if call.entered is None or call.left is None or call.entered.shape[:2] != call.left.shape[:2]:
        return False
    if call.entered.shape[0] < 3 or call.entered.shape[1] < 9:
        return False
    # row 1 differs from row 0; row 2 repeats row 0 and shows the noise of the arithmetic
    states = call.entered[:1].expand_as(call.entered).clone()
    states[1, 4:8] = -states[1, 4:8].roll(1, -1)
    left = call.again(states)
    assert left is not None
    difference, noise = differences(left, epsilon)
    return bool(difference[8:].max() > noise)


def differences(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """By how much rows 0 and 1 of x (3, position, width) differ at each position (position,), and the noise
    of the arithmetic.

    Both relative to the largest value; rows 0 and 2 have the same input.
    """
    scale = x.abs().max().float().clamp_min(1e-30)
    difference, noise = ((x[0] - x[row]).abs().amax(-1).float() / scale for row in (1, 2))
    return difference, 8 * noise.max() + 4 * epsilon


@dataclass(frozen=True)
class ToStream:
    """How the attention output of one block becomes what is added to the residual stream: scale *
    norms(attn_out).

    Attributes
    ----------
    path : within the block, the module whose output times `scale` is added: the output projection, or a norm
        behind it.
    norms : copies in float64 of the norms in between, in order; empty in most models.
    scale : 1 in most models; Granite's residual multiplier.
    error : by how much resid_post - resid_pre of the block without its MLP differs from this (relative).
    """

    path: str
    norms: tuple[nn.Module, ...]
    scale: float
    error: float

    @property
    def plain(self) -> bool:
        """Whether attn_out itself is added."""
        return not self.norms and self.scale == 1

    @torch.no_grad()
    def __call__(self, attn_out: Tensor) -> Tensor:
        """What is added to the residual stream for attn_out (..., d_model), in the same shape and dtype."""
        if self.plain:
            return attn_out
        added = attn_out.double()
        for norm in self.norms:
            added = norm(added)
        return (self.scale * added).to(attn_out)


@torch.no_grad()
def find_stream(block: nn.Module, call: Call, attention: str, projection: str) -> ToStream:
    """How attn_out = z W_O + b_O, the output of `projection` in the child `attention`, reaches the residual
    stream.

    A copy of the block runs in float64 on the states of `call`, with every weight matrix outside of
    `attention` set to zero. Its norms are followed from attn_out on; the scale is fitted, and resid_post -
    resid_pre = scale * norms(attn_out) has to hold.

    Raises NotLocated when it does not: something else is added too, or attention is not added at all.
    """
    twin = copy_of(block, lambda path: path.split(".")[0] != attention, torch.float64)
    try:
        kept = run_twin(twin, projection, attention, call, torch.float64)
    except RuntimeError:  # some blocks have kernels or constants for float32 only
        twin = twin.float()
        kept = run_twin(twin, projection, attention, call, torch.float32)
    paths = {id(m): path for path, m in twin.named_modules()}
    whole = next(c for c in kept if c.module is twin)
    attn_out = next(c for c in kept if paths[id(c.module)] == projection).left
    if whole.entered is None or whole.left is None or attn_out is None or attn_out.shape != whole.left.shape:
        raise NotLocated("block and attention do not return states of one shape")
    added = whole.left.double() - whole.entered.double()

    path, norms, current = projection, list[nn.Module](), attn_out
    for step in kept:
        if (
            step.module is twin
            or step.entered is None
            or step.left is None
            or step.left.shape != current.shape
        ):
            continue
        # dropout is the identity here
        if torch.equal(step.entered, current) and not torch.equal(step.left, current):
            norms.append(step.module)
            path, current = paths[id(step.module)], step.left
    current = current.double()
    if not bool(torch.isfinite(added).all()) or not bool(added.any()):
        raise NotLocated(
            "nothing finite is added to the residual stream without the MLP, so it does not come from "
            "attention"
        )
    scale = float((added * current).sum() / current.square().sum().clamp_min(1e-300))
    error = float((added - scale * current).norm() / added.norm())
    if not error < TOLERANCE:
        raise NotLocated(
            f"resid_post - resid_pre without the MLP differs by {error:.1e} (relative) from what attention "
            "gives"
        )
    # a scale of 1 up to rounding is 1: plain models keep their numbers to the last bit
    scale = 1.0 if abs(scale - 1) < TOLERANCE else scale
    return ToStream(path, tuple(norm.double() for norm in norms), scale, error)


def run_twin(twin: nn.Module, projection: str, attention: str, call: Call, dtype: torch.dtype) -> list[Call]:
    """The calls of the block, of the projection and of everything outside of attention, on the states of
    `call` in `dtype`.
    """
    outside = [m for path, m in twin.named_modules() if path and path.split(".")[0] != attention]
    modules = [twin, twin.get_submodule(projection), *outside]
    return record(modules, lambda: twin(*in_dtype(call.args, dtype), **in_dtype(call.kwargs, dtype)))


def copy_of(module: nn.Module, zero: Callable[[str], bool], dtype: torch.dtype) -> nn.Module:
    """A copy in `dtype` without hooks; modules that hold a matrix are all zero where `zero(path)`. Offloaded
    weights are brought in.
    """
    memo: dict[int, Any] = {}
    for path, part in module.named_modules():
        with align_module_device(part):
            own = {name: p.detach() for name, p in part.named_parameters(recurse=False)}
            empty = zero(path) and any(p.dim() > 1 for p in own.values())
            # a zero of the right shape takes no memory
            values = {
                name: torch.zeros((), dtype=dtype, device=p.device).expand(p.shape) if empty else p.to(dtype)
                for name, p in own.items()
            }
        for name, value in values.items():
            memo[id(part._parameters[name])] = nn.Parameter(value, requires_grad=False)
        if hasattr(part, "_hf_hook"):
            memo[id(part._hf_hook)] = part._hf_hook  # it holds all offloaded weights of the model
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        if hasattr(part, "_hf_hook"):  # accelerate's hooks sit in `forward`
            for name in ("_hf_hook", "_old_forward", "forward"):
                part.__dict__.pop(name, None)
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            getattr(part, hooks).clear()
            getattr(part, f"{hooks}_with_kwargs").clear()
    return twin.to(dtype).eval()


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """`value` with all floating tensors in it, in tuples, lists and dictionaries too, in `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(in_dtype(v, dtype) for v in value)
    return {k: in_dtype(v, dtype) for k, v in value.items()} if isinstance(value, dict) else value

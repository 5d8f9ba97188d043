"""The differentiable part of a training step, as fast as the device allows: forward pass and objective, plain
or compiled.

On CPUs the step is bound by arithmetic, so it stays plain and attention is computed only where it is read.
On GPUs a small model is bound by the number of kernels and by every question that the host asks the device:
there attention is computed everywhere and masked (the same numbers and gradients), which fixes all shapes,
and forward and backward pass are compiled: of a small batch as a whole, replayed as CUDA graphs; of a large
one layer by layer, because layers of one shape share their code and a deep model is compiled in no more time.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from consolidation.config import Objective
from consolidation.cram import Model, Outputs, Routing, objective
from consolidation.srcd import Batch
from labbook.console import choice, warn

# a forward pass over fewer numbers than this takes less time than launching its kernels one by one
GRAPHS_BELOW = 2**20


class Step:
    """Forward pass and objective of one batch.

    Parameters
    ----------
    synchronised : of several processes, the model as it synchronises gradients; None for one process.
    bare : the model itself.
    autocast : opens the context of the forward pass.
    device : that of the model.
    compilation : auto compiles on GPUs; what cannot be compiled there stays plain, with a warning.
    numbers : batch x position x width; where they are few, CUDA graphs pay.
    """

    def __init__(
        self,
        synchronised: torch.nn.Module | None,
        bare: Model,
        autocast: Callable[[], AbstractContextManager[None]],
        device: torch.device,
        compilation: Literal["auto", "no", "yes"],
        numbers: int,
    ):
        # where the shapes depend on the routes, the host has to ask how many positions read
        self.dense = device.type != "cpu"
        self.autocast, self.compilation, self.device = autocast, compilation, device
        # not bare.forward, around which accelerate has put what a compiler need not see
        self.model = MethodType(Model.forward, bare) if synchronised is None else synchronised
        self.graphs = device.type == "cuda" and numbers <= GRAPHS_BELOW
        self.compiled: Callable[..., tuple[Outputs, dict[str, torch.Tensor]]] | None = None
        wanted = compilation == "yes" or (compilation == "auto" and device.type == "cuda")
        self.bare = bare
        if wanted and synchronised is None:
            self.dense, self.compiled = True, self._compiled()
            choice("step", "compiled", "as a whole, CUDA graphs" if self.graphs else "layer by layer")

    def __call__(
        self, batch: Batch, routing: Routing, weights: Objective
    ) -> tuple[Outputs, dict[str, torch.Tensor]]:
        """Outputs, and the terms of eq 8 with their `total`."""
        if self.compiled is None:
            return self._plain(batch, routing, weights)
        # as tensors, filled on the device: the numbers of a schedule would be constants of the compiled code
        scalars: Any = [torch.full((), value, device=self.device) for value in astuple(weights)]
        weights = Objective(*scalars)
        temperature = torch.full((), float(routing.temperature), device=self.device)
        routing = Routing(routing.gumbel, routing.explore, temperature)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            try:
                return self.compiled(batch, routing, weights)
            except FailOnRecompileLimitHit:
                # too many kinds of model were trained by this process; what they left is forgotten
                torch.compiler.reset()
                self.compiled = self._compiled()
                return self.compiled(batch, routing, weights)
        except (RuntimeError, TorchDynamoException) as error:
            if self.compilation == "yes" or isinstance(error, torch.OutOfMemoryError):
                raise
            warn(f"the step cannot be compiled here ({str(error).partition(chr(10))[0]}); it stays plain.")
            self.compiled = None
            return self._plain(batch, routing, weights)

    def _compiled(self) -> Callable[..., tuple[Outputs, dict[str, torch.Tensor]]]:
        """Seeds of one model share their compiled code."""
        if self.graphs:
            return torch.compile(self._plain, mode="reduce-overhead", dynamic=False, fullgraph=True)
        layers = [torch.compile(layer, dynamic=False, fullgraph=True) for layer in self.bare.layers]
        return partial(self._plain, layers=layers)

    def _plain(
        self,
        batch: Batch,
        routing: Routing,
        weights: Objective,
        layers: Sequence[Callable[..., Any]] | None = None,
    ) -> tuple[Outputs, dict[str, torch.Tensor]]:
        with self.autocast():
            outputs = self.model(batch, routing, dense=self.dense, layers=layers)
        return outputs, objective(outputs, batch, weights)

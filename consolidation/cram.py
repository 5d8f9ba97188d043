"""CRAM, the reference model: section 4 of arXiv:2602.12204 with every gap filled by a stated choice.

    x_t --> router --pi--> working memory  f_CT   (eq 2, always there)
      |                    episodic memory r_E    (eq 3, the only place where positions see each other)
      |                    semantic memory f_sem  (eq 4, a small map that has to remember in its weights)
      '--> y = norm(f_CT + pi_E r_E + pi_S f_sem) --> norm(y + FFN(y))

The shapes are (batch, position, width) unless said otherwise. A layer gives its output and a `Trace`, from
which the objective (eq 8) and every measured quantity follow. The per-token reading of the same equations is
`consolidation/naive.py`, which is this file's test.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    gelu,
    mse_loss,
    relu,
)

from consolidation.config import CRAMConfig, Keys, Objective, SRCDConfig
from consolidation.episodic import EpisodicMemory
from consolidation.srcd import IGNORED, Batch

CT, EPISODIC, SEMANTIC = 0, 1, 2
Part = Literal["attention", "semantic", "working", "feed_forward"]
SCALE_MEMORY = 0.99
# of eq 8, as `objective` names them
TERMS = ("dynamics", "retrieval", "attention", "semantic", "consolidation", "prediction", "total")


@dataclass(frozen=True)
class Routing:
    """How the routes of a training step differ from the most probable ones.

    Attributes
    ----------
    gumbel : ((layer,) batch, position, 3) Gumbel noise on the logits of the three paths.
    explore : ((layer,) batch, position) uniform numbers; r_E is computed as well where they are below
        `exploration`.
    temperature : of the Gumbel-softmax; a tensor () where a compiled step must not depend on its value.
    """

    gumbel: torch.Tensor
    explore: torch.Tensor
    temperature: float | torch.Tensor = 1.0

    @classmethod
    def draw(
        cls, layers: int, batch: Batch, generator: torch.Generator, temperature: float = 1.0
    ) -> "Routing":
        """Fresh noise for every layer and position of a batch."""
        uniform = torch.rand((layers, *batch.key.shape, 4), generator=generator, device=generator.device)
        gumbel = -(-uniform[..., :3].clamp(min=1e-20).log()).clamp(min=1e-20).log()
        return cls(gumbel, uniform[..., 3], temperature)

    def rows(self, first: int, last: int) -> "Routing":
        """That of some sequences of the batch, for all layers."""
        return replace(self, gumbel=self.gumbel[:, first:last], explore=self.explore[:, first:last])

    def layer(self, number: int) -> "Routing":
        """That of one layer."""
        return replace(self, gumbel=self.gumbel[number], explore=self.explore[number])

    def soft(self, logits: torch.Tensor) -> torch.Tensor:
        """The Gumbel-softmax of (batch, position, paths): the first `paths` columns of the noise are used."""
        return ((logits + self.gumbel[..., : logits.shape[-1]]) / self.temperature).softmax(-1)


@dataclass
class Trace:
    """What one layer did.

    Attributes
    ----------
    route : (batch, position, 3) weights of the paths, the pi of eq 7 and 8: noisy in training, one-hot when
        routing is hard, with the Gumbel-softmax's gradient.
    probability : (batch, position, 3) softmax of the router's logits, without noise: the pi of eq 14.
    path : (batch, position) CT, EPISODIC or SEMANTIC, as routed.
    read : (batch, position) whether attention was computed.
    quality : (batch, position) q_t of eq 6; NaN where r_E was not computed.
    predicted : (batch, position) the router's q_t.
    novelty : (batch, position) c_t of the episodic memory; NaN for models without one.
    pairs : query-key pairs of the computed attention, over the batch.
    consolidation : eq 5; the mean over positions on the episodic path, and per dimension, so that its weight
        does not depend on d.
    prediction_loss : cross-entropy of the predicted q_t, 0 in the modes `oracle` and `learned`.
    """

    route: torch.Tensor
    probability: torch.Tensor
    path: torch.Tensor
    read: torch.Tensor
    quality: torch.Tensor
    predicted: torch.Tensor
    novelty: torch.Tensor
    pairs: torch.Tensor
    consolidation: torch.Tensor
    prediction_loss: torch.Tensor


class WorkingMemory(nn.Module):
    """Eq 2: K Euler steps h += dt sigmoid(W_tau log(1 + gap)) * tanh(W_1 h + W_2 x), and f_CT = W_o h + x."""

    def __init__(self, config: CRAMConfig):
        super().__init__()
        d = config.width
        self.steps, self.from_input = config.working_steps, config.initial == "input"
        self.step_size = 1 / config.working_steps if config.step_size is None else config.step_size
        self.rate = nn.Linear(1, d)
        self.recur = nn.Linear(d, d, bias=False)
        self.drive = nn.Linear(d, d)
        self.out = nn.Linear(d, d)

    def forward(self, x: torch.Tensor, gap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f_CT (eq 2), and the dynamics' magnitude ||h^(K) - h^(0)|| / sqrt(d): (batch, position)."""
        start = h = x if self.from_input else torch.zeros_like(x)
        rate = self.step_size * self.rate(gap.log1p()[..., None]).sigmoid()
        drive = self.drive(x)
        for _ in range(self.steps):
            h = h + rate * (self.recur(h) + drive).tanh()
        return self.out(h) + x, (h - start).square().mean(-1).sqrt()


class SemanticMemory(nn.Module):
    """Eq 4: W_up relu(W_down x), of rank r."""

    def __init__(self, config: CRAMConfig):
        super().__init__()
        self.down = nn.Linear(config.width, config.rank)
        self.up = nn.Linear(config.rank, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """f_sem(x)."""
        return self.up(relu(self.down(x)))


class Router(nn.Module):
    """Eq 7: logits g(z_t) over (CT only, episodic, semantic).

    z_t = (log(1 + gap), magnitude of the CT dynamics, q_t, prediction uncertainty). The paper does not define
    the uncertainty; here it is a learned linear read-out of f_CT, the local prediction: read from x_t itself
    it could not tell 100 patterns from 100 novel keys with random codes, which are not linearly separable. g
    is not given either: two layers with 16 hidden units.
    """

    def __init__(self, config: CRAMConfig):
        super().__init__()
        self.sees_quality = config.quality_in_router
        self.uncertainty = nn.Linear(config.width, 1)
        self.first = nn.Linear(4, 16)
        self.second = nn.Linear(16, 3 if config.semantic else 2)

    def forward(
        self, working: torch.Tensor, gap: torch.Tensor, magnitude: torch.Tensor, quality: torch.Tensor
    ) -> torch.Tensor:
        """(batch, position, paths)."""
        quality = quality if self.sees_quality else torch.zeros_like(quality)
        z = torch.stack([gap.log1p(), magnitude, quality, self.uncertainty(working)[..., 0]], -1)
        return self.second(gelu(self.first(z)))


class CRAMLayer(nn.Module):
    """Router, three memories, add & norm, feed-forward, add & norm (figure 1 of the paper: normalised after
    the sums).
    """

    def __init__(self, config: CRAMConfig):
        super().__init__()
        self.config = config
        self.working, self.episodic = (
            WorkingMemory(config),
            EpisodicMemory(config.width, config.heads, config.buffer, config.chunk),
        )
        self.semantic = SemanticMemory(config) if config.semantic else None
        self.router = Router(config)
        predicts = config.quality != "oracle"
        self.predict = (
            nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, 1))
            if predicts
            else None
        )
        self.mixed_norm, self.norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)
        self.register_buffer("scale", torch.ones(()))
        self.scale: torch.Tensor

    def forward(
        self,
        x: torch.Tensor,
        gap: torch.Tensor,
        routing: Routing | None,
        without: frozenset[Part],
        *,
        dense: bool = False,
    ) -> tuple[torch.Tensor, Trace]:
        """The layer's output and trace; arguments as in `Model.forward`, `routing` of this layer."""
        f_ct, magnitude = self.working(x, gap)
        f_sem = torch.zeros_like(x) if self.semantic is None else self.semantic(x)
        if self.predict is None:
            r_e, pairs = self.episodic(x)
            guess, q = None, self._quality(f_sem, r_e).detach()
        else:
            guess = self.predict(x.detach())[..., 0]
            q = guess.sigmoid()
            if self.config.quality == "predicted":
                q = q.detach()
            else:  # the router's own gradient trains it
                guess = None
        probability, pi = self._route(self.router(f_ct, gap, magnitude, q), routing)
        path = pi.argmax(-1)
        read = self._read(path, routing)
        if self.predict is not None:
            r_e, pairs = self.episodic(x) if dense else self.episodic(x, read)
            if dense and routing is not None:
                # in training what was not read has no gradient either
                r_e = r_e * read[..., None]

        mixed = x if "working" in without else f_ct
        if "attention" not in without:
            mixed = mixed + self._weight(pi[..., EPISODIC], path, routing)[..., None] * r_e
        if self.semantic is not None and "semantic" not in without:
            mixed = mixed + pi[..., SEMANTIC, None] * f_sem
        y = self.mixed_norm(mixed)
        out = self.norm(y if "feed_forward" in without else y + self.down(gelu(self.up(y))))

        if self.training:
            self._follow(r_e, read)
        quality = self._quality(f_sem, r_e).detach()
        zero = out.new_zeros(())
        error = (f_sem - r_e.detach()).square().mean(-1)
        return out, Trace(
            route=pi,
            probability=probability.detach(),
            path=path,
            read=read,
            quality=quality if dense else quality.masked_fill(~read, torch.nan),
            predicted=q.detach(),
            novelty=self.episodic.novelty(x),
            pairs=pairs,
            consolidation=zero if self.semantic is None else _mean_over(path == EPISODIC, error),
            prediction_loss=zero
            if guess is None
            else _mean_over(read, binary_cross_entropy_with_logits(guess, quality, reduction="none")),
        )

    def _read(self, path: torch.Tensor, routing: Routing | None) -> torch.Tensor:
        """Where r_E is computed: on its path and at explored positions, or everywhere for a q_t that needs it
        and for a mixture of the paths.
        """
        if self.predict is None or self.config.routing == "soft":
            return torch.ones_like(path, dtype=torch.bool)
        read = path == EPISODIC
        return read if routing is None else read | (routing.explore < self.config.exploration)

    def _weight(self, pi_e: torch.Tensor, path: torch.Tensor, routing: Routing | None) -> torch.Tensor:
        """pi_E of the sum. Where r_E was explored it is 0 in the forward pass, and its gradient stands for
        the positions that were not.
        """
        if routing is None or self.predict is None or self.config.routing == "soft":
            return pi_e
        # 1 / exploration as large in the backward pass, and 0 where nothing was read
        return torch.where(path == EPISODIC, pi_e, pi_e / self.config.exploration)

    def _quality(self, semantic: torch.Tensor, recalled: torch.Tensor) -> torch.Tensor:
        """Eq 6: exp(-||f_sem - r_E||^2 / sigma^2)."""
        sigma = self.config.sigma
        square = self.scale if sigma is None else self.scale.new_full((), sigma**2)
        return (-(semantic - recalled).square().sum(-1) / square).exp()

    @torch.no_grad()
    def _follow(self, recalled: torch.Tensor, read: torch.Tensor) -> None:
        """Move sigma^2 towards this batch's mean of ||r_E||^2 over the positions that read."""
        square = _mean_over(read, recalled.to(self.scale.dtype).square().sum(-1))
        self.scale.lerp_(square.clamp(min=1e-6), (1 - SCALE_MEMORY) * read.any())

    def _route(self, logits: torch.Tensor, routing: Routing | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq 7: probabilities without noise, and the weights of the paths, one-hot with straight-through
        gradients or soft: (batch, position, 3).
        """
        if logits.shape[-1] == 2:  # without the semantic path its probability is exactly 0
            logits = torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], -1)
        probability = logits.softmax(-1)
        soft = probability if routing is None else routing.soft(logits)
        if self.config.routing == "soft":
            return probability, soft
        return probability, hardest(soft) + soft - soft.detach()


def hardest(soft: torch.Tensor) -> torch.Tensor:
    """1 at the largest of the last axis, 0 elsewhere, in the type of `soft`.

    `one_hot` would look at the values on CPUs and wait for them.
    """
    paths = torch.arange(soft.shape[-1], device=soft.device)
    return (soft.argmax(-1, keepdim=True) == paths).to(soft.dtype)


def _mean_over(chosen: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of the chosen values, 0 when none is chosen; of bf16 in float32, which counts further than 256."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    weight = chosen.to(values.dtype)
    return (weight * values).sum() / weight.sum().clamp(min=1)


class Inputs(nn.Module):
    """What every model sees: embeddings of key, value and role, and a linear map of the last value and log(1
    + gap), added and normalised.
    """

    def __init__(self, benchmark: SRCDConfig, width: int, keys: Keys):
        super().__init__()
        self.key = nn.Embedding(benchmark.keys + 1, width)
        self.key.weight.requires_grad_(keys == "learned")
        self.value = nn.Embedding(benchmark.values + 1, width)
        self.role = nn.Embedding(3, width)
        self.observed = nn.Linear(2, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(batch, position, width)."""
        observed = torch.stack([batch.previous, batch.gap.log1p()], -1).to(self.observed.weight.dtype)
        return self.norm(
            self.key(batch.key) + self.value(batch.value) + self.role(batch.role) + self.observed(observed)
        )


class Model(nn.Module):
    """Inputs, layers, and two heads: the value asked for, and the present value of the process."""

    def __init__(self, benchmark: SRCDConfig, config: CRAMConfig, layers: list[nn.Module]):
        super().__init__()
        width = config.width
        self.inputs = Inputs(benchmark, width, config.keys)
        self.layers = nn.ModuleList(layers)
        self.retrieve = nn.Linear(width, benchmark.values)
        self.predict = nn.Linear(width, 1)

    def forward(
        self,
        batch: Batch,
        routing: Routing | None = None,
        without: frozenset[Part] = frozenset(),
        *,
        dense: bool = False,
        layers: Sequence[Callable[..., Any]] | None = None,
    ) -> "Outputs":
        """Predict values and dynamics.

        Parameters
        ----------
        routing : of a training step; None routes to the most probable path.
        without : parts that are knocked out, in every layer.
        dense : compute attention everywhere and mask it afterwards: the same result and gradient, with more
            operations, and without asking the device how many positions read.
        layers : what is called in the place of the layers: their compiled forms.
        """
        x, traces = self.inputs(batch), []
        gap = batch.gap.to(x.dtype)
        called: Iterable[Callable[..., Any]] = self.layers if layers is None else layers
        for number, layer in enumerate(called):
            own = None if routing is None else routing.layer(number)
            x, trace = layer(x, gap, own, without, dense=dense)
            traces.append(trace)
        return Outputs(self.retrieve(x), self.predict(x)[..., 0], traces)


@dataclass(frozen=True)
class Outputs:
    """Logits (batch, position, values), predicted dynamics (batch, position), and a trace per layer."""

    logits: torch.Tensor
    dynamics: torch.Tensor
    traces: list[Trace]


def objective(outputs: Outputs, batch: Batch, weights: Objective) -> dict[str, torch.Tensor]:
    """Eq 8, term by term, and their `total`.

    L_task is the mean squared error of the dynamics plus the mean cross-entropy of the answers (the paper
    does not compose it). The two sums of eq 8 are divided by the number of queries too (and by the layers):
    lambda_E then is the price of one read in nats of one answer, whatever batch and length. Divided by all
    positions instead, the published .1 moves no router; undivided, it outweighs every answer. q is not
    differentiated: else the reward could be had by making r_E imitate f_sem.
    """
    logits = outputs.logits.float().flatten(0, 1)
    terms = {
        "dynamics": mse_loss(outputs.dynamics.float(), batch.dynamics),
        "retrieval": cross_entropy(logits, batch.target.flatten(), ignore_index=IGNORED),
    }
    traces = outputs.traces
    route = torch.stack([t.route for t in traces])
    route = route.to(torch.promote_types(route.dtype, torch.float32))
    quality = torch.stack([t.predicted for t in traces])
    per_query = 1 / (len(traces) * batch.position.numel())
    terms["attention"] = weights.attention_penalty * route[..., EPISODIC].sum() * per_query
    terms["semantic"] = -weights.semantic_reward * (route[..., SEMANTIC] * quality).sum() * per_query
    terms["consolidation"] = weights.consolidation * torch.stack([t.consolidation for t in traces]).mean()
    # not in the paper: the head that predicts q_t; it sees x_t without a gradient, so this term changes
    # nothing else
    terms["prediction"] = torch.stack([t.prediction_loss for t in traces]).mean()
    terms["total"] = torch.stack([t.float() for t in terms.values()]).sum()
    return terms

"""Eq 2-7 read one token at a time, in plain loops: the slow, obvious implementation that
`consolidation/cram.py` is tested against.

It takes a `CRAMLayer` for its weights only. The episodic buffer is a list of (novelty, position, key, value)
from which the least novel entry is removed when it overflows; nothing is masked, because the future is not
there yet.
"""

import math

import torch
from torch.nn.functional import gelu

from consolidation.cram import EPISODIC, SEMANTIC, CRAMLayer, Routing


def forward(
    layer: CRAMLayer, x: torch.Tensor, gap: torch.Tensor, routing: Routing | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (position, width) and paths (position,) of one sequence: x (position, width), gap (position,),
    `routing` of that sequence and layer: gumbel (position, 3), explore (position,).

    Hard routing, sigma as the layer has it, no update of its running mean.
    """
    config = layer.config
    buffer: list[tuple[float, int, torch.Tensor, torch.Tensor]] = []
    total = torch.zeros_like(x[0])
    outputs, paths = [], []
    for t, token in enumerate(x):
        working, magnitude = _working(layer, token, gap[t])
        semantic = (
            layer.semantic.up(torch.relu(layer.semantic.down(token)))
            if layer.semantic
            else torch.zeros_like(token)
        )
        recalled = _recall(layer, token, buffer)
        if layer.predict is None:
            square = layer.scale if config.sigma is None else config.sigma**2
            quality = torch.exp(-torch.sum((semantic - recalled) ** 2) / square).detach()
        else:
            quality = torch.sigmoid(layer.predict(token.detach())[0])
            quality = quality if config.quality == "learned" else quality.detach()
        seen = quality if config.quality_in_router else torch.zeros_like(quality)
        uncertainty = layer.router.uncertainty(working)[0]
        z = torch.stack([torch.log1p(gap[t]), magnitude, seen, uncertainty])
        logits = layer.router.second(gelu(layer.router.first(z)))
        noisy = (
            logits if routing is None else (logits + routing.gumbel[t, : len(logits)]) / routing.temperature
        )
        soft = torch.softmax(noisy, 0)
        path = int(soft.argmax())
        route = [float(p == path) + soft[p] - soft[p].detach() for p in range(len(soft))]
        # mode `predicted`: what is skipped is not there, except that an explored r_E gives the router a
        # gradient
        if layer.predict is not None and path != EPISODIC:
            explored = routing is not None and float(routing.explore[t]) < config.exploration
            recalled = recalled / config.exploration if explored else torch.zeros_like(recalled)
        mixed = working + route[EPISODIC] * recalled
        if layer.semantic:
            mixed = mixed + route[SEMANTIC] * semantic
        y = layer.mixed_norm(mixed)
        outputs.append(layer.norm(y + layer.down(gelu(layer.up(y)))))
        paths.append(torch.tensor(path))

        mean = total / max(t, 1)
        novelty = float(((token - mean).detach() ** 2).mean())
        total = total + token.detach()
        buffer.append((novelty, t, layer.episodic.key(token), layer.episodic.value(token)))
        if len(buffer) > config.buffer:
            # the least novel leaves; between equals, the newer
            buffer.remove(min(buffer, key=lambda entry: (entry[0], -entry[1])))
    return torch.stack(outputs), torch.stack(paths)


def _working(layer: CRAMLayer, token: torch.Tensor, gap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    config, memory = layer.config, layer.working
    dt = 1 / config.working_steps if config.step_size is None else config.step_size
    start = h = token if config.initial == "input" else torch.zeros_like(token)
    for _ in range(config.working_steps):
        h = h + dt * torch.sigmoid(memory.rate(torch.log1p(gap)[None])) * torch.tanh(
            memory.recur(h) + memory.drive(token)
        )
    return memory.out(h) + token, torch.sqrt(torch.mean((h - start) ** 2))


def _recall(
    layer: CRAMLayer, token: torch.Tensor, buffer: list[tuple[float, int, torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    if not buffer:
        return torch.zeros_like(token)
    memory, heads = layer.episodic, layer.config.heads
    query = memory.query(token).view(heads, -1)
    parts = []
    for h in range(heads):
        scores = torch.stack([query[h] @ key.view(heads, -1)[h] for _, _, key, _ in buffer]) / math.sqrt(
            query.shape[1]
        )
        weights = torch.softmax(scores, 0)
        parts.append(
            sum(w * value.view(heads, -1)[h] for w, (_, _, _, value) in zip(weights, buffer, strict=True))
        )
    return memory.out(torch.cat(parts))

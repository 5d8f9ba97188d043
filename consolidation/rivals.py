"""The rivals of table 1 and the ablations of table 4, on the same inputs, heads, objective and parameter
budget.

cram              the reference model
control           router and attention penalty alone: no semantic memory, no consolidation loss, only
                  feed-forward weights to remember in. It decides theorem 1, and it is table 4's "no semantic
                  memory"
control-narrow    the same without the semantic memory's parameters: a feed-forward part as wide as CRAM's
control-network   the control whose router sees x through the network that predicts q_t in CRAM, and trains it
no-consolidation  CRAM without eq 5: table 1's "without consolidation" and table 4's "no L_cons"
no-quality        CRAM whose router does not see q_t (table 4)
fast-semantic     CRAM whose semantic memory learns ten times faster (table 4)
transformer       causal attention at every position
mamba             selective state space, no attention
jamba             eight layers, one of attention and seven of state space
seqboat           state space, and attention among the positions that a learned gate activates

Every rival has the normalisation and feed-forward part of a CRAM layer, so only what mixes positions differs.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from consolidation.config import CRAMConfig, SRCDConfig, variant
from consolidation.cram import CT, EPISODIC, CRAMLayer, Model, Part, Routing, Trace, hardest
from labbook.console import UserError

BUDGET = 0.10
STATE = 16


JAMBA_LAYERS, JAMBA_ATTENTION = 8, 4


def build(name: str, benchmark: SRCDConfig, config: CRAMConfig) -> Model:
    """The model of that name with the parameter budget of CRAM at `config`, within 10 %.

    A rival keeps the width while its feed-forward part then has at least half as many units; it becomes
    narrower otherwise (eight layers do not fit into the budget of one at the same width).

    Raises
    ------
    UserError : for an unknown name, or when no width meets the budget.
    """
    chosen = variant(name)
    config = chosen.model(config)
    if chosen.budget is not None:
        budget = _size(benchmark, chosen.budget(config), "cram")
        config = _within(budget, benchmark, config, chosen.layer)
    return _model(benchmark, config, chosen.layer)


def _model(benchmark: SRCDConfig, config: CRAMConfig, kind: str) -> Model:
    layers: list[nn.Module]
    match kind:
        case "cram":
            layers = [CRAMLayer(config) for _ in range(config.layers)]
        case "jamba":
            layers = [
                MixerLayer(
                    config, Attention(config) if i % JAMBA_LAYERS == JAMBA_ATTENTION else StateSpace(config)
                )
                for i in range(max(JAMBA_LAYERS, config.layers))
            ]
        case "transformer":
            layers = [MixerLayer(config, Attention(config)) for _ in range(config.layers)]
        case "mamba":
            layers = [MixerLayer(config, StateSpace(config)) for _ in range(config.layers)]
        case _:
            layers = [MixerLayer(config, SparselyActivated(config)) for _ in range(config.layers)]
    return Model(benchmark, config, layers)


def parameters(model: nn.Module) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _size(benchmark: SRCDConfig, config: CRAMConfig, kind: str) -> int:
    with torch.device("meta"):
        return parameters(_model(benchmark, config, kind))


def _within(budget: int, benchmark: SRCDConfig, config: CRAMConfig, kind: str) -> CRAMConfig:
    """`config` with the feed-forward width, and if need be the width, that meets the budget."""
    for width in range(config.width, 0, -2 * config.heads):
        tried = replace(config, width=width, semantic_rank=config.rank)
        one, two = (_size(benchmark, replace(tried, feed_forward=h), kind) for h in (1, 2))
        hidden = 1 + round((budget - one) / (two - one))
        if hidden >= width / 2:
            tried = replace(tried, feed_forward=hidden)
            if abs(_size(benchmark, tried, kind) / budget - 1) <= BUDGET:
                return tried
    raise UserError(
        f"no {kind} of at most width {config.width} has {budget:,} parameters within {BUDGET:.0%}. Change "
        "--width or --layers."
    )


class Mixed(NamedTuple):
    """What a mixer gives: tokens (batch, position, width), 1 where a position attends (batch, position), and
    the number of query-key pairs.
    """

    tokens: torch.Tensor
    attending: torch.Tensor
    pairs: torch.Tensor


class MixerLayer(nn.Module):
    """A mixer of positions in the place of CRAM's memories: norm(x + mixer(x)), then norm(y + FFN(y))."""

    def __init__(self, config: CRAMConfig, mixer: "Attention | StateSpace | SparselyActivated"):
        super().__init__()
        self.mixer = mixer
        self.mixed_norm, self.norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)

    def forward(
        self,
        x: torch.Tensor,
        gap: torch.Tensor,
        routing: Routing | None,
        without: frozenset[Part],
        *,
        dense: bool = False,
    ) -> tuple[torch.Tensor, Trace]:
        """Output and trace, as a `CRAMLayer` gives them; there is no semantic path and no q_t."""
        if isinstance(self.mixer, SparselyActivated):
            mixed, attending, pairs = self.mixer(x, routing, without)
        else:
            mixed, attending, pairs = self.mixer(x)
            mixed = torch.zeros_like(mixed) if self.mixer.part in without else mixed
        y = self.mixed_norm(x + mixed)
        out = self.norm(y if "feed_forward" in without else y + self.down(gelu(self.up(y))))
        path = torch.where(attending.detach() > 0.5, EPISODIC, CT)
        zero, nothing = out.new_zeros(()), torch.full_like(attending, torch.nan)
        route = torch.stack([1 - attending, attending, torch.zeros_like(attending)], -1)
        return out, Trace(
            route=route,
            probability=route.detach(),
            path=path,
            read=path == EPISODIC,
            quality=nothing,
            predicted=torch.zeros_like(attending),
            novelty=nothing,
            pairs=pairs,
            consolidation=zero,
            prediction_loss=zero,
        )


class Attention(nn.Module):
    """Causal multi-head attention over all positions."""

    part: Part = "attention"

    def __init__(self, config: CRAMConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: torch.Tensor) -> Mixed:
        """Every position attends."""
        batch, length = x.shape[:2]
        pairs = torch.full((), batch * length * (length + 1) // 2, device=x.device)
        return Mixed(self.attend(x), x.new_ones(batch, length), pairs)

    def attend(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens mixed by attention to all positions before, or to those that `seen` (batch, query, key)
        allows.
        """
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mask = None if seen is None else seen[:, None]
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=seen is None)
        return self.out(mixed.transpose(1, 2).flatten(2))


class StateSpace(nn.Module):
    """Mamba-2's selective state space by transformers: chunked in plain torch, fused where its kernels are
    installed.
    """

    part: Part = "working"

    def __init__(self, config: CRAMConfig):
        super().__init__()
        self.mixer = Mamba2Mixer(
            Mamba2Config(
                hidden_size=config.width,
                num_heads=config.heads,
                head_dim=config.width // config.heads,
                state_size=STATE,
                expand=1,
                n_groups=1,
                chunk_size=64,
                num_hidden_layers=1,
            ),
            layer_idx=0,
        )

    def forward(self, x: torch.Tensor) -> Mixed:
        """No position attends."""
        none = torch.zeros((), dtype=torch.int64, device=x.device)
        return Mixed(self.mixer(x), x.new_zeros(x.shape[:2]), none)


class SparselyActivated(nn.Module):
    """In the manner of SeqBoat (Ren et al. 2023, arXiv:2306.11197): state space everywhere, attention among
    the activated positions.

    A gate on the state-space output decides, hard with straight-through gradients as CRAM's router does; only
    activated positions are queries, and only they are keys. Where a gate is shut, its gradient is of what
    the position would read if it alone opened: what CRAM's exploration estimates, here at every position.
    """

    def __init__(self, config: CRAMConfig):
        super().__init__()
        self.space, self.attention = StateSpace(config), Attention(config)
        self.gate = nn.Linear(config.width, 2)

    def forward(self, x: torch.Tensor, routing: Routing | None, without: frozenset[Part]) -> Mixed:
        """Attention among activated positions is added where the gate is open."""
        state = self.space(x).tokens
        if "working" in without:
            state = torch.zeros_like(state)
        h = x + state
        logits = self.gate(h)
        soft = logits.softmax(-1) if routing is None else routing.soft(logits)
        gate = (hardest(soft) + soft - soft.detach())[..., 1]
        active = gate > 0.5
        itself = torch.eye(h.shape[1], dtype=torch.bool, device=h.device)
        attended = self.attention.attend(h, (active[:, None, :] | itself).tril())
        if "attention" not in without:
            state = state + gate[..., None] * attended
        return Mixed(state, gate, (active[:, :, None] & active[:, None, :]).tril().sum())

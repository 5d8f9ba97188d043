"""What attention looks at, per layer: how spread it is, and how much falls on position 0, on the token
itself, on the one before.

A random network attends nearly evenly: its output is close to a running mean of the values, which changes
slowly from token to token and is easy to predict. These numbers show how far a checkpoint is from that.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from labbook import processes
from labbook.console import UserError
from redundancy.batches import Batch
from redundancy.model.decoder import Decoder
from redundancy.passes import Pass, Task, each_batch

# entropy in nats; entropy_of_uniform is log(t + 1) at position t, what an even spread over the past has
PATTERNS = ("entropy", "entropy_of_uniform", "on_position_0", "on_self", "on_previous")
# attention weights held at once, over all layers: 2^27 float32 are 512 MiB
WEIGHTS = 2**27


@contextmanager
def _explicit_attention(decoder: Decoder) -> Iterator[None]:
    """Let the model compute attention weights as tensors for a while."""
    before = decoder.model.config._attn_implementation
    decoder.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.model.set_attn_implementation(before)


def pattern_fields(weights: Tensor) -> Tensor:
    """The PATTERNS of attention weights (..., head, query, key), mean over heads: (..., query,
    len(PATTERNS)), float32.
    """
    p = weights.float()
    length = p.shape[-1]
    entropy = -torch.xlogy(p, p).sum(-1)
    even = torch.arange(1, length + 1, device=p.device, dtype=torch.float32).log().expand_as(entropy)
    previous = torch.nn.functional.pad(p.diagonal(-1, -2, -1), (1, 0))
    fields = (entropy, even, p[..., 0], p.diagonal(0, -2, -1), previous)
    return torch.stack([f.mean(-2) for f in fields], -1)


def attention_statistics(decoder: Decoder, task: Task, label: str) -> Tensor:
    """Sums over the kept held-out tokens: (document, layer, 1 + len(PATTERNS)), the count of tokens first,
    float64.

    Raises UserError for a model that does not hand out its attention weights.
    """
    documents, depth = len(task.windows["evaluation"].names), len(task.layers)
    sums = torch.zeros(documents, depth, 1 + len(PATTERNS), dtype=torch.float64)

    @torch.inference_mode()
    def body(batch: Batch) -> None:
        context = batch.ids.shape[1]
        size = max(1, WEIGHTS // (len(decoder.layers) * decoder.n_heads * context**2))
        for rows in torch.arange(len(batch.ids), device=batch.ids.device).split(size):
            attentions = decoder.backbone(
                input_ids=batch.ids[rows], use_cache=False, output_attentions=True
            ).attentions
            if not attentions or attentions[0] is None:
                raise UserError(
                    f"{decoder.name!r} does not hand out its attention weights, so their patterns cannot be "
                    "measured."
                )
            keep, owner = batch.keep[rows].cpu(), batch.document[rows].cpu()
            for place, layer in enumerate(task.layers):
                fields = pattern_fields(attentions[layer]).double().cpu()
                fields = torch.cat([torch.ones_like(fields[..., :1]), fields], -1) * keep.unsqueeze(-1)
                sums[:, place].index_add_(0, owner, fields.sum(1))

    with _explicit_attention(decoder):
        each_batch(task, Pass("evaluation", label), decoder.device, body)
    processes.add_up([sums])
    return sums

"""Replacements that no regression is needed for: the mean of the token, the output of another token.

resampled    the head outputs of a training token at the same position, one drawn for each position (resample
             ablation, Chan et al. 2022): what is destroyed where the mean would still tell what is usual
token_mean   the mean output of the token id, shrunk like in the probe's control of that name
"""

import numpy as np
import torch
from torch import Tensor

from redundancy.batches import Batch
from redundancy.model.decoder import Decoder
from redundancy.model.substitution import Predict
from redundancy.passes import Reader, Task
from redundancy.regression.controls import shrunk_means
from redundancy.regression.moments import LayerMoments

# training windows among which the token at each position is drawn
DONORS = 64
# keeps the draws apart from others of the same seed
STREAM = 11


def resampled_outputs(decoder: Decoder, task: Task) -> dict[int, Tensor]:
    """Outputs z (position, d_z) of one training token at each position, by layer; of one and the same token
    in all layers. A position that no window reaches has zeros and is never asked for.
    """
    windows = task.windows["train"]
    first = windows.lengths[:DONORS]
    positions = windows.ids.shape[1]
    rng = np.random.default_rng([task.seed, STREAM])
    chosen = np.full(positions, -1)
    for position in range(positions):
        able = np.flatnonzero(first > position)
        if len(able):
            chosen[position] = rng.choice(able)
    outputs = {n: torch.zeros(positions, decoder.d_z, device=decoder.layer_device(n)) for n in task.layers}

    def take(layer: int, x: Tensor, z: Tensor, batch: Batch) -> None:
        for row, number in enumerate(batch.number.tolist()):
            own = torch.from_numpy(np.flatnonzero(chosen == number)).to(z.device)
            outputs[layer][own] = z[row, own].to(outputs[layer])

    with Reader(decoder, task, take) as read:
        for batch in task.batches("train", decoder.device, 0, min(DONORS, len(first))):
            read(batch)
    return outputs


def token_means(moments: LayerMoments) -> Predict:
    """The mean per token id as a replacement; it is handed `slots` in the place of the hidden state."""
    s = moments.sums
    mean = s["train/z"] / s["train/n"]
    table = shrunk_means(s["by_token"], s["per_token"], s["train/square"], mean) + moments.pilot["shift_z"]
    return lambda slot, position: table.to(slot)[slot.squeeze(-1).long()]


def slots(x: Tensor, batch: Batch) -> Tensor:
    """Row of every token in the table of means, (batch, position, 1)."""
    return batch.slot.unsqueeze(-1).to(x.device)

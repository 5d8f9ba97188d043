"""Blocks that are taken from the intact run change no number and compute nothing."""

import pytest
import torch

from redundancy.evaluation import log_probabilities
from redundancy.model.prefix import Prefix
from redundancy.model.substitution import Rule, Substitution, hidden_only
from tests.planted import task


@pytest.mark.parametrize("layer", [0, 1])
def test_a_variant_with_its_prefix_kept_has_the_same_logits(tiny, tokenizer, layer):
    t = task(tokenizer)
    batch, prefix, calls = next(t.batches("evaluation", tiny.device)), Prefix(tiny), []
    rules = {layer: Rule(hidden_only(lambda x: torch.zeros(len(x), tiny.d_z)))}

    def run():
        with Substitution(tiny, rules, t.start_position) as substitution:
            substitution.read(batch)
            return log_probabilities(tiny, batch.ids)

    whole = run()
    with prefix.recorded():
        intact = log_probabilities(tiny, batch.ids)
    attention = tiny.attention(0)
    hook = attention.register_forward_hook(lambda *_: calls.append(0))
    with prefix.below(layer):
        short = run()
    hook.remove()
    assert torch.equal(short, whole)
    assert not torch.equal(short, intact)
    assert len(calls) == (1 if layer == 0 else 0)
    assert torch.equal(log_probabilities(tiny, batch.ids), intact)  # the blocks are as they were


def test_nothing_recorded_is_an_error(tiny):
    with pytest.raises(ValueError, match="nothing was recorded"), Prefix(tiny).below(1):
        pass

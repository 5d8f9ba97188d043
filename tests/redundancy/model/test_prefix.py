"""Blocks that are taken from the intact run change no number and compute nothing."""

import pytest
import torch

from redundancy.evaluation import log_probabilities
from redundancy.model.prefix import Prefix
from redundancy.model.substitution import Rule, Substitution, hidden_only
from redundancy.model.updates import Unit, Updates, nothing
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
    with prefix.given(layer):
        short = run()
    hook.remove()
    assert torch.equal(short, whole)
    assert not torch.equal(short, intact)
    assert len(calls) == (1 if layer == 0 else 0)
    assert torch.equal(log_probabilities(tiny, batch.ids), intact)  # the blocks are as they were


def test_nothing_recorded_is_an_error(tiny):
    with pytest.raises(ValueError, match="nothing was recorded"), Prefix(tiny).given(1):
        pass


@pytest.mark.parametrize("target", ["attention", "mlp", "block"])
def test_what_a_change_does_not_look_at_is_not_computed(tiny, tokenizer, target):
    t = task(tokenizer)
    batch, last = next(t.batches("evaluation", tiny.device)), len(tiny.layers) - 1
    puts = {Unit(n, target): nothing for n in (0, last)}
    blind = Updates(tiny, puts, t.start_position, puts)
    prefix = Prefix(tiny, blind.blind)
    with Updates(tiny, puts, t.start_position):
        whole = log_probabilities(tiny, batch.ids)
    with prefix.recorded():
        intact = log_probabilities(tiny, batch.ids)
    calls = []
    # a part of what is gone, which would run where it were computed; OPT's MLP has none
    module = {
        "attention": next(m for m in tiny.attention(last).children() if m is not tiny.projection(last)),
        "mlp": next(tiny.layers[last].get_submodule(tiny.mlp(last).path).children(), None),
        "block": tiny.attention(last),
    }[target]
    if module is not None:
        module.register_forward_hook(lambda *_: calls.append(0))
    with blind, prefix.given(0, blind.blind):
        short = log_probabilities(tiny, batch.ids)
    assert torch.equal(short, whole)
    assert not torch.equal(short, intact)
    assert not calls
    assert torch.equal(log_probabilities(tiny, batch.ids), intact)
    # what is looked at is computed, but for the attention of the first layer
    for first in range(len(tiny.layers)):
        with Updates(tiny, {Unit(first, target): nothing}, t.start_position) as alone:
            whole = log_probabilities(tiny, batch.ids)
            with prefix.given(first, alone.blind):
                assert torch.equal(log_probabilities(tiny, batch.ids), whole)

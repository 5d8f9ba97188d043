"""SRCD, Sparse Retrieval in Continuous Dynamics: the benchmark of section 6 and appendix A of
arXiv:2602.12204.

A sequence is an irregularly sampled AR(1) process. A few positions bind a key to a value; a few others name a
key again and ask for its value. Most keys come from a fixed set of patterns, whose value never changes and
can be memorised; the others are novel, and only the sequence itself holds their answer.

    position     0     1     2     3     4     5     6     7     8     9    10    11
    gap        0.7   0.1   3.2   0.4   1.1   0.1  28.5   0.3   0.9   2.0   0.2   0.6
    previous   .31   .62   .58  -.10   .02   .91   .87  1.10  1.32  1.71  1.90  1.72
    role         .  bind     .     .  bind     . query     .     . query     . query
    key          .   p17     .     .   n03     .   p17     .     .   n03     .   p17
    value        .     5     .     .     2     .     .     .     .     .     .     .
    -----------------------------------------------------------------------------------
    dynamics   .62   .58  -.10   .02   .91   .87  1.10  1.32  1.71  1.90  1.72  1.66
    target       .     .     .     .     .     .     5     .     .     2     .     5
    lag          .     .     .     .     .     .     5     .     .     5     .    10
    seen         .     .     .     .     .     .     1     .     .     1     .     2

Above the line is what a model sees, below it what it has to say (`dynamics`: the present value of the
process; `target`: the value bound to the key) and what is recorded (`seen`: earlier positions of this
sequence that show the key). p17 is a pattern, so its value is 5 in every sequence; n03 is novel, and its
value is drawn anew in every sequence. Which patterns a step shows, and how often, may follow a schedule of
cohorts, which `consolidation/schedule.py` draws.
"""

import hashlib
from dataclasses import dataclass, fields
from typing import Literal

import torch

from consolidation.config import SRCDConfig

NONE, BIND, QUERY = 0, 1, 2
IGNORED = -100
# a longer row is not sorted to choose from; a row that is keeps the sequences of the shipped runs, ties too
SORTED = 4096


@dataclass(frozen=True)
class Batch:
    """Sequences with their answers; what a model may see are the first five.

    Attributes
    ----------
    previous, gap : (batch, position) the value observed last, and the time that has passed since.
    role : (batch, position) NONE, BIND or QUERY.
    key, value : (batch, position) 1 ... vocabulary, 0 for none; patterns are the keys 1 ... patterns.
    dynamics : (batch, position) present value of the process, to be predicted.
    target : (batch, position) 0 ... values - 1 at queries, IGNORED elsewhere.
    position, binding : (batch, query) ascending positions of the queries, and of the bindings that answer
        them.
    pattern : (batch, query) 0 ... patterns - 1, or -1 for a novel key.
    seen : (batch, query) earlier positions of the sequence that show this key.
    shows : (batch, position) the pattern that is bound or asked for here, -1 for none.
    """

    previous: torch.Tensor
    gap: torch.Tensor
    role: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    dynamics: torch.Tensor
    target: torch.Tensor
    position: torch.Tensor
    binding: torch.Tensor
    pattern: torch.Tensor
    seen: torch.Tensor
    shows: torch.Tensor

    @property
    def recurring(self) -> torch.Tensor:
        """(batch, query) whether the query asks for a pattern."""
        return self.pattern >= 0

    @property
    def lag(self) -> torch.Tensor:
        """(batch, query) positions since the binding."""
        return self.position - self.binding

    def rows(self, first: int, last: int) -> "Batch":
        """Some of the sequences."""
        return Batch(*(getattr(self, f.name)[first:last] for f in fields(self)))


def generator(device: torch.device, *names: object) -> torch.Generator:
    """A generator whose stream is a function of `names` alone."""
    seed = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(seed[:8], "big") >> 1)


def answers(config: SRCDConfig, seed: int, device: torch.device) -> torch.Tensor:
    """(patterns,) the fixed value of every pattern, 1 ... values."""
    return torch.randint(
        1, config.values + 1, (config.patterns,), generator=generator(device, "answers", seed), device=device
    )


def generate(
    config: SRCDConfig,
    seed: int,
    step: int,
    batch: int,
    device: torch.device | None = None,
    split: Literal["train", "evaluation"] = "train",
) -> Batch:
    """The sequences of one step: a pure function of its arguments (and of the kind of device, whose
    generators differ).

    Parameters
    ----------
    config, seed, step, split : what the stream of random numbers depends on; the patterns' values depend on
        the seed only. With cohorts, training shows the patterns that the schedule has at this step, and an
        evaluation shows all that were introduced until then alike, retired or not.
    batch : sequences.
    """
    device = device or torch.device("cpu")
    # one function, though long: the order of the draws is what a seed means, and here it is read at a glance
    g = generator(device, split, seed, step)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=g, device=device)

    n, k, d, q = config.length, config.binding_count, config.distractor_count, config.query_count
    events = uniform(batch, n).argsort(1)[:, : k + d + q].sort(1).values
    if config.variant == "srcd":
        # which events are bindings, distractors, queries; the first is a binding, so that every query has one
        # before it
        draw = uniform(batch, k + d + q)
        draw[:, 0] = -1
        order = draw.argsort(1)
    else:
        order = torch.arange(k + d + q, device=device).expand(batch, -1)
    place = events.gather(1, order[:, : k + d])
    position = events.gather(1, order[:, k + d :]).sort(1).values

    bound = k + d
    if config.variant == "srcd":
        count = (config.recurrence * bound + uniform(batch, 1)).floor().clamp(max=bound)
        recurring = uniform(batch, bound).argsort(1).argsort(1) < count
    else:
        recurring = torch.zeros(batch, bound, dtype=torch.bool, device=device)
    chance = uniform(batch, config.patterns)
    if config.cohorts:
        plan = config.schedule
        chance = _weighted(chance, plan.weights(step) if split == "train" else plan.known(step))
    patterns = _different(chance, bound)
    if config.shares_keys:
        novel = patterns
    elif config.variant == "copy":
        novel = torch.arange(bound, device=device).expand(batch, -1) + config.patterns
    else:
        novel = _different(uniform(batch, config.novel_keys), bound) + config.patterns
    keys = torch.where(recurring, patterns, novel) + 1
    drawn = 1 + (uniform(batch, bound) * config.values).long().clamp(max=config.values - 1)
    known = answers(config, seed, device)[patterns % config.patterns]
    values = torch.where(recurring, known, drawn)

    if config.variant == "copy":
        chosen = torch.arange(q, device=device).expand(batch, -1)
    else:
        lag = position[:, :, None] - place[:, None, :k]
        weight = -config.lag_exponent * lag.clamp(min=1).log() - (-uniform(batch, q, k).log()).log()
        chosen = weight.masked_fill(lag <= 0, -torch.inf).argmax(2)
    asked = keys.gather(1, chosen)
    repeated = (asked[:, :, None] == asked[:, None, :]).tril(-1).sum(2)

    def spread(index: torch.Tensor, source: torch.Tensor, empty: int) -> torch.Tensor:
        return torch.full((batch, n), empty, device=device).scatter(1, index, source)

    both = torch.cat([place, position], 1)
    pattern = torch.where(recurring.gather(1, chosen), asked - 1, -1)
    kinds = torch.where(torch.arange(bound + q, device=device) < bound, BIND, QUERY).expand(batch, -1)
    gap = ((1 - uniform(batch, n)) ** (-1 / config.gap_tail) - 1).clamp(*config.gap_limits)
    process = _process(config, gap, torch.randn(batch, n + 1, generator=g, device=device))
    return Batch(
        previous=process[:, :-1],
        gap=gap,
        role=spread(both, kinds, NONE),
        key=spread(both, torch.cat([keys, asked], 1), 0),
        value=spread(place, values, 0),
        dynamics=process[:, 1:],
        target=spread(position, values.gather(1, chosen) - 1, IGNORED),
        position=position,
        binding=place.gather(1, chosen),
        pattern=pattern,
        seen=1 + repeated,
        shows=spread(both, torch.cat([torch.where(recurring, patterns, -1), pattern], 1), -1),
    )


def _different(draw: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` places of a random order of every row; repeated when a row is shorter, where they are
    not used.
    """
    if draw.shape[1] > max(SORTED, count):
        return draw.topk(count, largest=False).indices
    order = draw.argsort(1)
    return order[:, torch.arange(count, device=draw.device) % draw.shape[1]]


def _weighted(draw: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """Numbers whose ascending order draws patterns one after another in proportion to their weights, never
    those of weight 0: -log(1 - u) / w (Efraimidis and Spirakis 2006), the order of u itself where all weights
    are equal.
    """
    w = torch.tensor(weights, dtype=torch.float64, device=draw.device)
    # what has no weight comes last
    return torch.where(w > 0, -(-draw.double()).log1p() / w, torch.inf)


def _process(config: SRCDConfig, gap: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """v_-1 ... v_(N-1) of the AR(1) process: (batch, N + 1), started near its stationary law.

    v_t = sum_s a^(t - s) u_s is summed by doubling: log2 N additions of shifted arrays instead of N steps.
    """
    a = config.autoregression
    drive = config.beta * (config.omega * gap).sin() + config.noise * normal[:, 1:]
    stationary = ((config.beta**2 / 2 + config.noise**2) / (1 - a**2)) ** 0.5 if abs(a) < 1 else 0.0
    v = torch.cat([stationary * normal[:, :1], drive], 1)
    shift = 1
    while shift < v.shape[1]:
        v = torch.cat([v[:, :shift], v[:, shift:] + a**shift * v[:, :-shift]], 1)
        shift *= 2
    return v


class Exposures:
    """How often every pattern was seen before, on the three EXPOSURE_CLOCKS: contradiction 4 of the paper is
    that it does not say on which.

    An exposure is an earlier position that shows the pattern, binding or query. `in sequence` counts within
    the sequence; `in batch stream` adds the earlier steps of the same row of the batch, one learner's
    experience; `over training` adds the earlier steps of all rows. Sequences of the same step do not count
    for each other: the weights have not changed between them.
    """

    def __init__(self, rows: int, patterns: int, device: torch.device | None = None):
        self.rows = torch.zeros(rows, patterns, dtype=torch.int64, device=device)

    def before(self, batch: Batch) -> torch.Tensor:
        """(clock, batch, query) exposures before every query; 0 for novel ones."""
        pattern = batch.pattern.clamp(min=0)
        stream, training = self.rows.gather(1, pattern), self.rows.sum(0)[pattern]
        counts = torch.stack([batch.seen, batch.seen + stream, batch.seen + training])
        return counts.where(batch.recurring, 0)

    def add(self, batch: Batch) -> None:
        """Count the exposures of a finished step."""
        shown = batch.shows.clamp(min=0)
        self.rows.scatter_add_(1, shown, (batch.shows >= 0).long())

"""What can be asked of the memory model: the task, the model, its objective, and the variants of it that the
paper compares. Imports nothing heavy, so that --help is quick.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from consolidation.schedule import Schedule, schedule
from labbook.command import conform
from labbook.console import UserError

# what exposures of a pattern may count, as trajectories name it
EXPOSURE_CLOCKS = ("repetitions in sequence", "repetitions in batch stream", "repetitions over training")

# embeddings of the keys
Keys = Literal["learned", "fixed"]


@dataclass(frozen=True)
class SRCDConfig:
    """The benchmark. What the paper gives is the default; what it leaves open is chosen here, with the
    reason.
    """

    length: int = 2048
    """Positions of a sequence, N."""
    queries: float = 0.05
    """Share of positions that are queries, f."""
    recurrence: float = 0.70
    """Share of bindings that come from the fixed patterns, rho."""
    patterns: int = 100
    """Fixed patterns."""
    bindings: float = 0.04
    """Share of positions that bind a key which may be asked for. Not in the paper; .04 but in `tiny`:
    below .05, so that 100 patterns suffice at the N = 2048 of `paper` even when every binding recurs, and so
    that some keys are asked for twice. `tiny` has as many bindings as queries, four of each.
    """
    distractors: float = 0.0
    """Share of positions that bind a key which is never asked for. Not in the paper; 0 because many ordinary
    bindings go unasked already, two in five at the sizes of `paper`.
    """
    novel: Literal["disjoint", "shared"] = "disjoint"
    """Where novel keys come from: `disjoint`, keys that are never patterns, so the key alone tells a novel
    query; `shared`, the patterns' own keys with another value, so it does not. Not in the paper; disjoint,
    because eq 13 can be reached only then.
    """
    novel_keys: int = 100
    """Size of the disjoint novel vocabulary. Not in the paper; as many as patterns, so that both kinds of key
    are equally well trained.
    """
    values: int = 16
    """Values; chance is 1 / values. Not in the paper; 16 keeps chance (.06) far below the recurring share
    (.70); the 8 of `tiny` are learnt sooner.
    """
    lag_exponent: float = 0.0
    """An earlier binding at lag s is asked for with probability proportional to s^-lag_exponent. Not in the
    paper; 0 (every earlier binding alike), so that recency gives nothing away.
    """
    autoregression: float = 0.95
    """a of v_t = a v_(t-1) + beta sin(omega gap_t) + noise."""
    beta: float = 0.5
    """Drive by the gap. Not in the paper; gives v a variance near .7."""
    omega: float = 1.0
    """Angular frequency per unit of time. Not in the paper; the median gap then is a tenth of a period."""
    noise: float = 0.1
    """Standard deviation of the noise. Not in the paper; the least possible mean squared error is its square,
    .01.
    """
    gap_tail: float = 1.5
    """Exponent of the gaps' law P(gap > g) = (1 + g)^-gap_tail. The paper says Pareto(1.5) clipped to [.1,
    1000]; this is the Pareto II law of the usual samplers, because the classical one starts at 1 and its
    lower clip would never act.
    """
    gap_limits: tuple[float, float] = (0.1, 1000.0)
    """Gaps are clipped to these."""
    variant: Literal["srcd", "copy", "associative"] = "srcd"
    """`copy`: novel keys in a fixed order are bound first and asked for afterwards in the same order (the key
    is the place in the list: the models have no positional code). `associative`: novel keys in any order, all
    bound first, then asked for at random.
    """
    cohorts: tuple[str, ...] = ()
    """When and how often the patterns are shown: cohorts such as 40, 10@500 (introduced at step 500),
    10@500-1000,1500 (retired at step 1000, brought back), 4@500-1500/2 (at every 2nd step), 20@500^1
    (frequencies by Zipf's law); see `consolidation/schedule.py`. Not in the paper; none: all patterns alike,
    at every step.
    """

    def __post_init__(self) -> None:
        conform(self)
        shares = ("queries", "bindings", "distractors", "recurrence")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"--{name} {getattr(self, name)} is not a share between 0 and 1. Change --{name}."
                )
        if self.query_count < 1 or self.binding_count < 1:
            raise UserError(
                f"{self.length} positions at --queries {self.queries} and --bindings {self.bindings} give "
                f"{self.query_count} queries and {self.binding_count} bindings; at least one of each is "
                "needed. Increase --length or the shares."
            )
        events = self.query_count + self.binding_count + self.distractor_count
        if events > self.length:
            raise UserError(
                f"{events} queries and bindings do not fit into {self.length} positions. Decrease "
                "--queries, --bindings or --distractors, or increase --length."
            )
        bound = self.binding_count + self.distractor_count
        recurring = 0 if self.variant != "srcd" else self._most_recurring(bound)
        if recurring > self.patterns or (
            self.novel == "shared" and self.variant == "srcd" and bound > self.patterns
        ):
            raise UserError(
                f"{bound} bindings, up to {recurring} of them recurring, need as many different keys, but "
                f"there are {self.patterns} patterns. Increase --patterns, or decrease --bindings or "
                "--length."
            )
        if (
            not self.shares_keys
            and bound > self.novel_keys
            and (self.recurrence < 1 or self.variant != "srcd")
        ):
            raise UserError(
                f"{bound} bindings may need as many novel keys, but there are {self.novel_keys}. Increase "
                "--novel-keys, or decrease --bindings or --length."
            )
        if self.cohorts:
            self._check_cohorts(bound)
        if self.values < 2:
            raise UserError(
                f"--values {self.values}: at least 2 values are needed for an answer to be right or wrong."
            )

    def _check_cohorts(self, bound: int) -> None:
        """Raise UserError for cohorts that are not the patterns, or too few to choose from at some step."""
        if self.variant != "srcd":
            raise UserError(
                f"--cohorts {' '.join(self.cohorts)}: only the variant srcd has patterns, and --variant "
                f"{self.variant} was asked for. Leave one of them out."
            )
        planned = self.schedule
        if planned.patterns != self.patterns:
            raise UserError(
                f"the cohorts {' '.join(self.cohorts)} have {planned.patterns} patterns, but --patterns is "
                f"{self.patterns}. Change one of them."
            )
        fewest, step = planned.fewest()
        if fewest < bound:
            raise UserError(
                f"a sequence has {bound} bindings, but only {fewest} patterns of the cohorts "
                f"{' '.join(self.cohorts)} are active at step {step}. Add a cohort that is always shown, or "
                "decrease --bindings or --length."
            )

    @property
    def schedule(self) -> Schedule:
        """When and how often the patterns are shown, of the cohorts."""
        return schedule(self.cohorts)

    def _most_recurring(self, bound: int) -> int:
        return bound if self.recurrence == 1 else int(self.recurrence * bound) + (self.recurrence > 0)

    @property
    def shares_keys(self) -> bool:
        """Whether novel keys are the patterns' own."""
        return self.novel == "shared" and self.variant == "srcd"

    @property
    def query_count(self) -> int:
        """Queries per sequence."""
        return round(self.length * self.queries)

    @property
    def binding_count(self) -> int:
        """Bindings per sequence that may be asked for."""
        return self.query_count if self.variant == "copy" else round(self.length * self.bindings)

    @property
    def distractor_count(self) -> int:
        """Bindings per sequence that are never asked for."""
        return round(self.length * self.distractors)

    @property
    def keys(self) -> int:
        """Size of the key vocabulary, without 0 for none."""
        return self.patterns + (0 if self.shares_keys else self.novel_keys)

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess."""
        return 1 / self.values

    def optimum(self) -> float:
        """Eq 13: share of positions that need attention once every pattern is known, f (1 - rho)."""
        return self.queries * (1 - (self.recurrence if self.variant == "srcd" else 0.0))


@dataclass(frozen=True)
class CRAMConfig:
    """The model. What the paper gives is the default; what it leaves open is chosen here, with the reason."""

    width: int = 512
    """d, of the token stream."""
    layers: int = 8
    """L."""
    heads: int = 8
    """Heads of the episodic read-out. Not in the paper; so many that each has 64 dimensions in `base` and
    `paper`; `small` and `tiny` have two of 32 and of 16.
    """
    feed_forward: int | None = None
    """Hidden units of the feed-forward part. Not in the paper; None: 4 d."""
    keys: Keys = "learned"
    """Embedding of the keys. Not in the paper; learned, as models have it, so a pattern's value can be
    written into its own embedding too (the knock-out of all parts shows how much is). `fixed` gives random
    codes, and memory has to live in the other weights.
    """
    working_steps: int = 3
    """K of eq 2."""
    initial: Literal["input", "zero"] = "input"
    """h^(0) of eq 2. Not in the paper; the token itself. No state is carried from position to position: that
    keeps all positions parallel, and leaves the episodic memory as the only path on which a binding can reach
    its query, as theorem 1 assumes.
    """
    step_size: float | None = None
    """Delta t of eq 2. Not in the paper; None: 1 / K, so that the K steps span one unit of time."""
    buffer: int = 512
    """M, entries of the episodic buffer."""
    semantic_rank: int | None = None
    """r of eq 4. None: d / 16, as the paper has it and `paper` takes it. `tiny`, `small` and `base` have 16,
    32 and 32, so that the semantic memory is not made small by the small width.
    """
    semantic: bool = True
    """False leaves out the semantic path and its router output (table 4, and the control of theorem 1)."""
    quality: Literal["oracle", "predicted", "learned"] = "predicted"
    """How the router knows q_t, which by eq 6 needs r_E. `oracle` computes attention everywhere, and skips
    nothing; `predicted` learns q_t from x_t on the positions that did read, and never computes what is
    skipped. Not in the paper; `predicted` is the one that can save. `learned`, for a model without semantic
    memory, leaves the network that predicts q_t to the router's gradient alone: a view of x_t as rich as
    CRAM's router has, and nothing that it would have to say.
    """
    quality_in_router: bool = True
    """False hides q_t from the router (table 4)."""
    sigma: float | None = None
    """sigma of eq 6. Not in the paper; None: sigma^2 is the running mean of ||r_E||^2 over the positions that
    read, so that q_t is a relative error on a scale that does not change as r_E grows in training: 1 for a
    perfect copy, 1/e for f_sem = 0.
    """
    routing: Literal["hard", "soft"] = "hard"
    """Forward pass with the chosen path alone and straight-through gradients, or with the mixture. Not in the
    paper; hard, because a mixture skips nothing.
    """
    exploration: float = 0.05
    """Share of positions at which r_E is computed in training whatever the router says, in mode `predicted`.
    It does not enter their output; q_t is learnt there, and the router's straight-through gradient, weighted
    by 1 / exploration, estimates the one that attention everywhere would give. Without it a position that
    once skips can never learn to attend again: where attention helped, the loss is flat, and where it is
    missing, there is no r_E.
    """
    chunk: int = 512
    """Positions that are handled together; changes memory and speed, never the result."""

    def __post_init__(self) -> None:
        conform(self)
        if self.width % self.heads:
            raise UserError(
                f"--width {self.width} is not divisible by --heads {self.heads}. Change one of them."
            )
        for name in ("width", "layers", "heads", "working_steps", "buffer", "chunk", "rank", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it has to be at least 1. Change it.")
        if not 0 <= self.exploration < 1:
            raise UserError(
                f"--exploration {self.exploration} is not a share of at least 0 and less than 1. Change it."
            )
        if self.quality == "learned" and self.semantic:
            raise UserError(
                "--quality learned is for the control whose router it is: leave it out and take --model "
                "control-network. With a semantic memory q_t is rewarded, and has to be what eq 6 says: "
                "choose predicted or oracle."
            )

    @property
    def rank(self) -> int:
        """r of eq 4."""
        return self.width // 16 if self.semantic_rank is None else self.semantic_rank

    @property
    def hidden(self) -> int:
        """Hidden units of the feed-forward part."""
        return 4 * self.width if self.feed_forward is None else self.feed_forward


@dataclass(frozen=True)
class Objective:
    """Weights of eq 8."""

    attention_penalty: float = 0.1
    """lambda_E. `paper` has the published .1; `tiny`, `small` and `base` have .5, because in a pilot at .1
    the router had left only half of the recurring queries after 3,000 steps.
    """
    semantic_reward: float = 0.05
    """lambda_S."""
    consolidation: float = 0.5
    """gamma of eq 5, its weight; no exponent of decay."""

    def __post_init__(self) -> None:
        conform(self)
        for name in ("attention_penalty", "semantic_reward", "consolidation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: a weight of the objective is finite "
                    "and at least 0. Change the flag."
                )


@dataclass(frozen=True)
class Variant:
    """A row of table 1 or 4.

    Attributes
    ----------
    label : as the paper calls it.
    layer : the layer's class.
    model, objective : how its configuration follows from CRAM's.
    semantic_rate : of training; None as configured.
    budget : the configuration of the CRAM that has as many parameters as it shall have; None takes the
        parameters as they come.
    """

    label: str
    layer: str = "cram"
    model: Callable[[CRAMConfig], CRAMConfig] = lambda config: config
    objective: Callable[[Objective], Objective] = lambda weights: weights
    semantic_rate: float | None = None
    budget: Callable[[CRAMConfig], CRAMConfig] | None = None


def _as_cram(config: CRAMConfig) -> CRAMConfig:
    return config


def _with_network(config: CRAMConfig) -> CRAMConfig:
    """Without semantic memory, and with a network of x for the router. Raises UserError where q_t is known
    otherwise.
    """
    if config.quality == "oracle":
        raise UserError(
            "--model control-network has its own way to know q_t, learned, and --quality oracle was asked "
            "for. Leave --quality out."
        )
    return replace(config, semantic=False, quality="learned")


def _unrewarded(weights: Objective) -> Objective:
    """What is left of the objective without semantic memory."""
    return replace(weights, semantic_reward=0.0, consolidation=0.0)


VARIANTS = {
    "cram": Variant("CRAM"),
    "control": Variant(
        "no semantic memory",
        model=lambda config: replace(config, semantic=False),
        objective=_unrewarded,
        # the parameters of the semantic memory go to the feed-forward part
        budget=lambda config: replace(config, semantic=True),
    ),
    "control-narrow": Variant(
        "no semantic memory, feed-forward part as CRAM's",
        model=lambda config: replace(config, semantic=False),
        objective=_unrewarded,
    ),
    "control-network": Variant(
        "no semantic memory, router with a network of x",
        model=_with_network,
        objective=_unrewarded,
        budget=lambda config: replace(config, semantic=True, quality="predicted"),
    ),
    "no-consolidation": Variant(
        "no consolidation loss", objective=lambda weights: replace(weights, consolidation=0.0)
    ),
    "no-quality": Variant(
        "no q in the router", model=lambda config: replace(config, quality_in_router=False)
    ),
    "fast-semantic": Variant("semantic learning rate x 10", semantic_rate=1.0),
    "transformer": Variant("Transformer", "transformer", budget=_as_cram),
    "mamba": Variant("Mamba", "mamba", budget=_as_cram),
    "jamba": Variant("Jamba 1:7", "jamba", budget=_as_cram),
    "seqboat": Variant("SeqBoat", "seqboat", budget=_as_cram),
}


def variant(name: str) -> Variant:
    """The variant of that name. Raises UserError naming those there are."""
    if name not in VARIANTS:
        raise UserError(f"there is no model {name!r}; there are {', '.join(VARIANTS)}. Change --model.")
    return VARIANTS[name]

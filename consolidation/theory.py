"""What the paper's theorems bound, and the phase-plane model of its appendix C fitted to a trajectory.

    f n        queries of a sequence                   rho   recurring share
    theorem 1  any static routing with accuracy >= 1 - eps uses at least (1 - eps) f n attention operations
    eq 13      with every pattern known, f (1 - rho) of all positions need attention

Theorem 1 is the only one that is proved, and its proof assumes that every other path always fails: a model
that remembers patterns in any weights is outside it. `shared` novel keys are outside eq 13: the key does not
tell which query is novel, so a router that knows the key only has to read at every query.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.integrate import ode
from scipy.optimize import least_squares

from consolidation.config import SRCDConfig
from labbook.console import UserError
from labbook.estimate import LEVEL, Estimate

Array = npt.NDArray[np.float64]


def static_bound(config: SRCDConfig, epsilon: float) -> float:
    """Theorem 1: least share of positions that a static routing with accuracy 1 - epsilon reads at."""
    if not 0 <= epsilon <= 1:
        raise UserError(f"epsilon {epsilon} is not between 0 and 1.")
    return (1 - epsilon) * config.queries


def consolidated_bound(config: SRCDConfig, error: float, delta: float = 0.05) -> float:
    """Corollary 1 without its unknown constant: error f + sqrt(n log(K / delta)) / n, a share of positions.

    Parameters
    ----------
    error : eps_cons, the share of queries that the consolidated memory answers wrongly; with perfect memory
        of the patterns, 1 - rho.
    delta : probability with which the bound may fail.
    """
    n = config.length
    return error * config.queries + float(np.sqrt(n * np.log(config.patterns / delta)) / n)


def bounds(config: SRCDConfig, epsilon: float = 0.01) -> pd.DataFrame:
    """The bounds of a configuration as shares of positions: columns bound, share, source."""
    rows = [
        ("attention everywhere", 1.0, "dense attention"),
        ("best static routing, all answers right", static_bound(config, 0.0), "theorem 1, epsilon = 0"),
        (
            f"best static routing, {1 - epsilon:.0%} right",
            static_bound(config, epsilon),
            f"theorem 1, epsilon = {epsilon:g}",
        ),
        ("memory of every pattern", config.optimum(), "eq 13"),
    ]
    return pd.DataFrame(rows, columns=["bound", "share", "source"])


@dataclass(frozen=True)
class PhasePlane:
    """Appendix C: q' = eta_q p (1 - q), p' = eta_p (q - q_star), p clipped to [0, 1]; t in training steps.

    Attributes
    ----------
    eta_q, eta_p : rates per step.
    q_star : quality above which semantic routing grows.
    start : q and p at the first step, fitted or as observed.
    observed : q and p that were measured there.
    residual : root mean squared error of the fit, over q and p.
    explained : 1 - residual variance / variance about the mean, over q and p; may be negative.
    """

    eta_q: float
    eta_p: float
    q_star: float
    start: tuple[float, float]
    residual: float
    explained: float
    observed: tuple[float, float] = (float("nan"), float("nan"))

    def path(self, steps: Array) -> Array:
        """(2, steps) q and p from `start` at the first step."""
        return _integrate((self.eta_q, self.eta_p, self.q_star), *self.start, steps)

    def separatrix(self, points: int = 200) -> Array:
        """(points, 2) of (q, p): from below it p dies out before q reaches q_star, from above it semantic
        routing takes over.

        dp / dq = eta_p (q - q_star) / (eta_q p (1 - q)) integrates to p^2 / 2 = (eta_p / eta_q) ((1 - q_star)
        ln(1 / (1 - q)) - q) + C; the separatrix is the curve through p = 0 at q = q_star.
        """
        q = np.linspace(0, min(self.q_star, 0.999), points)
        inside = (1 - self.q_star) * -np.log1p(-q) - q
        level = 2 * self.eta_p / self.eta_q * (inside - inside[-1])
        return np.stack([q, np.sqrt(np.clip(level, 0, None))], 1)


def _integrate(parameters: tuple[float, float, float], q: float, p: float, steps: Array) -> Array:
    eta_q, eta_p, q_star = parameters

    def flow(_: float, state: Array) -> tuple[float, float]:
        q, p = state.tolist()
        push = eta_p * (q - q_star)
        # at the border only the push inwards acts
        if (p <= 0 and push < 0) or (p >= 1 and push > 0):
            push = 0.0
        return eta_q * min(max(p, 0.0), 1.0) * (1 - q), push

    # a fit integrates thousands of times, and solve_ivp takes the same steps in Python, ten times slower
    solver = ode(flow).set_integrator(
        "dopri5", rtol=1e-6, atol=1e-8, max_step=(steps[-1] - steps[0]) / 50, nsteps=100_000
    )
    solver.set_initial_value((q, p), steps[0])
    solved = np.stack([np.array([q, p]), *(solver.integrate(step) for step in steps[1:])], 1)
    return np.asarray(np.clip(solved, [[-np.inf], [0.0]], [[np.inf], [1.0]]))


def fit_phase_plane(steps: Array, q: Array, p: Array, *, from_observed: bool = False) -> PhasePlane:
    """Fit the model of appendix C to mean quality q and semantic share p over training steps, by least
    squares from several starts.

    Parameters
    ----------
    from_observed : keep the state at the first step as measured. Else it is fitted too: from p = 0 and q <
        q_star, where trained models begin, the model never leaves, so that a fitted start is two parameters
        of the description and not a fact about the run.

    Raises UserError for fewer than 8 points, or when no start converges.
    """
    if len(steps) < 8:
        raise UserError(f"the phase-plane model needs at least 8 points of a trajectory; got {len(steps)}.")
    span = float(steps[-1] - steps[0])
    observed = (float(q[0]), float(p[0]))

    def residuals(theta: Array) -> Array:
        begin = observed if from_observed else (theta[3], theta[4])
        found = _integrate((np.exp(theta[0]), np.exp(theta[1]), theta[2]), begin[0], begin[1], steps)
        return np.concatenate([found[0] - q, found[1] - p])

    best = None
    widest = np.log(1e3)
    free = 3 if from_observed else 5
    box = ([-widest - np.log(span)] * 2 + [0.0, 0.0, 0.0], [widest - np.log(span)] * 2 + [1.0, 1.0, 1.0])
    for rate_q, rate_p, star in itertools.product((1.0, 10.0), (1.0, 10.0), (0.2, 0.5)):
        start = [
            np.log(rate_q / span),
            np.log(rate_p / span),
            star,
            np.clip(q[0], 0.01, 0.99),
            np.clip(p[0], 0.1, 0.99),
        ]
        found = least_squares(residuals, start[:free], bounds=(box[0][:free], box[1][:free]))
        if found.success and (best is None or found.cost < best.cost):
            best = found
    if best is None:
        raise UserError("the phase-plane model could not be fitted: no start converged.")
    spread = np.concatenate([q - q.mean(), p - p.mean()])
    square = float(np.mean(best.fun**2))
    eta_q, eta_p, q_star = (float(v) for v in (*np.exp(best.x[:2]), best.x[2]))
    begin = observed if from_observed else (float(best.x[3]), float(best.x[4]))
    return PhasePlane(
        eta_q, eta_p, q_star, begin, square**0.5, 1 - square / float(np.mean(spread**2)), observed
    )


@dataclass(frozen=True)
class PhasePlanes:
    """The model of appendix C fitted seed by seed.

    Attributes
    ----------
    fits : one per seed, its start fitted.
    numbers : mean over seeds with Student's interval, by name: eta_q, eta_p, q_star, q_0 and p_0 (the fitted
        start), q_observed and p_observed (the measured one), explained, and explained_from_observed, of the
        same model from the measured start.
    """

    fits: tuple[PhasePlane, ...]
    numbers: dict[str, Estimate]

    @property
    def verdict(self) -> str:
        """The fit in a sentence, with the observed start beside the fitted one."""
        n = self.numbers
        return (
            f"fitted seed by seed, the model of appendix C explains {n['explained']} when it may choose its "
            "start "
            f"(q {n['q_0'].estimate:.2f}, p {n['p_0'].estimate:.2f}, mean over seeds), and "
            f"{n['explained_from_observed']} from the start that was observed "
            f"(q {n['q_observed'].estimate:.2f}, p {n['p_observed'].estimate:.2f}); q* = {n['q_star']}."
        )


def fit_phase_planes(steps: Array, q: Array, p: Array) -> PhasePlanes:
    """Fit the model of appendix C to every seed: steps (n,), q and p (seed, n). Raises UserError for fewer
    than 2 seeds, which have no interval.
    """
    if len(q) < 2:
        raise UserError(f"intervals over seeds need at least 2 seeds; got {len(q)}.")
    fits = tuple(fit_phase_plane(steps, one, other) for one, other in zip(q, p, strict=True))
    fixed = [
        fit_phase_plane(steps, one, other, from_observed=True).explained
        for one, other in zip(q, p, strict=True)
    ]
    columns = {
        "eta_q": [f.eta_q for f in fits],
        "eta_p": [f.eta_p for f in fits],
        "q_star": [f.q_star for f in fits],
        "q_0": [f.start[0] for f in fits],
        "p_0": [f.start[1] for f in fits],
        "q_observed": [f.observed[0] for f in fits],
        "p_observed": [f.observed[1] for f in fits],
        "explained": [f.explained for f in fits],
        "explained_from_observed": fixed,
    }
    edge = float(stats.t.ppf(0.5 + LEVEL / 2, len(fits) - 1)) / np.sqrt(len(fits))
    numbers = {}
    for name, values in columns.items():
        mean, reach = float(np.mean(values)), float(edge * np.std(values, ddof=1))
        numbers[name] = Estimate(mean, mean - reach, mean + reach, len(fits))
    return PhasePlanes(fits, numbers)

"""One solver for every form, error model and number of fits at once: damped Gauss-Newton
(Levenberg-Marquardt) on whole batches.

    gaussian    1/2 sum w (y - f)^2
    lognormal   1/2 sum w (ln y - ln f)^2
    binomial    -sum m (y ln f + (1 - y) ln(1 - f)),  m trials per point; Fisher scoring

Scale parameters are solved for on a logarithmic axis. Steps are clipped at the bounds of the form, and a fit
that ends at one says so.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consolidation.decay.curve import Curve, ErrorModel
from consolidation.decay.forms import Form
from labbook.console import UserError
from labbook.estimate import Array

ITERATIONS = 200
# of the objective and of the largest step, relative; below it another step changes no digit that is printed
TOLERANCE = 1e-14
STARTS = 12
# after this many iterations only the best of the starts go on, and only if the best of all has not converged
FIRST_ITERATIONS, GOING_ON = 30, 3
PROBABILITY_FLOOR = 1e-12


@dataclass(frozen=True)
class Solutions:
    """Fits of one form to a batch of data.

    Attributes
    ----------
    parameters : (batch, k).
    objective : (batch,) the minimised objective of the module's text.
    converged, at_bound : (batch,) whether steps had become negligible, and whether a parameter ended at a
        limit.
    """

    parameters: Array
    objective: Array
    converged: npt.NDArray[np.bool_]
    at_bound: npt.NDArray[np.bool_]


def check(form: Form, curve: Curve) -> None:
    """Raise UserError when a form cannot be fitted to a curve: too few points, x or y out of its domain."""
    different = len(np.unique(curve.x))
    if different < len(form.parameters) + 2:
        raise UserError(
            f"{curve.name}: {different} different x; the form {form.name} has {len(form.parameters)} "
            f"parameters and needs at least {len(form.parameters) + 2}. Give more points, or leave the form "
            "out (--forms)."
        )
    needs_log = form.name in (
        "power",
        "power_asymptote",
        "logarithmic",
        "stretched_exponential",
        "logistic",
        "broken_power",
    )
    if needs_log and (curve.x <= 0).any():
        raise UserError(
            f"{curve.name}: {int((curve.x <= 0).sum())} x are not positive; {form.name} takes the logarithm "
            "of x. Shift or cut the x axis (--window), or use shifted_power or an exponential form."
        )
    if curve.error == "lognormal" and (curve.y <= 0).any():
        raise UserError(
            f"{curve.name}: {int((curve.y <= 0).sum())} y are not positive; the log-normal error model and "
            "log-log fits take the logarithm of y. Use the gaussian or binomial error model, or cut the "
            "window."
        )


def objective(y: Array, f: Array, w: Array, error: ErrorModel) -> Array:
    """The objective of the module's text: (batch,); infinite where the form leaves the domain of the error
    model.
    """
    if error == "gaussian":
        return 0.5 * np.sum(w * (y - f) ** 2, -1)
    if error == "lognormal":
        inside = (f > 0).all(-1)
        safe = np.where(f > 0, f, 1.0)
        return np.where(inside, 0.5 * np.sum(w * (np.log(y) - np.log(safe)) ** 2, -1), np.inf)
    p = np.clip(f, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    inside = ((f > -1e-9) & (f < 1 + 1e-9)).all(-1)
    return np.where(inside, -np.sum(w * (y * np.log(p) + (1 - y) * np.log1p(-p)), -1), np.inf)


def _system(y: Array, f: Array, jacobian: Array, w: Array, error: ErrorModel) -> tuple[Array, Array]:
    """Descent direction J' W r and curvature J' W J of the objective: (batch, k), (batch, k, k)."""
    if error == "lognormal":
        safe = np.where(f > 0, f, 1.0)
        residual, weight = np.log(y) - np.log(safe), w
        jacobian = jacobian / safe[..., None]
    elif error == "binomial":
        p = np.clip(f, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        residual, weight = y - p, w / (p * (1 - p))
    else:
        residual, weight = y - f, w
    scaled = jacobian * weight[..., None]
    transposed = np.swapaxes(scaled, -1, -2)
    return (transposed @ residual[..., None])[..., 0], transposed @ jacobian


def solve(
    form: Form,
    x: Array,
    y: Array,
    w: Array,
    start: Array,
    error: ErrorModel = "gaussian",
    fixed: int | None = None,
    iterations: int = ITERATIONS,
) -> Solutions:
    """Fit `form` to every row of a batch; see `_solve`.

    Numbers that overflow belong to steps that are refused, not to results.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _solve(form, x, y, w, start, error, fixed, iterations)


def _solve(
    form: Form,
    x: Array,
    y: Array,
    w: Array,
    start: Array,
    error: ErrorModel,
    fixed: int | None,
    iterations: int,
) -> Solutions:
    """Fit `form` to every row of a batch.

    Parameters
    ----------
    x : (n,) or (batch, n); y, w : (batch, n) data and weights (trials for the binomial model).
    start : (batch, k) starting values.
    fixed : index of a parameter that stays at its start (for profiles).
    iterations : at most.
    """
    low, high = form.limits(np.atleast_1d(x))
    positive = np.array([name in form.positive for name in form.parameters])
    free = np.array([i != fixed for i in range(len(form.parameters))])
    inner = np.where(positive, np.log(np.where(positive, np.maximum(start, 1e-300), 1.0)), start)
    lower = np.where(positive, np.log(np.maximum(low, 1e-300)), low)
    upper = np.where(positive, np.log(high), high)
    inner = np.clip(inner, lower, upper)
    batch = len(inner)
    damping, converged = np.full(batch, 1e-3), np.zeros(batch, dtype=bool)

    def natural(u: Array) -> Array:
        return np.where(positive, np.exp(np.where(positive, u, 0.0)), u)

    p = natural(inner)
    loss = objective(y, form.value(x, p), w, error)
    active = np.arange(batch)
    identity = np.eye(len(form.parameters))[free][:, free]
    for _ in range(iterations):
        if not len(active):
            break
        q, rows_x = p[active], x if x.ndim == 1 else x[active]
        f, jacobian = form.value(rows_x, q), form.gradient(rows_x, q)
        jacobian = (jacobian * np.where(positive, q, 1.0)[:, None, :])[..., free]
        jacobian = np.broadcast_to(jacobian, (len(active), f.shape[-1], int(free.sum())))
        gradient, curvature = _system(y[active], f, jacobian, w[active], error)
        diagonal = np.einsum("bii->bi", curvature)
        scale = np.sqrt(np.maximum(diagonal, 1e-300))
        unit = curvature / scale[:, :, None] / scale[:, None, :]
        step = np.linalg.solve(
            unit + (damping[active, None, None] + 1e-15) * identity, (gradient / scale)[..., None]
        )[..., 0]
        trial = inner[active].copy()
        trial[:, free] = np.clip(trial[:, free] + step / scale, lower[free], upper[free])
        values = objective(y[active], form.value(rows_x, natural(trial)), w[active], error)
        better = values <= loss[active]
        moved = np.abs(trial - inner[active]) / (np.abs(inner[active]) + 1e-8)
        # nan when both are infinite: outside the domain of the error model, not a small change
        change = np.abs(values - loss[active])
        small = (moved.max(-1) < TOLERANCE**0.5) & (change <= TOLERANCE * (np.abs(loss[active]) + 1e-300))
        # what the step could win at best is below the last digit: the optimum is reached, whether or not
        # rounding let it win
        promised = 0.5 * np.sum(gradient * step / scale, -1)
        stuck = (promised <= TOLERANCE * np.abs(loss[active])) | (~better & (damping[active] > 1e12))
        chosen = active[better]
        inner[chosen], loss[chosen] = trial[better], values[better]
        p[chosen] = natural(inner[chosen])
        damping[active] = np.where(better, np.maximum(damping[active] / 10, 1e-14), damping[active] * 10)
        done = (better & small) | stuck
        converged[active[done]] = True
        active = active[~done]
    edge = 1e-7 * (np.abs(inner) + 1)
    at_bound = (
        ((inner <= lower + edge) | (inner >= upper - edge))
        & np.isfinite(np.where(inner <= lower + edge, lower, upper))
        & free
    )
    return Solutions(p, loss, converged & np.isfinite(loss), at_bound.any(-1))


def starts(form: Form, x: Array, y: Array, w: Array, error: ErrorModel) -> Array:
    """The STARTS best points of the form's grid, linear parameters solved for by least squares: (starts, k)."""
    grid = form.grid(x)
    p = np.ones((len(grid), len(form.parameters)))
    others = [i for i, name in enumerate(form.parameters) if name not in form.linear]
    p[:, others] = grid
    linear = [form.parameters.index(name) for name in form.linear]
    basis = form.gradient(x, p)[..., linear]
    root = np.sqrt(w)[:, None]
    try:
        solution = np.einsum("gkn,n->gk", np.linalg.pinv(basis * root), y * root[:, 0])
    except np.linalg.LinAlgError as failure:
        raise UserError(
            f"the data of a fit of {form.name} cannot be solved for ({failure}). Check x and y for extreme "
            "values."
        ) from failure
    p[:, linear] = solution
    if error == "binomial":
        top = np.maximum(form.value(x, p).max(-1), 1e-12)
        p[:, linear] *= np.where(top > 0.999, 0.99 / top, 1.0)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):  # a start that overflows comes last
        loss = objective(y, form.value(x, p), w, error)
    order = np.argsort(np.where(np.isfinite(loss), loss, np.inf), kind="stable")[:STARTS]
    return p[order]


def fit_best(form: Form, x: Array, y: Array, w: Array, error: ErrorModel) -> tuple[Solutions, Array]:
    """The best fit of one data set from several starts (a batch of one), and the starts: (starts, k)."""
    first = starts(form, x, y, w, error)

    def solved(start: Array, iterations: int) -> Solutions:
        n = len(start)
        return solve(form, x, np.tile(y, (n, 1)), np.tile(w, (n, 1)), start, error, iterations=iterations)

    found = solved(first, FIRST_ITERATIONS)
    order = np.argsort(np.where(np.isfinite(found.objective), found.objective, np.inf), kind="stable")
    if not found.converged[order[0]]:
        found = solved(found.parameters[order[:GOING_ON]], ITERATIONS)
        order = np.argsort(np.where(np.isfinite(found.objective), found.objective, np.inf), kind="stable")
    one = order[:1]
    return Solutions(
        found.parameters[one], found.objective[one], found.converged[one], found.at_bound[one]
    ), first

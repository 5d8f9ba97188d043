"""One solver for every form, error model and number of fits at once: damped Gauss-Newton
(Levenberg-Marquardt) on whole batches.

    gaussian    1/2 sum w (y - f)^2
    lognormal   1/2 sum w (ln y - ln f)^2
    binomial    -sum m (y ln f + (1 - y) ln(1 - f)),  m trials per point, 0 <= f <= 1; Fisher scoring

Proportions of 1 draw a binomial fit to the wall f = 1. There it goes on along the wall: steps are taken in
its tangent, and the linear parameters are scaled so that the curve still touches it.
Scale parameters are solved for on a logarithmic axis. Steps are clipped at the bounds of the form, and a fit
that ends at one says so. Fits start from the best points of a grid, and from the fits of the forms that are
special cases, so that no form fits worse than one that it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from consolidation.decay.curve import Curve, ErrorModel
from consolidation.decay.forms import FORMS, Form
from labbook.console import UserError
from labbook.estimate import Array

ITERATIONS = 200
# of the objective and of the largest step, relative; below it another step changes no digit that is printed
TOLERANCE = 1e-14
STARTS = 12
# after this many iterations only the best of the starts go on, and only if the best of all has not converged
FIRST_ITERATIONS, GOING_ON = 30, 3
# relative rounding of the objective, where residuals are small beside y
HIDDEN = 1e-12
PROBABILITY_FLOOR = 1e-12
# from here on a curve is close to the wall f = 1
AT_WALL = 0.999
# how many more different x than parameters a fit needs
MORE_POINTS = 2


@dataclass(frozen=True)
class Data:
    """A batch of data to fit: x (n,) or (batch, n); y and the weights w (trials of the binomial model), each
    (batch, n); and the error model. A point without weight counts for nothing.
    """

    x: Array
    y: Array
    w: Array
    error: ErrorModel = "gaussian"

    def repeated(self, times: int) -> "Data":
        """The only data set of this batch as a batch of `times`."""
        return replace(self, y=np.tile(self.y, (times, 1)), w=np.tile(self.w, (times, 1)))

    @classmethod
    def stacked(cls, parts: Sequence["Data"]) -> "Data":
        """Batches of one error model, with x of their own, as one; the shorter ones repeat their last point
        without weight.
        """
        longest = max(part.x.shape[-1] for part in parts)

        def padded(values: Array, rows: int, mode: Literal["edge", "constant"]) -> Array:
            short = longest - values.shape[-1]
            whole = np.broadcast_to(values, (rows, values.shape[-1]))
            return np.pad(whole, ((0, 0), (0, short)), mode=mode) if short else whole

        return cls(
            np.concatenate([padded(part.x, len(part.y), "edge") for part in parts]),
            np.concatenate([padded(part.y, len(part.y), "edge") for part in parts]),
            np.concatenate([padded(part.w, len(part.y), "constant") for part in parts]),
            parts[0].error,
        )

    def rows(self, which: npt.NDArray[np.intp]) -> "Data":
        """Some of the batch."""
        x = self.x if self.x.ndim == 1 else self.x[which]
        return replace(self, x=x, y=self.y[which], w=self.w[which])


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

    def rows(self, which: npt.NDArray[np.intp]) -> "Solutions":
        """Some of the batch."""
        return Solutions(
            self.parameters[which], self.objective[which], self.converged[which], self.at_bound[which]
        )

    def replaced(self, which: npt.NDArray[np.intp], others: "Solutions") -> "Solutions":
        """The batch with some of its rows replaced by others."""
        place = np.arange(len(self.objective))
        place[which] = len(place) + np.arange(len(which))
        both = Solutions(
            np.concatenate([self.parameters, others.parameters]),
            np.concatenate([self.objective, others.objective]),
            np.concatenate([self.converged, others.converged]),
            np.concatenate([self.at_bound, others.at_bound]),
        )
        return both.rows(place)


def check(form: Form, curve: Curve) -> None:
    """Raise UserError when a form cannot be fitted to a curve: too few points, x or y out of its domain."""
    different = len(np.unique(curve.x))
    if different < len(form.parameters) + MORE_POINTS:
        raise UserError(
            f"{curve.name}: {different} different x; the form {form.name} has {len(form.parameters)} "
            f"parameters and needs at least {len(form.parameters) + MORE_POINTS}. Give more points, or leave "
            "the form out (--forms)."
        )
    if form.positive_x and (curve.x <= 0).any():
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


def objective(data: Data, f: Array) -> Array:
    """The objective of the module's text: (batch,); infinite where the form leaves the domain of the error
    model.
    """
    y, w = data.y, data.w
    if data.error == "gaussian":
        return 0.5 * np.sum(w * (y - f) ** 2, -1)
    if data.error == "lognormal":
        inside = (f > 0).all(-1)
        safe = np.where(f > 0, f, 1.0)
        return np.where(inside, 0.5 * np.sum(w * (np.log(y) - np.log(safe)) ** 2, -1), np.inf)
    p = np.clip(f, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    inside = ((f > -1e-9) & (f < 1 + 1e-9)).all(-1)
    return np.where(inside, -np.sum(w * (y * np.log(p) + (1 - y) * np.log1p(-p)), -1), np.inf)


def _system(data: Data, f: Array, jacobian: Array) -> tuple[Array, Array]:
    """Descent direction J' W r and curvature J' W J of the objective: (batch, k), (batch, k, k)."""
    y, w = data.y, data.w
    if data.error == "lognormal":
        safe = np.where(f > 0, f, 1.0)
        pull, weight = w * (np.log(y) - np.log(safe)), w
        jacobian = jacobian / safe[..., None]
    elif data.error == "binomial":
        p = np.clip(f, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        weight = w / (p * (1 - p))
        pull = weight * (y - p)
        # where all trials had one outcome the expected information has no bound as f comes to say so, and the
        # observed one has
        weight = np.where(y == 1, w / p**2, np.where(y == 0, w / (1 - p) ** 2, weight))
    else:
        pull, weight = w * (y - f), w
    transposed = np.swapaxes(jacobian, -1, -2)
    return (transposed @ pull[..., None])[..., 0], (transposed * weight[..., None, :]) @ jacobian


class _Axes:
    """The parameters of a form as the solver moves them: scales on a logarithmic axis, all between bounds."""

    def __init__(self, form: Form, x: Array):
        """`x` (n,) has bounds (k,), `x` (batch, n) has bounds (batch, k)."""
        low, high = form.limits(np.atleast_1d(x))
        self.positive = np.array([name in form.positive for name in form.parameters])
        self.lower = np.where(self.positive, np.log(np.maximum(low, 1e-300)), low)
        self.upper = np.where(self.positive, np.log(high), high)

    def rows(self, which: npt.NDArray[np.intp]) -> tuple[Array, Array]:
        """The bounds of some of the batch."""
        if self.lower.ndim == 1:
            return self.lower, self.upper
        return self.lower[which], self.upper[which]

    def inner(self, p: Array) -> Array:
        """Where parameters lie on these axes, clipped at the bounds."""
        u = np.where(self.positive, np.log(np.where(self.positive, np.maximum(p, 1e-300), 1.0)), p)
        return np.clip(u, self.lower, self.upper)

    def natural(self, u: Array) -> Array:
        """The parameters at a place on these axes."""
        return np.where(self.positive, np.exp(np.where(self.positive, u, 0.0)), u)

    def at_bound(self, u: Array) -> npt.NDArray[np.bool_]:
        """Which parameters lie at a finite bound."""
        edge = 1e-7 * (np.abs(u) + 1)
        below = u <= self.lower + edge
        return (below | (u >= self.upper - edge)) & np.isfinite(np.where(below, self.lower, self.upper))


def solve(
    form: Form, data: Data, start: Array, fixed: int | None = None, iterations: int = ITERATIONS
) -> Solutions:
    """Fit `form` to every row of a batch.

    Parameters
    ----------
    start : (batch, k) starting values.
    fixed : index of a parameter that stays at its start (for profiles).
    iterations : at most.
    """
    # numbers that overflow belong to steps that are refused, not to results
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _descend(form, data, start, fixed, iterations)


def _descend(form: Form, data: Data, start: Array, fixed: int | None, iterations: int) -> Solutions:
    """The iterations of `solve`; rows that are done leave the batch."""
    axes = _Axes(form, data.x)
    free = np.array([i != fixed for i in range(len(form.parameters))])
    wall = data.error == "binomial" and (fixed is None or form.parameters[fixed] not in form.linear)
    inner = axes.inner(start)
    if wall:
        nowhere = np.zeros(len(inner), dtype=bool)
        inner = _at_wall(form, data, axes, inner, nowhere, axes.rows(np.arange(len(inner))))
    p = axes.natural(inner)
    loss = objective(data, form.value(data.x, p))
    damping, converged = np.full(len(inner), 1e-3), np.zeros(len(inner), dtype=bool)
    active = np.arange(len(inner))
    for _ in range(iterations):
        if not len(active):
            break
        rows = data.rows(active)
        lower, upper = axes.rows(active)
        stays = (inner[active] <= lower, inner[active] >= upper)
        gradient, scale, step, leaves = _step(
            form, rows, p[active], axes.positive, free, stays, damping[active]
        )
        trial = inner[active].copy()
        trial[:, free] = np.clip(trial[:, free] + step / scale, lower[..., free], upper[..., free])
        if wall:
            trial = _at_wall(form, rows, axes, trial, leaves, (lower, upper))
        values = objective(rows, form.value(rows.x, axes.natural(trial)))
        size = np.abs(loss[active])
        moved = np.abs(trial - inner[active]) / (np.abs(inner[active]) + 1e-8)
        # nan when both are infinite: outside the domain of the error model, not a small change
        change = np.abs(values - loss[active])
        promised = 0.5 * np.sum(gradient * step / scale, -1)
        # close to the optimum the objective's rounding hides whether a step wins; the gradient still knows
        better = (values <= loss[active]) | ((promised <= HIDDEN * size) & (change <= HIDDEN * size))
        small = (moved.max(-1) < TOLERANCE**0.5) & (change <= TOLERANCE * (size + 1e-300))
        # what the step could win at best is below the last digit: the optimum is reached, whether or not
        # rounding let it win
        stuck = (promised <= TOLERANCE * size) | (~better & (damping[active] > 1e12))
        chosen = active[better]
        inner[chosen], loss[chosen] = trial[better], values[better]
        p[chosen] = axes.natural(inner[chosen])
        damping[active] = np.where(better, np.maximum(damping[active] / 10, 1e-14), damping[active] * 10)
        done = (better & small) | stuck
        converged[active[done]] = True
        active = active[~done]
    return Solutions(p, loss, converged & np.isfinite(loss), (axes.at_bound(inner) & free).any(-1))


def _step(
    form: Form,
    rows: Data,
    p: Array,
    positive: npt.NDArray[np.bool_],
    free: npt.NDArray[np.bool_],
    at: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
    damping: Array,
) -> tuple[Array, Array, Array, npt.NDArray[np.bool_]]:
    """Gradient, the scale of every free parameter, and the damped step in units of the scales: (batch, k)
    each; and which rows go along the wall: (batch,). A parameter `at` its lower or upper bound that would
    leave it stays, and the others move without it.
    """
    f = form.value(rows.x, p)
    jacobian = (form.gradient(rows.x, p) * np.where(positive, p, 1.0)[:, None, :])[..., free]
    jacobian = np.broadcast_to(jacobian, (len(p), f.shape[-1], int(free.sum())))
    gradient, curvature = _system(rows, f, jacobian)
    moves = ~((at[0][:, free] & (gradient < 0)) | (at[1][:, free] & (gradient > 0)))
    gradient = np.where(moves, gradient, 0.0)
    curvature = curvature * (moves[:, :, None] & moves[:, None, :])
    scale = np.sqrt(np.maximum(np.einsum("bii->bi", curvature), 1e-300))
    unit = curvature / scale[:, :, None] / scale[:, None, :]
    damped = unit + (damping[:, None, None] + 1e-15) * np.eye(unit.shape[-1])
    step = np.linalg.solve(damped, (gradient / scale)[..., None])[..., 0]
    if rows.error != "binomial":
        return gradient, scale, step, np.zeros(len(p), dtype=bool)
    jacobian = np.where(moves[:, None, :], jacobian, 0.0) / scale[:, None, :]
    return gradient, scale, *_along_wall(f, jacobian, damped, gradient / scale, step)


def _along_wall(
    f: Array, jacobian: Array, damped: Array, gradient: Array, step: Array
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Steps, all in units of the scales, in the tangent of the wall f = 1 where they would go through it from
    close by; and where that is.
    """
    rows, top = np.arange(len(f)), f.argmax(-1)
    normal = jacobian[rows, top]
    length = np.linalg.norm(normal, axis=-1)
    leaves = (f[rows, top] > AT_WALL) & (length > 0) & ((normal * step).sum(-1) > 0)
    normal = normal[leaves] / length[leaves, None]
    across = normal[:, :, None] * normal[:, None, :]
    tangent = np.eye(normal.shape[-1]) - across
    inside = tangent @ damped[leaves] @ tangent + across
    step[leaves] = np.linalg.solve(inside, tangent @ gradient[leaves][..., None])[..., 0]
    return step, leaves


def _at_wall(
    form: Form,
    rows: Data,
    axes: "_Axes",
    trial: Array,
    leaves: npt.NDArray[np.bool_],
    bounds: tuple[Array, Array],
) -> Array:
    """Places of a binomial fit, with the linear parameters scaled so that the curve touches 1 where it is
    above or would leave.
    """
    top = form.value(rows.x, axes.natural(trial)).max(-1)
    scaled = (top > 1) | (leaves & (top > 0))
    place = trial.copy()
    for i in (form.parameters.index(name) for name in form.linear):
        if axes.positive[i]:
            place[scaled, i] -= np.log(top[scaled])
        else:
            place[scaled, i] /= top[scaled]
    return np.clip(place, *bounds)


def starts(form: Form, data: Data) -> Array:
    """The STARTS best points of the form's grid for every row of data that share x (n,) and their weights,
    linear parameters solved for by least squares: (batch, starts, k).
    """
    x, y, w = data.x, data.y, data.w[0]
    grid = form.grid(x)
    p = np.ones((len(y), len(grid), len(form.parameters)))
    others = [i for i, name in enumerate(form.parameters) if name not in form.linear]
    p[..., others] = grid
    linear = [form.parameters.index(name) for name in form.linear]
    basis = form.gradient(x, p[0])[..., linear]
    root = np.sqrt(w)[:, None]
    try:
        solution = np.einsum("gkn,bn->bgk", np.linalg.pinv(basis * root), y * root[:, 0])
    except np.linalg.LinAlgError as failure:
        raise UserError(
            f"the data of a fit of {form.name} cannot be solved for ({failure}). Check x and y for extreme "
            "values."
        ) from failure
    p[..., linear] = solution
    if data.error == "binomial":
        top = np.maximum(form.value(x, p).max(-1), 1e-12)
        p[..., linear] *= np.where(top > 0.999, 0.99 / top, 1.0)[..., None]
    one_each = replace(data, y=y[:, None], w=data.w[:, None])
    with np.errstate(over="ignore", invalid="ignore"):  # a start that overflows comes last
        loss = objective(one_each, form.value(x, p))
    return np.take_along_axis(p, _ranked(loss)[:, :STARTS, None], 1)


def _ranked(loss: Array) -> npt.NDArray[np.intp]:
    """The order of every row of objectives, the smallest first and those that do not exist last."""
    return np.argsort(np.where(np.isfinite(loss), loss, np.inf), axis=-1, kind="stable")


def fit_best(form: Form, data: Data) -> tuple[Solutions, Array]:
    """The best fit of every row of data that share x (n,) and their weights, from several starts; and those
    starts that are of the grid: (batch, starts, k).
    """
    return fit_stack(form, [data])


def fit_stack(form: Form, parts: Sequence[Data]) -> tuple[Solutions, Array]:
    """`fit_best` of several such batches of one error model, solved at once; x and weights may differ."""
    whole = parts[0] if len(parts) == 1 else Data.stacked(parts)
    first: dict[str, Array] = {}
    return _fit_stack(form, parts, whole, {}, first), first[form.name]


def _fit_stack(
    form: Form, parts: Sequence[Data], whole: Data, known: dict[str, Solutions], first: dict[str, Array]
) -> Solutions:
    """The best fits of a form, after those of its special cases; both are kept in `known`, the starts of the
    grid in `first`.
    """
    if form.name in known:
        return known[form.name]
    first[form.name] = np.concatenate([starts(form, part) for part in parts])
    first_of_all = [first[form.name]]
    for name, embedded in form.holds.items():
        case = FORMS[name]
        if not (case.positive_x and (whole.x <= 0).any()):
            inner = _fit_stack(case, parts, whole, known, first).parameters
            with np.errstate(over="ignore", invalid="ignore"):
                first_of_all.append(embedded(whole.x, inner)[:, None])
    known[form.name] = _from_starts(form, whole, np.concatenate(first_of_all, 1))
    return known[form.name]


def _from_starts(form: Form, whole: Data, first: Array) -> Solutions:
    """The best fit of every row from its starts (batch, starts, k)."""
    batch, several, k = first.shape

    def solved(rows: npt.NDArray[np.intp], start: Array, iterations: int) -> Solutions:
        data = whole.rows(np.repeat(rows, start.shape[1]))
        return solve(form, data, start.reshape(-1, k), iterations=iterations)

    def best(found: Solutions, of: int) -> npt.NDArray[np.intp]:
        order = _ranked(found.objective.reshape(-1, of))
        return np.arange(len(order))[:, None] * of + order

    found = solved(np.arange(batch), first, FIRST_ITERATIONS)
    order = best(found, several)
    chosen = found.rows(order[:, 0])
    left = np.flatnonzero(~chosen.converged)
    if len(left):
        going = min(GOING_ON, several)
        again = found.parameters[order[left, :going]]
        found = solved(left, again, ITERATIONS)
        chosen = chosen.replaced(left, found.rows(best(found, going)[:, 0]))
    return chosen

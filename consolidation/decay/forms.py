"""Forms of decay, and the curves they are fitted to.

A form is y = f(x; parameters) with its analytic gradient. Scales (tau, rate, midpoint, break) are positive;
the solver works on their logarithms. `linear` parameters enter linearly, so good starts need a grid over the
others only.

A curve carries its clock: what x counts, in which unit. Exponents on different clocks are different
quantities; `Clock.require_same` refuses to compare them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from labbook.console import UserError
from labbook.estimate import Array

Values = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Form:
    """One way in which a curve may fall.

    Attributes
    ----------
    name, formula, source : as they are printed.
    parameters : names; `exponent` is the one that is compared between curves, if the form has one.
    units : of the parameters: `y` and `x` stand for the units of the axes.
    value : (x (..., n), p (..., k)) -> (..., n).
    gradient : (x (..., n), p (..., k)) -> (..., n, k), analytic.
    linear : parameters that enter linearly.
    positive : scale parameters.
    grid : x -> candidate values (g, number of non-linear parameters) from which fits start.
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    units: tuple[str, ...]
    value: Values = field(repr=False)
    gradient: Values = field(repr=False)
    linear: tuple[str, ...]
    source: str
    grid: Callable[[Array], Array] = field(repr=False)
    positive: tuple[str, ...] = ()
    exponent: str | None = None

    def limits(self, x: Array) -> tuple[Array, Array]:
        """Lower and upper bound of every parameter: scales from 1e-6 of the smallest positive x to 1e6 of the
        largest.
        """
        smallest, largest = float(x[x > 0].min()), float(x.max())
        low, high = np.full(len(self.parameters), -np.inf), np.full(len(self.parameters), np.inf)
        for i, name in enumerate(self.parameters):
            if name in ("tau", "tau_1", "tau_2", "x_0", "x_b"):
                low[i], high[i] = 1e-6 * smallest, 1e6 * largest
            elif name in LIMITS:
                low[i], high[i] = LIMITS[name]
        return low, high


# shape parameters: beyond these a curve is a step or a constant for any data
LIMITS = {
    "gamma": (-50.0, 50.0),
    "gamma_1": (-50.0, 50.0),
    "gamma_2": (-50.0, 50.0),
    "beta": (0.01, 20.0),
    "s": (-50.0, 50.0),
}


def _columns(p: Array) -> list[Array]:
    """Parameters as arrays that broadcast against x."""
    return [p[..., i, None] for i in range(p.shape[-1])]


def _stack(*parts: Array) -> Array:
    return np.stack(np.broadcast_arrays(*parts), -1)


def _exp(t: Array) -> Array:
    """exp without overflow; the clipped values are far outside every bound's reach."""
    return np.exp(np.clip(t, -700, 700))


def _power(x: Array, p: Array) -> Array:
    a, g = _columns(p)
    return a * _exp(-g * np.log(x))


def _power_gradient(x: Array, p: Array) -> Array:
    a, g = _columns(p)
    h = _exp(-g * np.log(x))
    return _stack(h, -a * h * np.log(x))


def _power_asymptote(x: Array, p: Array) -> Array:
    return p[..., 2, None] + _power(x, p[..., :2])


def _power_asymptote_gradient(x: Array, p: Array) -> Array:
    inner = _power_gradient(x, p[..., :2])
    return np.concatenate([inner, np.ones_like(inner[..., :1])], -1)


def _shifted(x: Array, p: Array) -> Array:
    a, g, tau = _columns(p)
    return a * _exp(-g * np.log1p(x / tau))


def _shifted_gradient(x: Array, p: Array) -> Array:
    a, g, tau = _columns(p)
    h = _exp(-g * np.log1p(x / tau))
    return _stack(h, -a * h * np.log1p(x / tau), a * g * h * x / (tau * (tau + x)))


def _exponential(x: Array, p: Array) -> Array:
    a, tau = _columns(p)
    return a * _exp(-x / tau)


def _exponential_gradient(x: Array, p: Array) -> Array:
    a, tau = _columns(p)
    h = _exp(-x / tau)
    return _stack(h, a * h * x / tau**2)


def _exponential_asymptote(x: Array, p: Array) -> Array:
    return p[..., 2, None] + _exponential(x, p[..., :2])


def _exponential_asymptote_gradient(x: Array, p: Array) -> Array:
    inner = _exponential_gradient(x, p[..., :2])
    return np.concatenate([inner, np.ones_like(inner[..., :1])], -1)


def _stretched(x: Array, p: Array) -> Array:
    a, tau, beta = _columns(p)
    return a * _exp(-_exp(beta * np.log(x / tau)))


def _stretched_gradient(x: Array, p: Array) -> Array:
    a, tau, beta = _columns(p)
    ratio = np.log(x / tau)
    inner = _exp(beta * ratio)
    h = _exp(-inner)
    slope = np.where(inner < 700, a * h * inner, 0)
    return _stack(h, slope * beta / tau, -slope * ratio)


def _logarithmic(x: Array, p: Array) -> Array:
    a, b = _columns(p)
    return a - b * np.log(x)


def _logarithmic_gradient(x: Array, p: Array) -> Array:
    a, _ = _columns(p)
    return _stack(np.ones_like(a * x), -np.log(x) * np.ones_like(a))


def _hyperbolic(x: Array, p: Array) -> Array:
    a, tau = _columns(p)
    return a / (1 + x / tau)


def _hyperbolic_gradient(x: Array, p: Array) -> Array:
    a, tau = _columns(p)
    h = 1 / (1 + x / tau)
    return _stack(h, a * h**2 * x / tau**2)


def _double(x: Array, p: Array) -> Array:
    return _exponential(x, p[..., :2]) + _exponential(x, p[..., 2:])


def _double_gradient(x: Array, p: Array) -> Array:
    return np.concatenate([_exponential_gradient(x, p[..., :2]), _exponential_gradient(x, p[..., 2:])], -1)


def _logistic(x: Array, p: Array) -> Array:
    a, x0, s = _columns(p)
    return a / (1 + _exp(s * np.log(x / x0)))


def _logistic_gradient(x: Array, p: Array) -> Array:
    a, x0, s = _columns(p)
    ratio = np.log(x / x0)
    h = 1 / (1 + _exp(s * ratio))
    slope = a * h * (1 - h)
    return _stack(h, slope * s / x0, -slope * ratio)


def _broken(x: Array, p: Array) -> Array:
    a, g1, g2, xb = _columns(p)
    ratio = np.log(x / xb)
    return a * _exp(-np.where(ratio <= 0, g1, g2) * ratio)


def _broken_gradient(x: Array, p: Array) -> Array:
    a, g1, g2, xb = _columns(p)
    ratio = np.log(x / xb)
    before = ratio <= 0
    g = np.where(before, g1, g2)
    h = _exp(-g * ratio)
    return _stack(h, np.where(before, -a * h * ratio, 0), np.where(before, 0, -a * h * ratio), a * h * g / xb)


def _constant(x: Array, p: Array) -> Array:
    return p[..., 0, None] * np.ones_like(x)


def _constant_gradient(x: Array, p: Array) -> Array:
    return np.ones((*np.broadcast_shapes(p.shape[:-1], x.shape[:-1]), x.shape[-1], 1))


def _scales(x: Array, n: int = 13) -> Array:
    """Logarithmic grid over and around the range of x."""
    positive = x[x > 0]
    return np.geomspace(positive.min() / 10, positive.max() * 10, n)


def _product(*axes: Array) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


EXPONENTS = np.array([-4.0, -1.0, -0.3, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0])
FORMS = {
    form.name: form
    for form in (
        Form(
            "power",
            "a x^-gamma",
            ("a", "gamma"),
            ("y", "1"),
            _power,
            _power_gradient,
            ("a",),
            "Newell & Rosenbloom 1981; Wixted & Ebbesen 1991",
            lambda x: EXPONENTS[:, None],
            exponent="gamma",
        ),
        Form(
            "power_asymptote",
            "c + a x^-gamma",
            ("a", "gamma", "c"),
            ("y", "1", "y"),
            _power_asymptote,
            _power_asymptote_gradient,
            ("a", "c"),
            "Newell & Rosenbloom 1981",
            lambda x: EXPONENTS[:, None],
            exponent="gamma",
        ),
        Form(
            "shifted_power",
            "a (1 + x / tau)^-gamma",
            ("a", "gamma", "tau"),
            ("y", "1", "x"),
            _shifted,
            _shifted_gradient,
            ("a",),
            "Wickelgren 1974; Pareto II (Lomax 1954)",
            lambda x: _product(EXPONENTS, _scales(x)),
            ("tau",),
            "gamma",
        ),
        Form(
            "exponential",
            "a exp(-x / tau)",
            ("a", "tau"),
            ("y", "x"),
            _exponential,
            _exponential_gradient,
            ("a",),
            "Heathcote, Brown & Mewhort 2000",
            lambda x: _scales(x)[:, None],
            ("tau",),
        ),
        Form(
            "exponential_asymptote",
            "c + a exp(-x / tau)",
            ("a", "tau", "c"),
            ("y", "x", "y"),
            _exponential_asymptote,
            _exponential_asymptote_gradient,
            ("a", "c"),
            "Heathcote, Brown & Mewhort 2000",
            lambda x: _scales(x)[:, None],
            ("tau",),
        ),
        Form(
            "stretched_exponential",
            "a exp(-(x / tau)^beta)",
            ("a", "tau", "beta"),
            ("y", "x", "1"),
            _stretched,
            _stretched_gradient,
            ("a",),
            "Kohlrausch 1854; Rubin & Wenzel 1996",
            lambda x: _product(_scales(x), np.array([0.1, 0.25, 0.5, 1.0, 2.0])),
            ("tau", "beta"),
        ),
        Form(
            "logarithmic",
            "a - b ln x",
            ("a", "b"),
            ("y", "y"),
            _logarithmic,
            _logarithmic_gradient,
            ("a", "b"),
            "Woodworth 1938; Rubin & Wenzel 1996",
            lambda x: np.zeros((1, 0)),
        ),
        Form(
            "hyperbolic",
            "a / (1 + x / tau)",
            ("a", "tau"),
            ("y", "x"),
            _hyperbolic,
            _hyperbolic_gradient,
            ("a",),
            "Mazur & Hastie 1978",
            lambda x: _scales(x)[:, None],
            ("tau",),
        ),
        Form(
            "double_exponential",
            "a_1 exp(-x / tau_1) + a_2 exp(-x / tau_2)",
            ("a_1", "tau_1", "a_2", "tau_2"),
            ("y", "x", "y", "x"),
            _double,
            _double_gradient,
            ("a_1", "a_2"),
            "Rubin, Hinton & Wenzel 1999",
            lambda x: np.array([(s, t) for s in _scales(x) for t in _scales(x) if s < t]),
            ("tau_1", "tau_2"),
        ),
        Form(
            "logistic",
            "a / (1 + (x / x_0)^s)",
            ("a", "x_0", "s"),
            ("y", "x", "1"),
            _logistic,
            _logistic_gradient,
            ("a",),
            "logistic in ln x",
            lambda x: _product(_scales(x), np.array([0.5, 1.0, 2.0, 5.0, 10.0])),
            ("x_0",),
        ),
        Form(
            "broken_power",
            "a (x / x_b)^-gamma_1 up to x_b, a (x / x_b)^-gamma_2 beyond",
            ("a", "gamma_1", "gamma_2", "x_b"),
            ("y", "1", "1", "x"),
            _broken,
            _broken_gradient,
            ("a",),
            "Donner & Hardy 2015",
            lambda x: _product(EXPONENTS[3:10:2], EXPONENTS[3:10:2], _scales(x)[3:-3]),
            ("x_b",),
        ),
        Form(
            "constant",
            "a",
            ("a",),
            ("y",),
            _constant,
            _constant_gradient,
            ("a",),
            "the null model",
            lambda x: np.zeros((1, 0)),
        ),
    )
}


def form(name: str) -> Form:
    """The form of that name. Raises UserError naming those there are."""
    if name not in FORMS:
        raise UserError(f"there is no form {name!r}; there are {', '.join(FORMS)}. Change --forms.")
    return FORMS[name]

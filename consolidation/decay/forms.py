"""Forms of decay: everything that is known of each stands in its entry of `FORMS`, and nowhere else.

A form is y = f(x; parameters) with its analytic gradient. A new one is a value, a gradient and one entry;
fits, comparison, multiverse, simulated coverage, figures and the table of the documentation follow from it.
A form `holds` those that it becomes for some of its parameters; its fits start from theirs too, so that it
never fits worse.
Scales are solved for on a logarithmic axis, and linear parameters by least squares, so that good starts need
a grid over the others only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from consolidation.decay import functions as f
from labbook.console import UserError
from labbook.estimate import Array


@dataclass(frozen=True)
class Parameter:
    """One parameter of a form.

    Attributes
    ----------
    unit : `y` and `x` stand for the units of the axes.
    planted : its value in simulations, where x goes from 1 to 100 and y stays between .05 and .95.
    linear : y is linear in it.
    positive : it is solved for on a logarithmic axis.
    limits : beyond these the curve is a step or a constant for any data; None for a scale on the axis of x,
        whose limits are those of `functions.scales`.
    """

    name: str
    unit: Literal["y", "x", "1"]
    planted: float
    linear: bool = False
    positive: bool = False
    limits: tuple[float, float] | None = (-np.inf, np.inf)


@dataclass(frozen=True)
class Form:
    """One way in which a curve may fall.

    Attributes
    ----------
    name, formula, latex, source : as they are printed.
    arguments : the parameters, in the order of `value` and `gradient`.
    checked : the parameter whose interval is checked in simulations.
    value : (x (..., n), p (..., k)) -> (..., n).
    gradient : (x (..., n), p (..., k)) -> (..., n, k), analytic.
    grid : x -> candidate values (g, number of non-linear parameters) from which fits start; g is the same for
        every x.
    asymptote : the parameter to which y tends for large x, if the form has one.
    endless : the parameter that y falls without end by where it is above 0, and rises where it is below, if
        the form has one.
    exponent : the parameter that is compared between curves, if the form has one.
    power_law : it is a power law, or one with more parameters.
    holds : its special cases by name, each with the function from x and the parameters of the case to its
        own; those that a case holds itself need not be named again.
    nested_with : limiting cases that its bounds leave out, and forms that hold it without saying so.
    positive_x : it takes the logarithm of x.
    null : it is the null model.
    """

    name: str
    formula: str
    latex: str
    arguments: tuple[Parameter, ...]
    checked: str
    value: f.Values = field(repr=False)
    gradient: f.Values = field(repr=False)
    grid: Callable[[Array], Array] = field(repr=False)
    source: str
    exponent: str | None = None
    asymptote: str | None = None
    endless: str | None = None
    power_law: bool = False
    holds: dict[str, f.Values] = field(default_factory=dict, repr=False)
    nested_with: tuple[str, ...] = ()
    positive_x: bool = False
    null: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(p.name for p in self.arguments)

    @property
    def linear(self) -> tuple[str, ...]:
        """Names of the parameters that enter linearly."""
        return tuple(p.name for p in self.arguments if p.linear)

    @property
    def positive(self) -> tuple[str, ...]:
        """Names of the parameters on a logarithmic axis."""
        return tuple(p.name for p in self.arguments if p.positive)

    @property
    def planted(self) -> Array:
        """Parameters of simulations: (k,)."""
        return np.array([p.planted for p in self.arguments])

    def limits(self, x: Array) -> tuple[Array, Array]:
        """Lower and upper bound of every parameter for data at x (..., n): (..., k) each."""
        scale = f.scales(x)

        def bounds(side: int) -> Array:
            sides = [scale[side] if p.limits is None else p.limits[side] for p in self.arguments]
            return np.stack(np.broadcast_arrays(*sides, scale[side])[:-1], -1)

        return bounds(0), bounds(1)

    def tends_to(self, p: Array) -> float:
        """Where y goes for large x with parameters p (k,); nan for a form that has neither an asymptote nor
        a fall without end among its parameters.
        """
        values = dict(zip(self.parameters, map(float, p), strict=True))
        if self.endless is not None and values[self.endless] != 0:
            return -float(np.copysign(np.inf, values[self.endless]))
        if self.asymptote is None:
            return float("nan")
        if self.exponent is not None and values[self.exponent] < 0:
            return float(np.copysign(np.inf, values[self.linear[0]]))
        return values[self.asymptote]

    def nested(self, other: "Form") -> bool:
        """Whether one is a special case of the other: a likelihood-ratio test and not Vuong's applies."""
        pairs = ((self, other), (other, self))
        return any(a.null or b.name in (*a.cases, *a.nested_with) for a, b in pairs)

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of all forms that it holds, those that they hold included."""
        inner = [name for held in self.holds for name in FORMS[held].cases]
        return tuple(dict.fromkeys((*self.holds, *inner)))


def _level(name: str, planted: float) -> Parameter:
    return Parameter(name, "y", planted, linear=True)


def _scale(name: str, planted: float) -> Parameter:
    return Parameter(name, "x", planted, positive=True, limits=None)


def _shape(name: str, planted: float) -> Parameter:
    return Parameter(name, "1", planted, limits=(-50.0, 50.0))


def _scales(x: Array, n: int = 13) -> Array:
    """Logarithmic grid over and around the range of x."""
    positive = x[x > 0]
    return np.geomspace(positive.min() / 10, positive.max() * 10, n)


def _offsets(x: Array) -> Array:
    """Scales of 1 + x / tau, also those so small that only the power law of x is left."""
    return np.append(_scales(x), x[x > 0].min() * np.array([1e-5, 1e-3]))


def _product(*axes: Array) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


EXPONENTS = np.array([-4.0, -1.0, -0.3, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0])
APEX_EXPONENTS = np.array([-0.5, 0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5])
FORMS = {
    form.name: form
    for form in (
        Form(
            name="power",
            formula="a x^-gamma",
            latex=r"a\,x^{-\gamma}",
            arguments=(_level("a", 0.9), _shape("gamma", 0.4)),
            checked="gamma",
            value=f.power,
            gradient=f.power_gradient,
            grid=lambda x: EXPONENTS[:, None],
            source="Newell & Rosenbloom 1981; Wixted & Ebbesen 1991",
            exponent="gamma",
            power_law=True,
            holds={"constant": f.and_nothing},
            positive_x=True,
        ),
        Form(
            name="power_asymptote",
            formula="c + a x^-gamma",
            latex=r"c + a\,x^{-\gamma}",
            arguments=(_level("a", 0.75), _shape("gamma", 0.6), _level("c", 0.15)),
            checked="gamma",
            value=f.with_asymptote(f.power),
            gradient=f.with_asymptote_gradient(f.power_gradient),
            grid=lambda x: EXPONENTS[:, None],
            source="Newell & Rosenbloom 1981",
            exponent="gamma",
            asymptote="c",
            power_law=True,
            holds={"power": f.and_nothing},
            positive_x=True,
        ),
        Form(
            name="shifted_power",
            formula="a (1 + x / tau)^-gamma",
            latex=r"a\,(1 + x / \tau)^{-\gamma}",
            arguments=(_level("a", 0.9), _shape("gamma", 0.8), _scale("tau", 4.0)),
            checked="gamma",
            value=f.shifted,
            gradient=f.shifted_gradient,
            grid=lambda x: _product(EXPONENTS, _offsets(x)),
            source="Wickelgren 1974; Pareto II (Lomax 1954)",
            exponent="gamma",
            power_law=True,
            holds={"power": f.without_offset, "hyperbolic": f.of_one},
        ),
        Form(
            name="general_power",
            formula="c + a (1 + x / tau)^-gamma",
            latex=r"c + a\,(1 + x / \tau)^{-\gamma}",
            arguments=(_level("a", 0.75), _shape("gamma", 0.9), _scale("tau", 3.0), _level("c", 0.15)),
            checked="gamma",
            value=f.with_asymptote(f.shifted),
            gradient=f.with_asymptote_gradient(f.shifted_gradient),
            grid=lambda x: _product(EXPONENTS, _offsets(x)),
            source="Newell & Rosenbloom 1981, A + B (N + E)^-alpha with E = tau, B = a tau^gamma",
            exponent="gamma",
            asymptote="c",
            power_law=True,
            holds={"shifted_power": f.and_nothing, "power_asymptote": f.without_offset},
            nested_with=("exponential", "exponential_asymptote"),
        ),
        Form(
            name="apex",
            formula="c + a x^-gamma exp(-x / tau)",
            latex=r"c + a\,x^{-\gamma} e^{-x / \tau}",
            arguments=(_level("a", 0.75), _shape("gamma", 0.2), _scale("tau", 40.0), _level("c", 0.1)),
            checked="gamma",
            value=f.with_asymptote(f.apex),
            gradient=f.with_asymptote_gradient(f.apex_gradient),
            grid=lambda x: _product(APEX_EXPONENTS, np.append(_scales(x), 1e4 * x.max())),
            source="Heathcote, Brown & Mewhort 2000",
            asymptote="c",
            holds={"power_asymptote": f.apex_power, "exponential_asymptote": f.apex_exponential},
            positive_x=True,
        ),
        Form(
            name="exponential",
            formula="a exp(-x / tau)",
            latex=r"a\,e^{-x / \tau}",
            arguments=(_level("a", 0.9), _scale("tau", 40.0)),
            checked="tau",
            value=f.exponential,
            gradient=f.exponential_gradient,
            grid=lambda x: _scales(x)[:, None],
            source="Heathcote, Brown & Mewhort 2000",
            holds={"constant": f.never_falling},
        ),
        Form(
            name="exponential_asymptote",
            formula="c + a exp(-x / tau)",
            latex=r"c + a\,e^{-x / \tau}",
            arguments=(_level("a", 0.75), _scale("tau", 15.0), _level("c", 0.15)),
            checked="tau",
            value=f.with_asymptote(f.exponential),
            gradient=f.with_asymptote_gradient(f.exponential_gradient),
            grid=lambda x: _scales(x)[:, None],
            source="Heathcote, Brown & Mewhort 2000",
            asymptote="c",
            holds={"exponential": f.and_nothing},
        ),
        Form(
            name="stretched_exponential",
            formula="a exp(-(x / tau)^beta)",
            latex=r"a\,e^{-(x / \tau)^\beta}",
            arguments=(
                _level("a", 0.9),
                _scale("tau", 20.0),
                Parameter("beta", "1", 0.6, positive=True, limits=(0.01, 20.0)),
            ),
            checked="beta",
            value=f.stretched,
            gradient=f.stretched_gradient,
            grid=lambda x: _product(_scales(x), np.array([0.1, 0.25, 0.5, 1.0, 2.0])),
            source="Kohlrausch 1854; Rubin & Wenzel 1996",
            holds={"exponential": f.and_one},
            positive_x=True,
        ),
        Form(
            name="logarithmic",
            formula="a - b ln x",
            latex=r"a - b \ln x",
            arguments=(_level("a", 0.9), _level("b", 0.15)),
            checked="b",
            value=f.logarithmic,
            gradient=f.logarithmic_gradient,
            grid=lambda x: np.zeros((1, 0)),
            source="Woodworth 1938; Rubin & Wenzel 1996",
            endless="b",
            holds={"constant": f.and_nothing},
            positive_x=True,
        ),
        Form(
            name="hyperbolic",
            formula="a / (1 + x / tau)",
            latex=r"a / (1 + x / \tau)",
            arguments=(_level("a", 0.9), _scale("tau", 20.0)),
            checked="tau",
            value=f.hyperbolic,
            gradient=f.hyperbolic_gradient,
            grid=lambda x: _scales(x)[:, None],
            source="Mazur & Hastie 1978",
            holds={"constant": f.never_falling},
        ),
        Form(
            name="double_exponential",
            formula="a_1 exp(-x / tau_1) + a_2 exp(-x / tau_2)",
            latex=r"a_1\,e^{-x / \tau_1} + a_2\,e^{-x / \tau_2}",
            arguments=(_level("a_1", 0.45), _scale("tau_1", 3.0), _level("a_2", 0.45), _scale("tau_2", 60.0)),
            checked="tau_2",
            value=f.double,
            gradient=f.double_gradient,
            grid=lambda x: np.array([(s, t) for s in _scales(x) for t in _scales(x) if s < t]),
            source="Rubin, Hinton & Wenzel 1999",
            holds={"exponential": f.single},
        ),
        Form(
            name="logistic",
            formula="a / (1 + (x / x_0)^s)",
            latex="a / (1 + (x / x_0)^s)",
            arguments=(_level("a", 0.9), _scale("x_0", 20.0), _shape("s", 1.5)),
            checked="s",
            value=f.logistic,
            gradient=f.logistic_gradient,
            grid=lambda x: _product(_scales(x), np.array([0.5, 1.0, 2.0, 5.0, 10.0])),
            source="logistic in ln x",
            holds={"hyperbolic": f.and_one},
            positive_x=True,
        ),
        Form(
            name="broken_power",
            formula="a (x / x_b)^-gamma_1 up to x_b, a (x / x_b)^-gamma_2 beyond",
            latex=r"a\,(x / x_b)^{-\gamma_1} \text{ up to } x_b,\ a\,(x / x_b)^{-\gamma_2} \text{ beyond}",
            arguments=(
                _level("a", 0.5),
                _shape("gamma_1", 0.15),
                _shape("gamma_2", 0.9),
                _scale("x_b", 12.0),
            ),
            checked="gamma_2",
            value=f.broken,
            gradient=f.broken_gradient,
            grid=lambda x: _product(EXPONENTS[3:10:2], EXPONENTS[3:10:2], _scales(x)[3:-3]),
            source="Donner & Hardy 2015",
            power_law=True,
            holds={"power": f.unbroken},
            positive_x=True,
        ),
        Form(
            name="constant",
            formula="a",
            latex="a",
            arguments=(_level("a", 0.5),),
            checked="a",
            value=f.constant,
            gradient=f.constant_gradient,
            grid=lambda x: np.zeros((1, 0)),
            source="the null model",
            null=True,
        ),
    )
}


def form(name: str) -> Form:
    """The form of that name. Raises UserError naming those there are."""
    if name not in FORMS:
        raise UserError(f"there is no form {name!r}; there are {', '.join(FORMS)}. Change --forms.")
    return FORMS[name]


def with_exponent() -> tuple[str, ...]:
    """Names of the forms that have an exponent, in the order in which one is looked for to be cited."""
    return tuple(name for name, form in FORMS.items() if form.exponent is not None)


def table() -> str:
    """The table of all forms for the documentation, in Markdown."""
    lines = ["| form | y | parameters | exponent | nested with | source |", "|---|---|---|---|---|---|"]
    for one in FORMS.values():
        others = (
            "every form"
            if one.null
            else ", ".join(n for n, o in FORMS.items() if n != one.name and not o.null and one.nested(o))
        )
        cells = (
            one.name,
            f"`{one.formula}`",
            ", ".join(one.parameters),
            one.exponent or "–",
            others or "–",
            one.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

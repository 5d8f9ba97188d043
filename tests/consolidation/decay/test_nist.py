"""The solver against certified values of the NIST Statistical Reference Datasets for nonlinear regression
(StRD, public domain).

Where a model is a form of the registry, parameter for parameter, it is fitted as a curve is, from its own
starts. Models of rises are no form of decay; they are written here and test the solver alone. Data and
certified values as in the files of https://www.itl.nist.gov/div898/strd/nls/.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from consolidation.decay.curve import Clock, Curve
from consolidation.decay.forms import Form, Parameter
from consolidation.decay.inference import fit
from consolidation.decay.solver import Data, fit_best

BENNETT = pd.read_csv(Path(__file__).parent / "data" / "nist-bennett5.csv")
DANWOOD = (
    np.array([1.309, 1.471, 1.490, 1.565, 1.611, 1.680]),
    np.array([2.138, 3.421, 3.597, 4.340, 4.882, 5.660]),
)
RAT42 = (
    np.array([9.0, 14, 21, 28, 42, 57, 63, 70, 79]),
    np.array([8.93, 10.8, 18.59, 22.33, 39.35, 56.11, 61.73, 64.62, 67.08]),
)
MISRA = (
    np.array([77.6, 114.9, 141.1, 190.8, 239.9, 289, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760]),
    np.array(
        [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.4, 75.47, 81.78]
    ),
)
BOXBOD = np.array([1.0, 2, 3, 5, 7, 10]), np.array([109.0, 149, 149, 191, 213, 224])


def as_curve(x, y) -> Curve:
    return Curve("NIST", x, y, Clock("repetition", "count"))


def test_danwood_is_the_power_law():
    """b1 x^b2."""
    found = fit(as_curve(*DANWOOD), "power")
    assert found.parameters["a"] == pytest.approx(7.6886226176e-01, rel=1e-9)
    assert -found.exponent == pytest.approx(3.8604055871e00, rel=1e-9)
    assert 2 * found.objective == pytest.approx(4.3173084083e-03, rel=1e-9)
    assert found.failures == ()


def test_bennett5_is_the_shifted_power_law():
    """b1 (b2 + x)^(-1 / b3) = b1 b2^(-1 / b3) (1 + x / b2)^(-1 / b3), of the higher level of difficulty."""
    found = fit(as_curve(BENNETT["x"].to_numpy(), BENNETT["y"].to_numpy()), "shifted_power")
    tau, gamma = found.parameters["tau"], found.exponent
    assert tau == pytest.approx(4.6736564644e01, rel=1e-8)
    assert 1 / gamma == pytest.approx(9.3218483193e-01, rel=1e-8)
    assert found.parameters["a"] * tau**gamma == pytest.approx(-2.5235058043e03, rel=1e-8)
    assert 2 * found.objective == pytest.approx(5.2404744073e-04, rel=1e-9)
    assert found.failures == ()


def test_rat42_is_the_logistic_in_the_logarithm_of_x():
    """b1 / (1 + exp(b2 - b3 x)) = a / (1 + (z / x_0)^s) at z = exp(-x), s = b3, x_0 = exp(-b2 / b3); of the
    higher level of difficulty.
    """
    x, y = RAT42
    found = fit(as_curve(np.exp(-x[::-1]), y[::-1]), "logistic")
    assert found.parameters["a"] == pytest.approx(7.2462237576e01, rel=1e-8)
    assert -found.parameters["s"] * np.log(found.parameters["x_0"]) == pytest.approx(2.6180768402, rel=1e-8)
    assert found.parameters["s"] == pytest.approx(6.7359200066e-02, rel=1e-8)
    assert 2 * found.objective == pytest.approx(8.0565229338, rel=1e-9)


# y = b1 (1 - inner(b2 x)), the two starts of b2, certified b1, b2 and residual sum of squares
RISES = {
    "Misra1a": (
        MISRA,
        lambda t: np.exp(-t),
        (1e-4, 5e-4),
        (2.3894212918e02, 5.5015643181e-04),
        1.2455138894e-01,
    ),
    "Misra1b": (
        MISRA,
        lambda t: (1 + t / 2) ** -2,
        (1e-4, 2e-4),
        (3.3799746163e02, 3.9039091287e-04),
        7.5464681533e-02,
    ),
    "Misra1d": (
        MISRA,
        lambda t: 1 / (1 + t),
        (1e-4, 3e-4),
        (4.3736970754e02, 3.0227324449e-04),
        5.6419295283e-02,
    ),
    "BoxBOD": (BOXBOD, lambda t: np.exp(-t), (1, 0.75), (2.1380940889e02, 5.4723748542e-01), 1.1680088766e03),
}


@pytest.mark.parametrize("name", RISES)
def test_rises_to_a_limit_are_solved_from_either_start_of_nist(name):
    """Two parameters, one of them linear: solved for by least squares at the start, as for every form."""
    (x, y), inner, starts, certified, squares = RISES[name]

    def gradient(x, p):
        """By b1, and by b2 as the imaginary part of a complex step, which no difference rounds."""
        slope = -inner(x * (p[..., 1:] + 1e-200j)).imag / 1e-200
        return np.stack([1 - inner(x * p[..., 1:]), p[..., :1] * slope], -1)

    for start in starts:
        form = Form(
            name=name,
            formula="b1 (1 - inner(b2 x))",
            latex="",
            arguments=(
                Parameter("b1", "y", 1.0, linear=True),
                Parameter("b2", "1", 1.0, positive=True, limits=(1e-9, 1e3)),
            ),
            checked="b2",
            value=lambda x, p: p[..., :1] * (1 - inner(x * p[..., 1:])),
            gradient=gradient,
            grid=lambda x, start=start: np.array([[start]]),
            source="NIST StRD",
        )
        found, _ = fit_best(form, Data(x, y[None], np.ones((1, len(y)))))
        assert found.converged.all()
        assert tuple(found.parameters[0]) == pytest.approx(certified, rel=1e-8)
        assert 2 * found.objective[0] == pytest.approx(squares, rel=1e-9)

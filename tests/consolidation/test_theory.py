"""Bounds, and the phase-plane model against what it was made of."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from consolidation.config import SRCDConfig
from consolidation.theory import PhasePlane, bounds, consolidated_bound, fit_phase_plane, static_bound
from labbook.console import UserError


def test_bounds_are_those_of_the_paper():
    config = SRCDConfig()
    table = bounds(config).set_index("bound")["share"]
    assert table["best static routing, all answers right"] == 0.05
    assert table["memory of every pattern"] == pytest.approx(0.015)
    assert static_bound(config, 0.1) == pytest.approx(0.045)
    assert consolidated_bound(config, 0.3) == pytest.approx(0.015 + np.sqrt(2048 * np.log(2000)) / 2048)
    with pytest.raises(UserError, match="epsilon 2"):
        static_bound(config, 2)


def test_a_planted_phase_plane_is_found_again():
    steps = np.linspace(0, 4000, 60)
    truth = PhasePlane(0.002, 0.003, 0.3, (0.1, 0.4), 0.0, 1.0)
    q, p = truth.path(steps)
    found = fit_phase_plane(steps, q, p)
    assert found.explained > 0.999
    assert (found.eta_q, found.eta_p, found.q_star) == pytest.approx((0.002, 0.003, 0.3), rel=0.05)


def test_the_path_is_the_differential_equation():
    model = PhasePlane(0.002, 0.001, 0.2, (0.3, 0.5), 0.0, 1.0)
    steps = np.linspace(0, 300, 20)
    free = solve_ivp(
        lambda _, s: [0.002 * s[1] * (1 - s[0]), 0.001 * (s[0] - 0.2)],
        (0, 300),
        [0.3, 0.5],
        t_eval=steps,
        rtol=1e-9,
    )
    np.testing.assert_allclose(model.path(steps), free.y, atol=1e-5)
    q, p = PhasePlane(0.02, 0.02, 0.2, (0.3, 0.9), 0.0, 1.0).path(np.linspace(0, 5000, 50))
    assert (q.max() <= 1 + 1e-6) and p.max() == 1.0


def test_the_separatrix_separates():
    model = PhasePlane(0.002, 0.003, 0.5, (0.0, 0.0), 0.0, 1.0)
    edge = model.separatrix()
    assert edge[-1] == pytest.approx((0.5, 0.0))
    q, p = edge[60]
    steps = np.linspace(0, 20_000, 400)
    for start, ends in (((q, p * 1.05), 1.0), ((q, p * 0.95), 0.0)):
        path = PhasePlane(0.002, 0.003, 0.5, (float(start[0]), float(start[1])), 0.0, 1.0).path(steps)
        assert path[1, -1] == ends


def test_too_short_a_trajectory_is_refused():
    with pytest.raises(UserError, match="at least 8 points"):
        fit_phase_plane(np.arange(5.0), np.zeros(5), np.zeros(5))

"""Ridge from moments against scikit-learn, and the exact validation error against the direct one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

from redundancy.regression.moments import Moments, gram
from redundancy.regression.ridge import Affine, RidgePath


def moments(x: torch.Tensor, z: torch.Tensor) -> Moments:
    return Moments(torch.tensor(float(len(x)), dtype=torch.float64), x.sum(0), z.sum(0), x.T @ x, x.T @ z)


def draw(seed: int, n: int, d: int = 12, k: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features on very different scales and offsets, noisy linear targets."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ mix * torch.logspace(-2, 2, d) + 5
    z = (
        x @ torch.randn(d, k, generator=g, dtype=torch.float64)
        + torch.randn(n, k, generator=g, dtype=torch.float64)
        + 3
    )
    return x, z


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-6, 2))
def test_ridge_equals_scikit_learn_for_layer_and_heads(seed, exponent):
    alpha = 10.0**exponent
    x, z = draw(seed, 200)
    output = torch.randn(8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    weight, bias = RidgePath(moments(x, z)).solve(alpha)
    ours = Affine(weight, bias, torch.zeros(12, dtype=torch.float64))(x)
    scaled = StandardScaler().fit_transform(x.numpy())
    # the layer output z W_O, then head 1 of 4 (columns 2:4 of z), each fitted by scikit-learn on its own
    for map_out, columns in ((output, slice(None)), (output[2:4], slice(2, 4))):
        target = (z[:, columns] @ map_out).numpy()
        oracle = Ridge(alpha=len(x) * alpha).fit(scaled, target).predict(scaled)
        assert np.abs((ours[:, columns] @ map_out).numpy() - oracle).max() < 1e-8 * np.abs(target).max()


def test_exact_validation_error_equals_the_direct_one():
    (x, z), (xv, zv) = draw(0, 150), draw(1, 90)
    output = torch.randn(8, 10, dtype=torch.float64)
    alphas = torch.logspace(-6, 1, 8, dtype=torch.float64)
    path = RidgePath(moments(x, z))
    gain = path.validation_gain(moments(xv, zv), output @ output.T, alphas)
    mean = ((zv - z.mean(0)) @ output).square().sum(-1).mean()
    for a, g in zip(alphas, gain, strict=True):
        weight, bias = path.solve(float(a))
        error = ((zv - xv @ weight - bias) @ output).square().sum(-1).mean()
        assert float(mean - g) == pytest.approx(float(error), rel=1e-9)
    best = path.best(moments(xv, zv), output @ output.T, tuple(alphas.tolist()))
    assert best == float(alphas[gain.argmax()])


def test_a_constant_feature_and_a_repeated_feature_do_no_harm():
    x, z = draw(3, 300)
    wide = torch.cat([x, x[:, :2], torch.full((300, 1), 7.0, dtype=torch.float64)], 1)
    weight, bias = RidgePath(moments(wide, z)).solve(1e-9)
    oracle = LinearRegression().fit(x.numpy(), z.numpy()).predict(x.numpy())
    assert np.abs((wide @ weight + bias).numpy() - oracle).max() < 1e-5


def test_planted_linear_target_is_found_exactly():
    x, _ = draw(5, 400)
    z = x @ torch.randn(12, 8, dtype=torch.float64) + 2
    weight, bias = RidgePath(moments(x, z)).solve(1e-12)
    assert float((x @ weight + bias - z).abs().max()) < 1e-6


@pytest.mark.parametrize(("rows", "width"), [(40, 7), (500, 256), (300, 301)])
def test_gram_is_the_full_product(rows, width):
    x = torch.randn(rows, width, dtype=torch.float64)
    assert torch.allclose(gram(x), x.T @ x, rtol=1e-12, atol=1e-12)

"""Probes of low rank against reduced-rank regression, the small network against the probe."""

import numpy as np
import torch

from redundancy.regression.controls import affine
from redundancy.regression.ridge import RidgePath
from redundancy.removal.replacements.rivals import RANKS, low_rank, train_mlps
from tests.planted import stored


def test_low_rank_is_reduced_rank_regression_and_full_rank_is_the_probe(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    train = stored(decoder, t, "train", 1)
    alpha, weight = fitted[1].penalties["resid_pre"], decoder.output_map(1)[0].double().numpy()
    path = RidgePath(moments[1].moments("train", "current"))
    full = affine(path.solve_rank(alpha, torch.from_numpy(weight), decoder.d_model), moments[1].pilot)
    assert torch.allclose(full.weight, fitted[1].probe.weight, atol=1e-6 * float(full.weight.abs().max()))
    # oracle: ridge as extra rows of data, least squares, then the best projection of the fitted values
    x, y = train["x"], train["z"] @ weight
    mean, scale = x.mean(0), x.std(0)
    s, target = (x - mean) / scale, y - y.mean(0)
    rows = np.vstack([s, np.sqrt(len(x) * alpha) * np.eye(s.shape[1])])
    b = np.linalg.lstsq(rows, np.vstack([target, np.zeros((s.shape[1], y.shape[1]))]), rcond=None)[0]
    leading = np.linalg.svd(rows @ b, full_matrices=False)[2][:4]
    expected = s @ b @ leading.T @ leading + y.mean(0)
    ours = low_rank(moments[1], alpha, torch.from_numpy(weight))
    found = ours["rank_4"](torch.from_numpy(x)).numpy() @ weight
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert set(ours) == {f"rank_{r}" for r in RANKS if r < decoder.d_model}
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-6 * np.abs(found).max() * len(found)) <= 4


def test_the_network_is_never_worse_than_the_probe_on_the_validation_documents(fitted_gpt2):
    decoder, t, moments, fitted, _ = fitted_gpt2
    mlps = train_mlps(decoder, t, fitted, moments)
    for layer in t.layers:
        rows = stored(decoder, t, "validation", layer)
        x, z = (torch.from_numpy(rows[k]).float() for k in ("x", "z"))
        weight = decoder.output_map(layer)[0].float()
        probe = ((z - fitted[layer].probe(x)) @ weight).square().sum(-1).mean()
        assert float(mlps[layer].loss(x, z)) <= float(probe) * (1 + 1e-5)

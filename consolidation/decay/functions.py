"""Values and gradients of the forms of decay: x (..., n) and p (..., k) give (..., n) and (..., n, k), the
gradient by every parameter in the order of p; and where a form lies within one that holds it: x and p give
the parameters of the larger form, (..., k of it).
"""

from collections.abc import Callable

import numpy as np

from labbook.estimate import Array

Values = Callable[[Array, Array], Array]

# how far a scale on the axis of x may lie below the smallest and above the largest x, as a factor: at the end
# 1 + x / tau is x / tau, and exp(-x / tau) is 1, to nine digits
FAR = 1e9


def scales(x: Array) -> tuple[Array, Array]:
    """The smallest and the largest scale for data at x (..., n): (...) each."""
    return np.where(x > 0, x, np.inf).min(-1) / FAR, x.max(-1) * FAR


def _largest(x: Array, p: Array) -> Array:
    """The largest scale for every row of p: (...)."""
    return np.broadcast_to(scales(x)[1], p.shape[:-1])


def _columns(p: Array) -> list[Array]:
    """Parameters as arrays that broadcast against x."""
    return [p[..., i, None] for i in range(p.shape[-1])]


def _stack(*parts: Array) -> Array:
    return np.stack(np.broadcast_arrays(*parts), -1)


def _exp(t: Array) -> Array:
    """exp without overflow; the clipped values are far outside every bound's reach."""
    return np.exp(np.clip(t, -700, 700))


def power(x: Array, p: Array) -> Array:
    """a x^-gamma."""
    a, g = _columns(p)
    return a * _exp(-g * np.log(x))


def power_gradient(x: Array, p: Array) -> Array:
    """By a, gamma."""
    a, g = _columns(p)
    h = _exp(-g * np.log(x))
    return _stack(h, -a * h * np.log(x))


def with_asymptote(value: Values) -> Values:
    """c + value, c the last parameter."""
    return lambda x, p: p[..., -1, None] + value(x, p[..., :-1])


def with_asymptote_gradient(gradient: Values) -> Values:
    """By the parameters of the inner form, and c."""

    def both(x: Array, p: Array) -> Array:
        inner = gradient(x, p[..., :-1])
        return np.concatenate([inner, np.ones_like(inner[..., :1])], -1)

    return both


def shifted(x: Array, p: Array) -> Array:
    """a (1 + x / tau)^-gamma."""
    a, g, tau = _columns(p)
    return a * _exp(-g * np.log1p(x / tau))


def shifted_gradient(x: Array, p: Array) -> Array:
    """By a, gamma, tau."""
    a, g, tau = _columns(p)
    h = _exp(-g * np.log1p(x / tau))
    return _stack(h, -a * h * np.log1p(x / tau), a * g * h * x / (tau * (tau + x)))


def apex(x: Array, p: Array) -> Array:
    """a x^-gamma exp(-x / tau)."""
    a, g, tau = _columns(p)
    return a * _exp(-g * np.log(x) - x / tau)


def apex_gradient(x: Array, p: Array) -> Array:
    """By a, gamma, tau."""
    a, g, tau = _columns(p)
    h = _exp(-g * np.log(x) - x / tau)
    return _stack(h, -a * h * np.log(x), a * h * x / tau**2)


def exponential(x: Array, p: Array) -> Array:
    """a exp(-x / tau)."""
    a, tau = _columns(p)
    return a * _exp(-x / tau)


def exponential_gradient(x: Array, p: Array) -> Array:
    """By a, tau."""
    a, tau = _columns(p)
    h = _exp(-x / tau)
    return _stack(h, a * h * x / tau**2)


def stretched(x: Array, p: Array) -> Array:
    """a exp(-(x / tau)^beta)."""
    a, tau, beta = _columns(p)
    return a * _exp(-_exp(beta * np.log(x / tau)))


def stretched_gradient(x: Array, p: Array) -> Array:
    """By a, tau, beta."""
    a, tau, beta = _columns(p)
    ratio = np.log(x / tau)
    inner = _exp(beta * ratio)
    h = _exp(-inner)
    slope = np.where(inner < 700, a * h * inner, 0)
    return _stack(h, slope * beta / tau, -slope * ratio)


def logarithmic(x: Array, p: Array) -> Array:
    """a - b ln x."""
    a, b = _columns(p)
    return a - b * np.log(x)


def logarithmic_gradient(x: Array, p: Array) -> Array:
    """By a, b."""
    a, _ = _columns(p)
    return _stack(np.ones_like(a * x), -np.log(x) * np.ones_like(a))


def hyperbolic(x: Array, p: Array) -> Array:
    """a / (1 + x / tau)."""
    a, tau = _columns(p)
    return a / (1 + x / tau)


def hyperbolic_gradient(x: Array, p: Array) -> Array:
    """By a, tau."""
    a, tau = _columns(p)
    h = 1 / (1 + x / tau)
    return _stack(h, a * h**2 * x / tau**2)


def double(x: Array, p: Array) -> Array:
    """a_1 exp(-x / tau_1) + a_2 exp(-x / tau_2)."""
    return exponential(x, p[..., :2]) + exponential(x, p[..., 2:])


def double_gradient(x: Array, p: Array) -> Array:
    """By a_1, tau_1, a_2, tau_2."""
    return np.concatenate([exponential_gradient(x, p[..., :2]), exponential_gradient(x, p[..., 2:])], -1)


def logistic(x: Array, p: Array) -> Array:
    """a / (1 + (x / x_0)^s)."""
    a, x0, s = _columns(p)
    return a / (1 + _exp(s * np.log(x / x0)))


def logistic_gradient(x: Array, p: Array) -> Array:
    """By a, x_0, s."""
    a, x0, s = _columns(p)
    ratio = np.log(x / x0)
    h = 1 / (1 + _exp(s * ratio))
    slope = a * h * (1 - h)
    return _stack(h, slope * s / x0, -slope * ratio)


def broken(x: Array, p: Array) -> Array:
    """a (x / x_b)^-gamma_1 up to x_b, a (x / x_b)^-gamma_2 beyond."""
    a, g1, g2, xb = _columns(p)
    ratio = np.log(x / xb)
    return a * _exp(-np.where(ratio <= 0, g1, g2) * ratio)


def broken_gradient(x: Array, p: Array) -> Array:
    """By a, gamma_1, gamma_2, x_b."""
    a, g1, g2, xb = _columns(p)
    ratio = np.log(x / xb)
    before = ratio <= 0
    g = np.where(before, g1, g2)
    h = _exp(-g * ratio)
    return _stack(h, np.where(before, -a * h * ratio, 0), np.where(before, 0, -a * h * ratio), a * h * g / xb)


def constant(x: Array, p: Array) -> Array:
    """a."""
    return p[..., 0, None] * np.ones_like(x)


def constant_gradient(x: Array, p: Array) -> Array:
    """By a."""
    return np.ones((*np.broadcast_shapes(p.shape[:-1], x.shape[:-1]), x.shape[-1], 1))


def and_nothing(x: Array, p: Array) -> Array:
    """The same with a last parameter that is 0: an asymptote, an exponent, a slope."""
    return np.concatenate([p, np.zeros_like(p[..., :1])], -1)


def and_one(x: Array, p: Array) -> Array:
    """The same with a last parameter that is 1: a power to which something is raised."""
    return np.concatenate([p, np.ones_like(p[..., :1])], -1)


def never_falling(x: Array, p: Array) -> Array:
    """The constant as a curve that falls on the largest scale: a, tau."""
    return np.stack([p[..., 0], _largest(x, p)], -1)


def without_offset(x: Array, p: Array) -> Array:
    """a x^-gamma (and c) as a' (1 + x / tau)^-gamma (and c), equal at the smallest x, with the smallest tau
    for which a' does not overflow.
    """
    a, g = p[..., 0], p[..., 1]
    least = scales(x)[0] * FAR
    far = np.minimum(np.log(FAR), 600 / np.maximum(np.abs(g), 1e-9))
    size = a * np.exp(np.clip(g * (np.log1p(np.exp(far)) - np.log(least)), -700, 700))
    return np.concatenate([np.stack([size, g, least * np.exp(-far)], -1), p[..., 2:]], -1)


def of_one(x: Array, p: Array) -> Array:
    """a / (1 + x / tau) as a (1 + x / tau)^-gamma: a, gamma = 1, tau."""
    return np.stack([p[..., 0], np.ones(p.shape[:-1]), p[..., 1]], -1)


def apex_power(x: Array, p: Array) -> Array:
    """c + a x^-gamma as the form of APEX whose exponential never falls: a, gamma, tau, c."""
    return np.stack([p[..., 0], p[..., 1], _largest(x, p), p[..., 2]], -1)


def apex_exponential(x: Array, p: Array) -> Array:
    """c + a exp(-x / tau) as the form of APEX with the exponent 0: a, gamma, tau, c."""
    return np.stack([p[..., 0], np.zeros(p.shape[:-1]), p[..., 1], p[..., 2]], -1)


def single(x: Array, p: Array) -> Array:
    """a exp(-x / tau) as two of the same scale, the second of no size: a_1, tau_1, a_2, tau_2."""
    return np.stack([p[..., 0], p[..., 1], np.zeros(p.shape[:-1]), p[..., 1]], -1)


def unbroken(x: Array, p: Array) -> Array:
    """a x^-gamma as a power law that breaks between two equal exponents, in the middle of ln x."""
    middle = np.exp(np.mean(np.log(x), -1))
    a = p[..., 0] * np.exp(np.clip(-p[..., 1] * np.log(middle), -700, 700))
    return np.stack([a, p[..., 1], p[..., 1], np.broadcast_to(middle, a.shape)], -1)

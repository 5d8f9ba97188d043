"""One exponent for a population whose units differ: a hierarchical Bayesian model of all units at once.

    y_ij ~ Normal(a_i x_ij^-gamma_i, sigma), or Binomial(m_ij, a_i x_ij^-gamma_i) where trials are counted
    gamma_i ~ Normal(gamma, s_gamma),  ln a_i ~ Normal(mu_a, s_a)

and the same with a_i exp(-x_ij / tau_i), ln tau_i ~ Normal(mu_tau, s_tau), as the rival. A curve of means can
be a power law though no unit follows one (Heathcote, Brown & Mewhort 2000); here both laws are laws of units.
The rivals are compared by the expected log density of left-out observations (PSIS-LOO: Vehtari, Gelman &
Gabry 2017). Priors are wide on the scale of the data: gamma ~ Normal(.5, 1), spreads half-normal, levels
around the mean of ln y, tau around the middle of ln x. Sampled by NUTS in NumPyro, judged by ArviZ (the
extra `hierarchical`).
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from consolidation.decay.curve import Curve
from consolidation.decay.forms import FORMS
from consolidation.decay.inference import fit, labels, units_of
from labbook.console import UserError
from labbook.estimate import Array, Estimate

LEAST_UNITS = 5
CHAINS = 4
# beyond these the chains have not mixed (Vehtari et al. 2021)
R_HAT, DIVERGENT = 1.01, 0.001
Law = Literal["power", "exponential"]


@dataclass(frozen=True)
class Population:
    """What all units say together.

    Attributes
    ----------
    gamma : mean of the exponents of the population, with its 95 % credible interval; n counts units.
    spread : standard deviation of the exponents between units.
    new_unit : exponent of one more unit of the population.
    loo : expected log density of left-out observations of the power law and of the exponential.
    difference, error : power law minus exponential, and its standard error.
    failures : what is wrong with the sampling, in words; empty when nothing is.
    """

    gamma: Estimate
    spread: Estimate
    new_unit: Estimate
    loo: dict[str, float]
    difference: float
    error: float
    failures: tuple[str, ...]
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """As it is written to `fit.json`."""
        return {
            "gamma": vars(self.gamma),
            "spread": vars(self.spread),
            "new_unit": vars(self.new_unit),
            "loo": self.loo,
            "loo_difference": self.difference,
            "loo_error": self.error,
            "failures": list(self.failures),
            "verdict": self.verdict,
        }


def _libraries() -> tuple[Any, Any, Any]:
    """jax, numpyro and arviz, which take seconds to import."""
    try:
        with warnings.catch_warnings():
            # once a day ArviZ announces its next version
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
        import jax
        import numpyro
    except ImportError as error:
        raise UserError(
            f"a hierarchical fit needs NumPyro and ArviZ ({error}). Install the extra: pip install "
            "'attention-redundancy[hierarchical]', or leave --hierarchical out."
        ) from error
    return jax, numpyro, arviz


def _model(numpyro: Any, curve: Curve, unit: npt.NDArray[np.intp], n: int, law: Law) -> Any:
    """The model of the module's text for one law; level and slope are those at the middle of ln x, where they
    hardly depend on one another.
    """
    import jax.numpy as jnp

    sample, dist = numpyro.sample, numpyro.distributions
    middle = float(np.exp(np.log(curve.x).mean()))
    level = float(np.log(curve.y[curve.y > 0]).mean())

    def varied(name: str, mean: Any, spread: float) -> Any:
        """A value of every unit. Drawn itself and not as a standard score: a curve of many points fixes it
        well, and then chains move freely.
        """
        between = sample(f"s_{name}", dist.HalfNormal(spread))
        return sample(f"{name}_of_unit", dist.Normal(mean, between).expand([n]).to_event(1))

    def model() -> None:
        a = varied("a", sample("mu_a", dist.Normal(level, 1.5)), 1.0)[unit]
        if law == "power":
            gamma = varied("gamma", sample("gamma", dist.Normal(0.5, 1.0)), 0.5)[unit]
            f = jnp.exp(a - gamma * jnp.log(curve.x / middle))
        else:
            tau = varied("tau", sample("mu_tau", dist.Normal(np.log(middle), 2.0)), 1.0)[unit]
            f = jnp.exp(a - (curve.x - middle) / jnp.exp(tau))
        if curve.count is not None:
            p = jnp.clip(f, 1e-6, 1 - 1e-6)
            sample("y", dist.Binomial(curve.count.astype(int), p), obs=np.round(curve.y * curve.count))
        else:
            sigma = sample("sigma", dist.HalfNormal(float(np.std(curve.y))))
            sample("y", dist.Normal(f, sigma), obs=curve.y)

    return model


def _near(curve: Curve, n: int, law: Law) -> dict[str, Any]:
    """Where chains begin: at the fit of the means."""
    whole = fit(replace(curve, unit=None), law).parameters
    middle = np.exp(np.log(curve.x).mean())
    level = max(float(FORMS[law].value(np.array([middle]), np.array(list(whole.values())))[0]), 1e-3)
    second, name = (whole["gamma"], "gamma") if law == "power" else (np.log(whole["tau"]), "mu_tau")
    return {
        "mu_a": np.log(level),
        "a_of_unit": np.full(n, np.log(level)),
        name: second,
        f"{name.removeprefix('mu_')}_of_unit": np.full(n, second),
        "s_a": 0.1,
        f"s_{name.removeprefix('mu_')}": 0.1,
    }


def population(curve: Curve, seed: int = 0, draws: int = 1000) -> Population:
    """Sample both laws.

    Parameters
    ----------
    draws : of each of four chains, after as many of warm-up.

    Raises
    ------
    UserError : for fewer than 5 units, x or y that are not positive, and when the extra is not installed.
    """
    units = units_of(curve)
    if len(units) < LEAST_UNITS:
        raise UserError(
            f"{curve.name}: {len(units)} units; a spread between units needs at least {LEAST_UNITS}. Give "
            "--unit with more units, or leave --hierarchical out."
        )
    if (curve.x <= 0).any() or curve.y.max() <= 0:
        raise UserError(
            f"{curve.name}: the hierarchical power law needs positive x, and a largest y above 0. Cut the "
            "window (--window), or leave --hierarchical out."
        )
    jax, numpyro, arviz = _libraries()
    index = np.searchsorted(units, labels(curve))
    found, failures = dict[str, Any](), list[str]()
    laws: tuple[Law, ...] = ("power", "exponential")
    with jax.enable_x64(True):
        for law in laws:
            kernel = numpyro.infer.NUTS(
                _model(numpyro, curve, index, len(units), law),
                target_accept_prob=0.9,
                init_strategy=numpyro.infer.init_to_value(values=_near(curve, len(units), law)),
            )
            chains = numpyro.infer.MCMC(
                kernel,
                num_warmup=draws,
                num_samples=draws,
                num_chains=CHAINS,
                chain_method="vectorized",
                progress_bar=False,
            )
            chains.run(jax.random.PRNGKey(seed))
            found[law] = arviz.from_numpyro(chains)
            failures += _failures(arviz, found[law], law)
    posterior = found["power"].posterior
    gamma, spread = (np.asarray(posterior[name]).ravel() for name in ("gamma", "s_gamma"))
    new = gamma + spread * np.random.default_rng(seed).standard_normal(len(gamma))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is among the failures
        loo = {law: arviz.loo(found[law], pointwise=True) for law in laws}
    gaps = np.asarray(loo["power"].loo_i) - np.asarray(loo["exponential"].loo_i)
    difference, error = float(gaps.sum()), float(np.sqrt(len(gaps) * gaps.var()))
    weak = [law for law in laws if bool(loo[law].warning)]
    if weak:
        failures.append(f"the density of left-out observations is uncertain for the {' and the '.join(weak)}")
    mean, between, one_more = (_credible(values, len(units)) for values in (gamma, spread, new))
    return Population(
        mean,
        between,
        one_more,
        {law: float(loo[law].elpd_loo) for law in laws},
        difference,
        error,
        tuple(failures),
        _verdict(curve, mean, between, one_more, difference, error),
    )


def _credible(values: Array, n: int) -> Estimate:
    """Mean and central 95 % of draws."""
    lower, upper = np.quantile(values, [0.025, 0.975])
    return Estimate(float(values.mean()), float(lower), float(upper), n)


def _failures(arviz: Any, found: Any, law: Law) -> list[str]:
    """What is wrong with the chains of one law."""
    worst = max(float(np.max(values)) for values in arviz.rhat(found).values())
    divergent = float(np.asarray(found.sample_stats["diverging"]).mean())
    said = []
    if not worst <= R_HAT:
        said.append(f"the chains of the {law} have not mixed (R-hat {worst:.3f})")
    if divergent > DIVERGENT:
        said.append(f"{divergent:.1%} of the draws of the {law} diverge")
    return said


def _verdict(
    curve: Curve, gamma: Estimate, spread: Estimate, new: Estimate, difference: float, error: float
) -> str:
    """It in words; two standard errors tell the laws apart."""
    if not abs(difference) > 2 * error:  # an error that is not known tells nothing apart
        laws = "units are not told apart from exponentials"
    else:
        better = "power laws better than exponentials"
        laws = f"units follow {better if difference > 0 else 'exponentials better than power laws'}"
    return (
        f"{curve.name}: the {gamma.n} units together have gamma = {gamma.text()} (mean of the population, "
        f"95 % credible), spread {spread.text()} between units, and one more unit is expected at "
        f"{new.text()}; {laws} (left-out log density {difference:+.1f}, standard error {error:.1f})."
    )

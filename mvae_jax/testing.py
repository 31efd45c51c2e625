"""Oracles for loss mathematics: exact answers, loops and gradient checks with which the tests of this package compare.

They serve tests of other losses as well: an estimator written another way, a loss in another framework. Loops and
closed forms are NumPy in float64 and share no code with `losses` and `gaussian`. Nothing here needs pytest.

    terms = losses.kl_terms(z, mean, logvar, dataset_size=1000)
    np.testing.assert_allclose(terms, testing.kl_terms(z, mean, logvar, dataset_size=1000), rtol=1e-4, atol=1e-5)
    testing.check_gradients(losses.squared_error, x, y)
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, random

# --- Gaussians, by their textbook formulas ---------------------------------------------------------------------------


def log_prob(x: Any, mean: Any, logvar: Any) -> np.ndarray:
    """Elementwise log N(x | mean, exp(logvar)) in float64.

    Args:
        x: values, [...].
        mean: broadcastable against `x`.
        logvar: broadcastable against `x`.

    Returns:
        Log densities, [...], in nats.
    """
    x, mean, logvar = (np.asarray(value, np.float64) for value in (x, mean, logvar))
    return -0.5 * (np.log(2 * np.pi) + logvar + (x - mean) ** 2 / np.exp(logvar))


def kl_divergence(mean_p: Any, logvar_p: Any, mean_q: Any, logvar_q: Any) -> np.ndarray:
    """Elementwise KL(p || q) of diagonal Gaussians in float64, written as it stands in textbooks.

    (logvar_q - logvar_p + (exp(logvar_p) + (mean_p - mean_q)^2) / exp(logvar_q) - 1) / 2. It loses digits where p and q
    nearly agree: `gaussian.kl_divergence` keeps them.

    Args:
        mean_p: means of p, over which the expectation runs, [...].
        logvar_p: log variances of p.
        mean_q: means of q.
        logvar_q: log variances of q.

    Returns:
        Divergences, [...], in nats: sum over the last axis for one number per example.
    """
    mean_p, logvar_p, mean_q, logvar_q = (
        np.asarray(value, np.float64) for value in (mean_p, logvar_p, mean_q, logvar_q)
    )
    spread = (np.exp(logvar_p) + (mean_p - mean_q) ** 2) / np.exp(logvar_q)
    return 0.5 * (logvar_q - logvar_p + spread - 1)


# --- estimators over a batch, by loops -------------------------------------------------------------------------------


def estimator_weights(batch: int, dataset_size: int, estimator: Literal["mws", "mss"] = "mws") -> np.ndarray:
    """Weights by which the posteriors of a batch estimate q(z), one after the other.

    "mws" gives each 1 / (M N). "mss" gives 1 / N to the posterior that z was drawn from, (N - M + 1) / (N (M - 1)) to
    the next one of the batch, cyclically, and 1 / (M - 1) to the others.

    Args:
        batch: M, posteriors of the batch.
        dataset_size: N, examples of the data set.
        estimator: "mws" or "mss".

    Returns:
        [M, M], a row for each sample.

    Raises:
        ValueError: the estimator is unknown.

    Reference:
        Chen et al., 2018, arXiv:1802.04942, equation 3 and appendix C.
    """
    if estimator not in ("mws", "mss"):
        raise ValueError(f"estimator is {estimator!r}, expected 'mws' or 'mss'.")
    weights = np.full((batch, batch), 1 / (batch * dataset_size))
    if estimator == "mss":
        others = batch - 1
        for row, column in itertools.product(range(batch), repeat=2):
            weights[row, column] = 1 / others
            if column == row:
                weights[row, column] = 1 / dataset_size
            elif column == (row + 1) % batch:
                weights[row, column] = (dataset_size - others) / (dataset_size * others)
    return weights


def kl_terms(
    z: Any, mean: Any, logvar: Any, *, dataset_size: int, estimator: Literal["mws", "mss"] = "mws"
) -> np.ndarray:
    """Mutual information, total correlation and dimension-wise KL of every example, by loops over pairs.

    Densities are multiplied and added as they are, not by their logarithms: in more than a few dimensions, or far from
    all posteriors, they vanish, and the result is not finite. Use it on small batches.

    Args:
        z: one sample from each posterior, [B, D].
        mean: posterior means, [B, D].
        logvar: posterior log variances, [B, D].
        dataset_size: N, examples of the data set.
        estimator: "mws" or "mss", see `estimator_weights`.

    Returns:
        [3, B], in nats, in the order of `losses.KLTerms`.

    Raises:
        ValueError: the estimator is unknown.

    Reference:
        Chen et al., 2018, arXiv:1802.04942, equations 2 and 3, appendix C.
    """
    batch, dims = np.shape(z)
    weights = estimator_weights(batch, dataset_size, estimator)
    terms = np.zeros((3, batch))
    for i in range(batch):
        joint, marginals = 0.0, np.zeros(dims)
        for j in range(batch):
            density = np.exp(log_prob(z[i], mean[j], logvar[j]))
            joint += weights[i, j] * density.prod()
            marginals += weights[i, j] * density
        own, prior, product = (
            log_prob(z[i], mean[i], logvar[i]).sum(),
            log_prob(z[i], 0, 0).sum(),
            np.log(marginals).sum(),
        )
        terms[:, i] = own - np.log(joint), np.log(joint) - product, product - prior
    return terms


# --- data whose answers are known ------------------------------------------------------------------------------------


def random_posteriors(batch: int = 8, dims: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posteriors at random, and one sample of each: z, mean and logvar, each float32 [batch, dims].

    Args:
        batch: number of posteriors.
        dims: dimensions of the latent.
        seed: of the draw.
    """
    mean, logvar, noise = np.random.default_rng(seed).normal(size=(3, batch, dims)).astype(np.float32)
    return mean + np.exp(0.5 * (logvar - 1)) * noise, mean, logvar - 1


@dataclasses.dataclass(frozen=True)
class CorrelatedGaussian:
    """A Gaussian of known total correlation: unit variances, and the same correlation between any two dimensions.

    It is also the aggregate of posteriors N(mean, variance I) whose means are drawn from N(0, covariance - variance I).

    Attributes:
        dims: number of dimensions, D.
        correlation: between any two of them, above -1 / (D - 1) and below 1.
        variance: of each posterior, above 0 and below 1 - correlation.
    """

    dims: int = 10
    correlation: float = 0.3
    variance: float = 0.2

    def __post_init__(self) -> None:
        least = -1 / (self.dims - 1) if self.dims > 1 else -1.0
        if not least < self.correlation < 1:
            raise ValueError(
                f"correlation is {self.correlation}, expected above {least:g} and below 1: else {self.dims} dimensions "
                "have no such Gaussian."
            )
        most = np.linalg.eigvalsh(self.covariance)[0]
        if not 0 < self.variance < most:
            raise ValueError(
                f"variance is {self.variance}, expected above 0 and below {most:g}, the least variance of the "
                "aggregate in any direction."
            )

    @property
    def covariance(self) -> np.ndarray:
        """[D, D]."""
        return np.full((self.dims, self.dims), self.correlation) + (1 - self.correlation) * np.eye(self.dims)

    @property
    def total_correlation(self) -> float:
        """KL from the product of the marginals, -log det(covariance) / 2, in nats."""
        return float(-0.5 * np.linalg.slogdet(self.covariance)[1])

    @property
    def mutual_information(self) -> float:
        """Between a posterior's example and its sample, (log det(covariance) - D log variance) / 2, in nats."""
        return -self.total_correlation - 0.5 * self.dims * math.log(self.variance)

    def means(self, noise: Any) -> jax.Array:
        """Posterior means, [B, D], from standard normal noise, [B, D]."""
        root = np.linalg.cholesky(self.covariance - self.variance * np.eye(self.dims))
        return jnp.asarray(noise, jnp.float32) @ jnp.asarray(root.T, jnp.float32)

    def posteriors(self, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Posteriors and one sample of each: z, mean and logvar, each float32 [batch, D].

        Args:
            key: a key that serves nothing else.
            batch: number of posteriors.
        """
        mean = self.means(random.standard_normal(jax.random.fold_in(key, 0), (batch, self.dims)))
        logvar = jnp.full_like(mean, math.log(self.variance))
        return gaussian.sample(jax.random.fold_in(key, 1), mean, logvar), mean, logvar


class LinearGaussianVAE:
    """A VAE whose likelihood and bound are known: x = W z + b + noise, with z ~ N(m, diag v).

    The columns of W are orthogonal, so that the posterior of z given x has a diagonal covariance, and an encoder can be
    exact. Encoders that are off by a known amount lose a known divergence.

    Attributes:
        weights: W, [observed, D].
        offset: b, [observed].
        scale: standard deviation of the noise.
        prior_mean: m, [D].
        prior_variance: v, [D].
        variance: of the exact posterior, [D]; the same for every x.

    Args:
        prior_mean: m, [D].
        prior_variance: v, [D].
        observed: numbers of an observation, at least D.
        scale: standard deviation of the noise.
        seed: of W and b.

    Raises:
        ValueError: an observation has fewer numbers than the latent.

    Reference:
        Tipping and Bishop, 1999, Probabilistic principal component analysis; Lucas et al., 2019, arXiv:1911.02469.
    """

    def __init__(
        self,
        prior_mean: Any = (0.0, 0.0, 0.0),
        prior_variance: Any = (1.0, 1.0, 1.0),
        *,
        observed: int = 6,
        scale: float = 0.7,
        seed: int = 0,
    ) -> None:
        self.prior_mean, self.prior_variance = (np.asarray(x, np.float64) for x in (prior_mean, prior_variance))
        dims = len(self.prior_mean)
        if observed < dims:
            raise ValueError(f"observed is {observed}, expected at least {dims}, the dimensions of the latent.")
        rng = np.random.default_rng(seed)
        self.scale = scale
        self.weights = np.linalg.qr(rng.normal(size=(observed, dims)))[0] * 2.0 ** (np.arange(dims) - 1)
        self.offset = rng.normal(size=observed)
        self.variance = 1 / (1 / self.prior_variance + np.square(self.weights).sum(axis=0) / scale**2)

    def draw(self, count: int, seed: int = 1) -> np.ndarray:
        """Observations, float32 [count, observed]."""
        rng = np.random.default_rng(seed)
        z = self.prior_mean + np.sqrt(self.prior_variance) * rng.normal(size=(count, len(self.prior_mean)))
        noise = self.scale * rng.normal(size=(count, len(self.offset)))
        return (z @ self.weights.T + self.offset + noise).astype(np.float32)

    def prior(self, x: Any) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of p(z) for each of B observations, float32 [B, D]."""
        mean, logvar = (
            jnp.broadcast_to(jnp.asarray(value, jnp.float32), (len(x), len(value)))
            for value in (self.prior_mean, np.log(self.prior_variance))
        )
        return mean, logvar

    def posterior_mean(self, x: Any) -> np.ndarray:
        """Mean of p(z | x), [B, D]."""
        precise = self.prior_mean / self.prior_variance + (x - self.offset) @ self.weights / self.scale**2
        return precise * self.variance

    def encoder(self, shift: float = 0.0, stretch: float = 1.0) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
        """The exact posterior, moved by `shift` standard deviations and `stretch` times as wide.

        Returns:
            (x) -> mean and log variance, float32 [B, D].
        """

        def encode(x: Any) -> tuple[jax.Array, jax.Array]:
            mean = self.posterior_mean(x) + shift * np.sqrt(self.variance)
            logvar = np.broadcast_to(np.log(self.variance * stretch**2), mean.shape)
            return jnp.asarray(mean, jnp.float32), jnp.asarray(logvar, jnp.float32)

        return encode

    def log_likelihood(self, x: Any, z: Any) -> jax.Array:
        """Log likelihood log p(x | z), float32 [B], in nats."""
        residual = x - (z @ jnp.asarray(self.weights, jnp.float32).T + jnp.asarray(self.offset, jnp.float32)[None])
        constant = len(self.offset) * math.log(2 * math.pi * self.scale**2)
        return -0.5 * (jnp.square(residual).sum(-1) / self.scale**2 + constant)

    def log_evidence(self, x: Any) -> np.ndarray:
        """Log evidence log p(x), [B], in nats: what a bound approaches from below."""
        size = len(self.offset)
        covariance = self.weights * self.prior_variance @ self.weights.T + self.scale**2 * np.eye(size)
        residual = x - (self.weights @ self.prior_mean + self.offset)
        distance = np.einsum("ni,ij,nj->n", residual, np.linalg.inv(covariance), residual)
        return -0.5 * (size * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + distance)

    def divergence(self, shift: float = 0.0, stretch: float = 1.0) -> float:
        """KL of `encoder(shift, stretch)` from the exact posterior, in nats; the same for every x."""
        return float(len(self.prior_mean) * 0.5 * (stretch**2 - 1 - math.log(stretch**2) + shift**2))

    def elbo(self, x: Any, shift: float = 0.0, stretch: float = 1.0) -> np.ndarray:
        """The evidence lower bound with `encoder(shift, stretch)`, exactly: evidence less divergence, [B], in nats."""
        return self.log_evidence(x) - self.divergence(shift, stretch)


# --- gradients -------------------------------------------------------------------------------------------------------


def check_gradients(
    function: Callable[..., Any],
    *arrays: Any,
    order: int = 1,
    step: float = 1e-2,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    directions: int = 2,
    seed: int = 0,
) -> None:
    """Compares gradients by reverse mode with finite differences along random directions.

    The results are weighted at random and summed, so that each counts by another number. Differences are central, of
    two steps, which together cancel the error of second order (Richardson). A kink closer than a step is met: choose
    arrays without any.

    Args:
        function: of arrays, to an array or a tree of them.
        *arrays: floating-point arguments, each differentiated.
        order: 2 compares gradients of gradients as well.
        step: length of the larger step in units of the arguments; 1e-2 suits float32 of unit size.
        rtol: how far both may be apart, relative to the finite difference.
        atol: how far they may be apart besides.
        directions: number of random directions, each a unit normal draw in all arguments, scaled to length one.
        seed: of weights and directions.

    Raises:
        AssertionError: the two disagree; the message has both numbers and the direction's number.
        ValueError: the order is not 1 or 2.
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order}, expected 1 or 2.")
    rng = np.random.default_rng(seed)
    arguments = tuple(jnp.asarray(x) for x in arrays)
    shapes = jax.eval_shape(function, *arguments)
    weights = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)

    def total(*arguments: jax.Array) -> jax.Array:
        weighted = jax.tree.map(lambda value, weight: (value * weight).sum(), function(*arguments), weights)
        return sum(jax.tree.leaves(weighted))  # type: ignore[return-value]

    every = tuple(range(len(arguments)))
    compiled, gradient = jax.jit(total), jax.jit(jax.grad(total, every))
    slopes = [np.asarray(slope, np.float64) for slope in gradient(*arguments)]
    for number in range(directions):
        drawn = [rng.normal(size=x.shape) for x in arguments]
        length = math.sqrt(sum(float(np.square(part).sum()) for part in drawn))
        drawn = [part / length for part in drawn]

        def moved(by: float, drawn: list[np.ndarray] = drawn) -> float:
            return float(
                compiled(*(x + jnp.asarray(by * part, x.dtype) for x, part in zip(arguments, drawn, strict=True)))
            )

        coarse, fine = ((moved(h) - moved(-h)) / (2 * h) for h in (step, step / 2))
        expected = (4 * fine - coarse) / 3
        found = sum(float((slope * part).sum()) for slope, part in zip(slopes, drawn, strict=True))
        if not abs(found - expected) <= atol + rtol * abs(expected):
            raise AssertionError(
                f"along direction {number} the gradient is {found:.8g} and the finite difference {expected:.8g}, "
                f"expected within {atol:g} + {rtol:g} of it."
            )
    if order == 2:
        options = {"step": step, "rtol": rtol, "atol": atol, "directions": directions, "seed": seed + 1}
        check_gradients(jax.grad(total, every), *arguments, **options)  # type: ignore[arg-type]

"""Measures of models of several modalities: likelihoods of any of them given any others, and coherence.

The model comes in as functions, those of a run of `models.multimodal_vaes`; values are arrays by name, [N, ...].
Examples are complete: "present/NAME" may stand among the values, and is refused if it says that something is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mvae_jax.eval._arguments import device_measure, measure
from mvae_jax.eval.batched import in_chunks
from mvae_jax.eval.likelihood import Gaussian, estimate_likelihood

Values = Mapping[str, Any]


@device_measure()
def subset_log_likelihood(
    encode_subset: Callable[[Values], Gaussian],
    log_likelihood: Callable[[Values, jax.Array], Mapping[str, jax.Array]],
    values: Values,
    key: jax.Array,
    *,
    of: Sequence[str],
    given: Sequence[str] = (),
    samples: int,
    batch_size: int = 100,
) -> np.ndarray:
    """Log p(x_of | x_given) of every example, by importance sampling: log p(x_of, x_given) - log p(x_given).

    Each of the two is an importance-weighted bound with samples of the posterior given its own modalities, so both tend
    to their limit from below, and equal it for any number of samples where the posteriors are exact. Without `given`
    the result is itself a bound; with it, it may be too high or too low.

    Samples are from one Gaussian. That of MMVAE, MMVAE+ and CADA-VAE has the moments of their mixture; with samples of
    the mixture itself the bound has the same limit, and with few it is lower on some models and higher on others. Where
    experts disagree both are then far too low: compare models at a number beyond which the bounds no longer rise.

    Args:
        encode_subset: {name: [B, ...]} of any modalities -> mean and log variance of q(z | x), each [B, D].
        log_likelihood: the same values, and z [B, D] -> {name: log p(x_m | z)}, [B] each.
        values: by name, [N, ...], as the model takes them.
        key: a key that serves nothing else.
        of: names of the modalities whose likelihood is asked for.
        given: names of those that are known.
        samples: K, for each of the two.
        batch_size: examples at a time.

    Returns:
        Log likelihoods, [N], in nats.

    Raises:
        ValueError: a name is not among the values, or is in both lists, or `of` is empty, or one of them is missing in
            some examples.

    Reference:
        Burda et al., 2016, arXiv:1509.00519, equation 8.
    """
    names = (*given, *of)
    values = _complete(values, names)
    wrong = sorted({name for name in names if name not in values or names.count(name) > 1})
    if wrong or not of:
        raise ValueError(
            f"of is {', '.join(of) or 'empty'} and given is {', '.join(given) or 'empty'}; expected names of "
            f"{', '.join(values)}, none twice, and at least one in `of`."
        )

    def bound(chosen: Sequence[str]) -> np.ndarray:
        return estimate_likelihood(
            encode_subset,
            lambda batch, z: functools.reduce(operator.add, log_likelihood(batch, z).values()),
            {name: values[name] for name in chosen},
            key,
            samples=samples,
            batch_size=batch_size,
        ).bound

    return bound(names) - bound(given) if given else bound(names)


def _complete(values: Values, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Values without masks; refused if one of those names, by default of all, is missing in some examples."""
    masks = {name.removeprefix("present/"): mask for name, mask in values.items() if name.startswith("present/")}
    missing = [name for name in names or masks if name in masks and not np.all(masks[name])]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} are missing in some examples, as present/NAME says; expected complete ones: take "
            "the rows where all are present."
        )
    return {name: value for name, value in values.items() if not name.startswith("present/")}


@dataclasses.dataclass(frozen=True)
class Coherence:
    """Whether modalities that a model draws are of the class that they should be.

    Attributes:
        cross: given modalities, sorted as the values are and joined by "+", -> target -> share of examples whose drawn
            target is read as the class of what was given.
        joint: share of draws from the prior whose modalities are all read as one class.
        joint_classes: perplexity of the classes that are read in these draws (exp of the entropy of their shares), mean
            over modalities, from 1 to the number of classes. At 1 all draws are read alike, and `joint` says nothing.
        classifiers: name -> share of real values whose class is read right: what `cross` cannot surpass by much.
        examples: N.
    """

    cross: Mapping[str, Mapping[str, float]]
    joint: float
    joint_classes: float
    classifiers: Mapping[str, float]
    examples: int

    def by_count(self) -> dict[int, float]:
        """Number of given modalities -> mean of `cross` over all subsets of that size and their targets."""
        rates: dict[int, list[float]] = {}
        for given, targets in self.cross.items():
            rates.setdefault(given.count("+") + 1, []).extend(targets.values())
        return {count: float(np.mean(values)) for count, values in sorted(rates.items())}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {**dataclasses.asdict(self), "by_count": {str(n): rate for n, rate in self.by_count().items()}}


@measure()
def coherence(
    draw_subset: Callable[[jax.Array, Values], Any],
    decode: Mapping[str, Callable[[Any], Any]],
    classify: Mapping[str, Callable[[Any], Any]],
    values: Values,
    labels: np.ndarray,
    prior_codes: np.ndarray,
    key: jax.Array,
    *,
    batch_size: int = 250,
) -> Coherence:
    """Coherence of every modality that is drawn from every subset of the others, and of draws from the prior.

    Args:
        draw_subset: a key and {name: [B, ...]} of any modalities -> one code for each example, [B, D].
        decode: name -> codes [B, D] -> values of that modality, for those that have a classifier.
        classify: name -> values [B, ...], as given and as decoded -> numbers of classes, [B].
        values: by name, [N, ...], as the model takes them; images float in [-1, 1], as decoders give them.
        labels: class of each example, int [N].
        prior_codes: draws from the prior, [P, D].
        key: a key that serves nothing else.
        batch_size: most examples at a time.

    Returns:
        All rates.

    Raises:
        ValueError: there are fewer than two modalities, no classifier, a classifier without a decoder or values, or
            another number of labels than of examples, something is missing, or images with a classifier are uint8.

    Reference:
        Shi et al., 2019, arXiv:1911.03393 (coherence of joint and cross generation).
    """
    values = _complete(values)
    names, labels = tuple(values), np.asarray(labels)
    count = len(next(iter(values.values()))) if values else 0
    if len(names) < 2 or not classify or not set(classify) <= set(names) & set(decode):
        raise ValueError(
            f"classifiers are of {', '.join(classify) or 'nothing'}; expected some of {', '.join(names) or 'nothing'}, "
            "two modalities or more, and a decoder for each that has a classifier."
        )
    if labels.shape != (count,):
        raise ValueError(f"labels have shape {labels.shape}; expected ({count},), one for each example.")

    if integers := [name for name in classify if values[name].dtype == np.uint8]:
        raise ValueError(
            f"values of {', '.join(integers)} are uint8; expected the range that decoders give, which classifiers read "
            "too: use `mvae_jax.images.to_float`."
        )

    def read(name: str, codes: Any) -> np.ndarray:
        return in_chunks(lambda z: np.asarray(classify[name](decode[name](z))), batch_size)(codes)

    classifiers = {
        name: float(
            (in_chunks(lambda x, name=name: np.asarray(classify[name](x)), batch_size)(values[name]) == labels).mean()
        )
        for name in classify
    }
    cross: dict[str, dict[str, float]] = {}
    for size in range(1, len(names)):
        for number, given in enumerate(itertools.combinations(names, size)):
            targets = [name for name in classify if name not in given]
            if not targets:
                continue
            own_key = jax.random.fold_in(jax.random.fold_in(key, size), number)
            codes = [
                np.asarray(draw_subset(jax.random.fold_in(own_key, start), _rows(values, given, start, batch_size)))
                for start in range(0, count, batch_size)
            ]
            drawn = np.concatenate(codes)
            cross["+".join(given)] = {name: float((read(name, drawn) == labels).mean()) for name in targets}
    classes = np.stack([read(name, prior_codes) for name in classify])
    together = float((classes == classes[:1]).all(0).mean())
    return Coherence(cross, together, float(np.mean([*map(_perplexity, classes)])), classifiers, count)


def _perplexity(classes: np.ndarray) -> float:
    """Exponential of the entropy of the shares of classes, int [P]."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _rows(values: Values, names: Sequence[str], start: int, count: int) -> dict[str, Any]:
    return {name: values[name][start : start + count] for name in names}

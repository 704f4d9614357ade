"""Compare two samples of images, those that a model was trained on and those that it is asked, as a pure function.

A measure has drifted if the difference is both large, by the population stability index (PSI), and significant, by a
test. Either alone misleads: with many rows any difference is significant, and with few rows the PSI is large without
any change (its expectation is then about (bins - 1) x (1/n + 1/m)).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

N_BINS = 10  # of the reference: deciles
TAILS = {"familiarity": 0.01}  # share of the reference in an extra bin at the lower end, where new objects are
SMALLEST_SHARE = 1e-4  # of a bin in the PSI, because the logarithm of 0 is undefined
SMALLEST_EXPECTED = 5  # rows of a class in the window; rarer classes are pooled for the chi-square test


@dataclass(frozen=True)
class Limits:
    """The thresholds for drift.

    Attributes:
        psi: minimum population stability index. By convention (credit scoring, Siddiqi 2006) 0.1 is a moderate shift,
            and 0.2 or 0.25 calls for action.
        alpha: significance level, divided by the number of measures compared (Bonferroni).
        min_rows: minimum number of rows on either side; with fewer, no verdict. Without any change, 200 rows against a
            large reference have a PSI of 0.045 with ten bins on average, and of 0.2 once in 100,000 windows. With 200
            rows on both sides it is twice that on average, and 0.2 in 2 % of windows, which the test must reject.
    """

    psi: float = 0.2
    alpha: float = 0.01
    min_rows: int = 200


@dataclass(frozen=True)
class Sample:
    """One side of a comparison.

    Attributes:
        measures: float (n,) by name, one value per image; any of brightness, contrast, sharpness, size, confidence and
            familiarity. Measures that both sides have are compared.
        labels: (n,) str, the classes of the images; empty: not compared.
    """

    measures: Mapping[str, np.ndarray]
    labels: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))

    def __len__(self) -> int:
        return max([len(self.labels), *(len(values) for values in self.measures.values())], default=0)


@dataclass(frozen=True)
class Check:
    """The result for one measure.

    Attributes:
        name: of the measure, or "label".
        n_reference, n_window: numbers of rows with this measure.
        psi: population stability index.
        statistic: of the test: Kolmogorov-Smirnov's D in [0, 1]; for "label" Cramer's V (of chi-square) in [0, 1].
        p_value: of that test, two-sided.
        reference, window: the quantiles 5 %, 50 % and 95 % of a measure; for "label" the shares of `classes`.
        classes: for "label", the most shifted first; else empty.
        drifted: None if there are too few rows.
        sentence: the verdict in words.
    """

    name: str
    n_reference: int
    n_window: int
    psi: float
    statistic: float
    p_value: float
    reference: Sequence[float]
    window: Sequence[float]
    classes: Sequence[str]
    drifted: bool | None
    sentence: str


@dataclass(frozen=True)
class Report:
    """The result of `compare`: its checks and their limits."""

    checks: Sequence[Check]
    limits: Limits
    n_reference: int
    n_window: int

    @property
    def drifted(self) -> bool | None:
        """True if any measure has drifted; None if none has but at least one has no verdict."""
        verdicts = [check.drifted for check in self.checks]
        if any(verdicts):
            return True
        return None if None in verdicts or not verdicts else False

    @property
    def reasons(self) -> list[str]:
        """The sentences of the measures that have drifted; if none has, of those without a verdict."""
        found = [check.sentence for check in self.checks if check.drifted]
        return found or [check.sentence for check in self.checks if check.drifted is None]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict for JSON."""
        return {
            "drifted": self.drifted,
            "reasons": self.reasons,
            "n_reference": self.n_reference,
            "n_window": self.n_window,
            "limits": asdict(self.limits),
            "checks": [asdict(check) for check in self.checks],
        }


def compare(reference: Sample, window: Sample, *, limits: Limits | None = None) -> Report:
    """Return whether the window's images differ from the reference's, measure by measure.

    Args:
        reference: the training images.
        window: the images that the model was asked about.
        limits: None for the defaults of Limits.
    """
    limits = limits or Limits()
    names = [name for name in reference.measures if name in window.measures]
    by_label = len(reference.labels) > 0 and len(window.labels) > 0
    alpha = limits.alpha / max(1, len(names) + by_label)
    checks = [
        _check_measure(name, reference.measures[name], window.measures[name], limits=limits, alpha=alpha)
        for name in names
    ]
    if by_label:
        checks.append(_check_labels(reference.labels, window.labels, limits=limits, alpha=alpha))
    return Report(checks, limits, len(reference), len(window))


def population_stability_index(reference: np.ndarray, window: np.ndarray) -> float:
    """Return the PSI of two histograms over the same bins: sum of (q - p) ln(q / p), at least 0 (Siddiqi 2006).

    Args:
        reference, window: (bins,) counts, each with a positive sum.
    """
    p, q = (np.maximum(counts / counts.sum(), SMALLEST_SHARE) for counts in (reference, window))
    return float(((q - p) * np.log(q / p)).sum())


def bin_edges(reference: np.ndarray, *, tail: float | None = None) -> np.ndarray:
    """Return the inner edges of bins that hold about one tenth of the reference each, ascending.

    A value with a tenth or more by itself, such as the size if all images have the same, is a bin of its own, so that
    smaller and larger values are not counted with it.

    Args:
        tail: the share at the lower end in an extra bin; None: no such bin.
    """
    shares = [*([tail] if tail else []), *np.arange(1, N_BINS) / N_BINS]
    quantiles, counts = np.unique(np.quantile(reference, shares), return_counts=True)
    heavy = quantiles[counts > 1]
    return np.unique(np.concatenate([quantiles, np.nextafter(heavy, -np.inf)]))


def histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the numbers of values in (-inf, e0], (e0, e1], ..., (ek, inf): int (k + 2,)."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _check_measure(name: str, reference: np.ndarray, window: np.ndarray, *, limits: Limits, alpha: float) -> Check:
    from scipy.stats import ks_2samp

    reference, window = (np.asarray(values, float) for values in (reference, window))
    quantiles = [_quantiles(values) for values in (reference, window)]
    if min(len(reference), len(window)) == 0:
        psi, statistic, p_value = 0.0, 0.0, 1.0
    else:
        edges = bin_edges(reference, tail=TAILS.get(name))
        psi = population_stability_index(histogram(reference, edges), histogram(window, edges))
        tested = ks_2samp(reference, window, method="asymp")  # the exact one takes minutes for 50,000 rows
        statistic, p_value = float(tested.statistic), float(tested.pvalue)
    drifted = _verdict(len(reference), len(window), psi, p_value, limits=limits, alpha=alpha)
    before, now = (f"{values[1]:.3g}" if values else "nothing" for values in quantiles)
    what = f"median {before} in the reference, {now} now (PSI {psi:.2f}, KS {statistic:.2f})"
    sentence = _sentence(name, what, drifted, len(reference), len(window), limits)
    return Check(
        name,
        len(reference),
        len(window),
        psi,
        statistic,
        p_value,
        reference=quantiles[0],
        window=quantiles[1],
        classes=[],
        drifted=drifted,
        sentence=sentence,
    )


def _check_labels(reference: np.ndarray, window: np.ndarray, *, limits: Limits, alpha: float) -> Check:
    from scipy.stats import chi2_contingency

    classes, inverse = np.unique(np.concatenate([reference, window]), return_inverse=True)
    counts = np.stack(
        [np.bincount(part, minlength=len(classes)) for part in (inverse[: len(reference)], inverse[len(reference) :])]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    shift = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")
    pooled = _pool_rare(counts)
    psi = population_stability_index(*pooled)
    if pooled.shape[1] > 1:
        tested = chi2_contingency(pooled, correction=False)
        statistic, p_value = float(np.sqrt(tested.statistic / pooled.sum())), float(tested.pvalue)
    else:  # one class on both sides
        statistic, p_value = 0.0, 1.0
    drifted = _verdict(len(reference), len(window), psi, p_value, limits=limits, alpha=alpha)
    most = shift[0]
    what = f"{classes[most]} {shares[0, most]:.1%} of the reference, {shares[1, most]:.1%} now (PSI {psi:.2f})"
    return Check(
        "label",
        len(reference),
        len(window),
        psi,
        statistic,
        p_value,
        reference=shares[0, shift].tolist(),
        window=shares[1, shift].tolist(),
        classes=[str(name) for name in classes[shift]],
        drifted=drifted,
        sentence=_sentence("label", what, drifted, len(reference), len(window), limits),
    )


def _pool_rare(counts: np.ndarray) -> np.ndarray:
    """Return counts (2, classes) with the classes of fewer than 5 expected rows in the window pooled at the end.

    The expectation is from both sides together, so a class on only one side is treated alike.
    """
    expected = counts.sum(axis=0) * counts[1].sum() / counts.sum()
    rare = expected < SMALLEST_EXPECTED
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    return pooled[:, pooled.sum(axis=0) > 0]


def _verdict(n: int, m: int, psi: float, p_value: float, *, limits: Limits, alpha: float) -> bool | None:
    if min(n, m) < max(limits.min_rows, 1):
        return None
    return psi >= limits.psi and p_value < alpha


def _sentence(name: str, what: str, drifted: bool | None, n: int, m: int, limits: Limits) -> str:
    if drifted is None:
        side = f"{m} rows in the window" if m < limits.min_rows else f"{n} rows in the reference"
        return f"{name}: no verdict with {side}; at least {limits.min_rows} are needed."
    return f"{name} has {'drifted' if drifted else 'not drifted'}: {what}."


def _quantiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.05, 0.5, 0.95))] if len(values) else []

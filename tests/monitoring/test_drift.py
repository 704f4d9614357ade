import json

import numpy as np
import pytest
from scipy.stats import chi2

from darkroom.monitoring import drift
from darkroom.monitoring.drift import Limits, Sample, compare


def sample(n=2000, *, seed=0, shift=0.0, labels=(0.5, 0.3, 0.2), **measures):
    """Images whose brightness is normal around 0.5 + shift, of three classes."""
    rng = np.random.default_rng(seed)
    drawn = {"brightness": rng.normal(0.5 + shift, 0.1, n)}
    return Sample(drawn | measures, rng.choice(["cat", "dog", "eel"], n, p=labels))


def check_of(report, name):
    return next(check for check in report.checks if check.name == name)


def test_a_sample_against_itself_or_another_draw_shows_no_drift():
    for other in (sample(), sample(seed=1), sample(250, seed=2)):
        report = compare(sample(), other)
        assert report.drifted is False
        assert [check.drifted for check in report.checks] == [False, False]
        assert report.reasons == []


def test_a_shift_is_drift_and_the_reason_says_what_moved():
    report = compare(sample(), sample(seed=1, shift=-0.1))
    assert report.drifted is True
    check = check_of(report, "brightness")
    assert check.psi > 0.8
    assert check.p_value < 1e-20
    assert check.window[1] == pytest.approx(0.4, abs=0.02)
    assert [reason.partition(" (")[0] for reason in report.reasons] == [
        "brightness has drifted: median 0.497 in the reference, 0.398 now"
    ]


def test_a_tenth_of_new_objects_is_seen_in_familiarity():
    known, new = (sample(1000, seed=seed, familiarity=np.linspace(0.001, 1, 1000)) for seed in (1, 2))
    new.measures["familiarity"][::10] = 0.0003
    before = sample(familiarity=np.linspace(0.0005, 1, 2000))
    assert compare(before, known).drifted is False
    assert [check.name for check in compare(before, new).checks if check.drifted] == ["familiarity"]


def test_other_classes_are_drift_the_most_shifted_first():
    report = compare(sample(), sample(seed=1, labels=(0.1, 0.3, 0.6)))
    check = check_of(report, "label")
    assert check.drifted is True
    assert set(check.classes[:2]) == {"cat", "eel"}
    assert check.sentence.startswith(f"label has drifted: {check.classes[0]} ")
    assert check_of(report, "brightness").drifted is False


def test_a_class_that_only_the_window_has_is_seen():
    window = sample(seed=1)
    window.labels[:600] = "axolotl"
    assert check_of(compare(sample(), window), "label").drifted is True


def test_a_difference_that_is_significant_but_small_is_no_drift():
    report = compare(sample(50_000), sample(50_000, seed=1, shift=0.01))
    check = check_of(report, "brightness")
    assert check.p_value < 1e-10
    assert check.psi < 0.05
    assert report.drifted is False


def test_few_rows_give_no_verdict_but_the_number_needed():
    report = compare(sample(), sample(199, seed=1, shift=-0.3))
    assert report.drifted is None
    assert report.reasons[0] == "brightness: no verdict with 199 rows in the window; at least 200 are needed."
    assert compare(sample(), sample(199, seed=1, shift=-0.3), limits=Limits(min_rows=100)).drifted is True
    assert "100 rows in the reference" in compare(sample(100), sample()).reasons[0]


def test_an_empty_window_and_nothing_in_common_give_no_verdict():
    empty = Sample({"brightness": np.empty(0)})
    report = compare(sample(), empty)
    assert report.drifted is None
    assert report.checks[0].window == []
    assert compare(Sample({"size": np.ones(500)}), sample()).drifted is None


def test_a_size_that_all_images_share_is_a_bin_of_its_own():
    def report(sizes):
        return compare(sample(size=np.full(2000, 28.0)), sample(seed=1, size=sizes))

    assert report(np.full(2000, 28.0)).drifted is False
    for other in (27.0, 29.0, 640.0):
        assert check_of(report(np.full(2000, other)), "size").drifted is True
    assert check_of(report(np.where(np.arange(2000) % 100, 28.0, 640.0)), "size").drifted is False


def test_the_index_is_what_the_formula_gives():
    expected = (0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5)
    assert drift.population_stability_index(np.array([5, 5]), np.array([20, 80])) == pytest.approx(expected)
    assert np.isfinite(drift.population_stability_index(np.array([5, 0]), np.array([0, 5])))


def test_the_bins_are_deciles_and_count_every_value_once():
    values = np.random.default_rng(0).normal(size=1000)
    counts = drift.histogram(values, drift.bin_edges(values))
    assert counts.tolist() == [100] * 10
    ties = np.repeat([1.0, 2.0], 500)
    assert drift.histogram(ties, drift.bin_edges(ties)).sum() == 1000


def test_without_a_change_the_index_is_as_the_limits_promise():
    # Yurdakul 2018: psi / (1/n + 1/m) follows a chi-square law with bins - 1 degrees of freedom.
    found = [
        check_of(compare(sample(20_000, seed=0), sample(200, seed=seed)), "brightness").psi for seed in range(1, 60)
    ]
    assert np.mean(found) == pytest.approx(9 / 200, rel=0.2)
    assert chi2.sf(0.2 * 200, df=9) < 1e-5


def test_many_rare_classes_do_not_look_like_drift():
    rng = np.random.default_rng(0)
    sides = [Sample({}, rng.integers(0, 1000, n).astype(str)) for n in (20_000, 500)]
    report = compare(*sides)
    assert report.drifted is False
    assert report.checks[0].psi < 0.05


def test_a_report_is_plain_json():
    report = compare(sample(), sample(seed=1, shift=0.3)).as_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["limits"] == {"psi": 0.2, "alpha": 0.01, "min_rows": 200}

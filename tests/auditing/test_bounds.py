"""dpgan_jax.auditing.bounds: limits that hold exactly, bounds that agree with jax-privacy's.

Where a guarantee is a probability over a finite set of outcomes, it is summed, not simulated: such
tests have no false alarms.
"""

from __future__ import annotations

import math

import dp_accounting
import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st
from jax_privacy import auditing
from sklearn import metrics

from dpgan_jax._validate import InputError
from dpgan_jax.auditing import bounds
from dpgan_jax.auditing.bounds import Errors, PrivacyCurve, Threshold


class TestLimits:
  @pytest.mark.parametrize(('trials', 'probability'), [(10, 0.5), (200, 0.01), (200, 0.9)])
  @pytest.mark.parametrize('failure', [0.2, 0.025])
  def test_are_missed_as_seldom_as_promised(self, trials, probability, failure):
    counts = np.arange(trials + 1)
    chance = scipy.stats.binom.pmf(counts, trials, probability)
    upper = bounds.upper_limit(counts, trials, failure)
    lower = bounds.lower_limit(counts, trials, failure)
    assert chance[upper < probability].sum() <= failure
    assert chance[lower > probability].sum() <= failure
    # And they are no wider than they must be: one count further, the promise would be broken.
    assert np.all(np.diff(upper) > 0)
    np.testing.assert_allclose(scipy.stats.binom.cdf(3, trials, upper[3]), failure, rtol=1e-6)

  def test_at_the_ends(self):
    assert bounds.upper_limit(7, 7, 0.05) == 1.0
    assert bounds.lower_limit(0, 7, 0.05) == 0.0
    assert bounds.upper_limit(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))

  def test_agree_with_scipy(self):
    for count in (0, 3, 50):
      interval = scipy.stats.binomtest(count, 50).proportion_ci(0.9, 'exact')
      assert bounds.lower_limit(count, 50, 0.05) == pytest.approx(interval.low)
      assert bounds.upper_limit(count, 50, 0.05) == pytest.approx(interval.high)


class TestErrors:
  def test_epsilon_of_rates(self):
    assert bounds.epsilon_of_rates(0.1, 0.3, 0.0) == pytest.approx(math.log(7))
    assert bounds.epsilon_of_rates(0.3, 0.1, 0.1) == pytest.approx(math.log(6))
    assert bounds.epsilon_of_rates(0.5, 0.5, 0.0) == 0
    assert bounds.epsilon_of_rates(0.7, 0.6, 0.0) == 0
    assert bounds.epsilon_of_rates(1.0, 0.0, 0.01) == 0
    assert bounds.epsilon_of_rates(0.0, 0.0, 0.01) == math.inf

  @pytest.mark.parametrize('epsilon', [0.3, 1.0, 2.0])
  def test_epsilon_is_exceeded_as_seldom_as_promised(self, epsilon):
    """Randomised response, the worst (ε, 0)-DP mechanism, over all outcomes of 60 + 60 runs."""
    n, confidence = 60, 0.9
    counts = np.arange(n + 1)
    chance = scipy.stats.binom.pmf(counts, n, 1 / (1 + math.exp(epsilon)))
    limits = bounds.upper_limit(counts, n, (1 - confidence) / 2)
    bound = bounds.epsilon_of_rates(limits[:, None], limits[None, :], 0.0)
    exceeded = (chance[:, None] * chance[None, :])[bound > epsilon].sum()
    assert 0 < exceeded <= 1 - confidence
    one = Errors(false_positives=5, num_out=n, false_negatives=9, num_in=n)
    assert one.epsilon(delta=0.0, confidence=confidence) == pytest.approx(bound[5, 9])

  def test_agrees_with_jax_privacy(self):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1.5, 1, 900), rng.normal(0, 1, 1100)
    for threshold in (-1.0, 0.7, 2.5):
      errors = Threshold(threshold).errors(inside, outside)
      theirs = auditing.CanaryScoreAuditor(inside, outside).epsilon_clopper_pearson(
        0.05, 1e-3, one_sided=False, threshold_strategy=auditing.Explicit(threshold)
      )
      assert errors.epsilon(delta=1e-3, confidence=0.95) == pytest.approx(theirs, rel=1e-6)

  @pytest.mark.parametrize(
    ('changes', 'words'),
    [
      ({'num_in': 0}, 'num_in >= 1, got 0'),
      ({'false_positives': 11}, r'false_positives in \[0, 10\], got 11'),
      ({'false_negatives': -1}, 'false_negatives'),
    ],
  )
  def test_refuses(self, changes, words):
    good = {'false_positives': 1, 'num_out': 10, 'false_negatives': 1, 'num_in': 10}
    with pytest.raises(InputError, match=words):
      Errors(**{**good, **changes})

  def test_refuses_a_confidence_that_is_none(self):
    errors = Errors(false_positives=1, num_out=10, false_negatives=1, num_in=10)
    with pytest.raises(InputError, match=r'confidence in \(0, 1\), got 1'):
      errors.epsilon(delta=0.0, confidence=1.0)


class TestThresholds:
  def test_errors_count_a_tie_as_in(self):
    errors = Threshold(2.0).errors(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))
    assert errors == Errors(false_positives=1, num_out=2, false_negatives=1, num_in=3)

  def test_candidates_keep_both_tails(self):
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=4000), rng.normal(size=4000)
    chosen = bounds.candidate_thresholds(inside, outside, most=100)
    pooled = np.sort(np.concatenate([inside, outside]))
    assert len(chosen) <= 100
    assert np.all(np.diff(chosen) > 0)
    assert set(pooled[[0, 1, 2, -3, -2, -1]]) <= set(chosen)
    few = bounds.candidate_thresholds(np.array([1.0, 1.0]), np.array([0.0]))
    np.testing.assert_array_equal(few, [0.0, 1.0])

  def test_rates_are_those_of_each_threshold(self):
    rng = np.random.default_rng(2)
    inside, outside = rng.integers(0, 9, 300) + 1.0, rng.integers(0, 9, 200) + 0.0
    thresholds = np.array([0.0, 3.0, 9.0, 20.0])
    fpr, fnr = bounds.rates_at(thresholds, inside, outside, 0.9)
    for i, value in enumerate(thresholds):
      wanted = Threshold(float(value)).errors(inside, outside).rates(0.9)
      assert (fpr[i], fnr[i]) == pytest.approx(wanted)


@pytest.fixture(scope='module')
def curve():
  return PrivacyCurve.of(dp_accounting.GaussianDpEvent(2.0), 'add_or_remove_one')


class TestPrivacyCurve:
  def test_allows_the_best_test_and_no_better(self, curve):
    """The likelihood ratio of N(0, σ²) and N(1, σ²) is optimal: any threshold is tight."""
    thresholds = np.linspace(-3, 4, 15)
    fpr = scipy.stats.norm.sf(thresholds / 2)
    fnr = scipy.stats.norm.cdf((thresholds - 1) / 2)
    margins = curve.margin(fpr, fnr)
    assert np.all(margins <= 0)
    assert np.all(margins > -1e-3)  # the accountant rounds up a little, the grid of ε skips some
    less_noise = curve.margin(
      scipy.stats.norm.sf(thresholds / 1.9), scipy.stats.norm.cdf((thresholds - 1) / 1.9)
    )
    assert np.all(less_noise[5:11] > 0)  # thresholds from -0.5 to 2, where errors are common

  def test_is_symmetric(self, curve):
    assert curve.margin(0.1, 0.6) == curve.margin(0.6, 0.1)
    assert curve.margin(0.1, 0.3) > 0 > curve.margin(0.4, 0.6)


class TestOneRun:
  @pytest.mark.parametrize('epsilon', [0.5, 2.0])
  def test_is_exceeded_as_seldom_as_promised(self, epsilon):
    """Every canary by randomised response on its own: the number of correct guesses is binomial."""
    guesses, confidence = 120, 0.9
    counts = np.arange(guesses + 1)
    chance = scipy.stats.binom.pmf(counts, guesses, 1 / (1 + math.exp(-epsilon)))
    found = np.array([
      bounds.one_run_epsilon(
        canaries=200, guesses=guesses, correct=int(v), delta=0.0, confidence=confidence
      )
      for v in counts
    ])  # fmt: skip
    assert 0 < chance[found > epsilon].sum() <= 1 - confidence
    assert np.all(np.diff(found) >= 0)
    assert found[60] == 0 < found[80]

  @pytest.mark.parametrize('delta', [1e-5, 1e-3])
  def test_agrees_with_jax_privacy(self, delta):
    """Theirs guesses "in" only: scores above a threshold are the guesses."""
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(2.5, 1, 260), rng.normal(0, 1, 240)
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    for threshold in (1.0, 2.0):
      theirs = auditor.epsilon_one_run(
        0.05, delta, threshold_strategy=auditing.Explicit(threshold)
      )
      correct = int(np.sum(inside >= threshold))
      ours = bounds.one_run_epsilon(
        canaries=500, guesses=correct + int(np.sum(outside >= threshold)), correct=correct,
        delta=delta, confidence=0.95,
      )  # fmt: skip
      assert ours == pytest.approx(theirs, abs=1e-4)
      assert ours > 0.3

  @hypothesis.given(
    st.integers(1, 300), st.floats(0, 1), st.floats(0, 4), st.floats(0.01, 2), st.floats(0, 1e-2)
  )
  def test_more_epsilon_explains_more(self, guesses, share, epsilon, more, delta):
    given = {'canaries': 300, 'guesses': guesses, 'correct': round(share * guesses)}
    p = [
      bounds.one_run_p_value(**given, epsilon=e, delta=delta)
      for e in (epsilon, epsilon + more)
    ]
    # Strictly so without δ; its term wobbles by less than any bound would notice.
    assert p[1] >= p[0] - 600 * delta * 0.05
    assert bounds.one_run_p_value(**given, epsilon=epsilon, delta=delta) >= (
      bounds.one_run_p_value(**given, epsilon=epsilon, delta=0.0)
    )

  def test_refuses_more_correct_than_guessed(self):
    with pytest.raises(InputError, match=r'correct in \[0, 5\], got 6'):
      bounds.one_run_epsilon(canaries=9, guesses=5, correct=6, delta=0.0, confidence=0.9)
    with pytest.raises(InputError, match=r'guesses in \[1, 9\], got 10'):
      bounds.one_run_epsilon(canaries=9, guesses=10, correct=6, delta=0.0, confidence=0.9)


class TestGuess:
  def test_scores_that_tell_all(self):
    present = np.random.default_rng(4).random(400) < 0.5
    found = bounds.guess(present * 1.0, present, delta=1e-5, confidence=0.95)
    assert found.correct == found.guesses
    assert found.auc == 1.0
    # All right, at a fifth of 5 %, of the half of all that can be called in or out at once.
    assert found.lower_bound > 3.5

  def test_pays_for_trying_several_numbers_of_guesses(self):
    rng = np.random.default_rng(5)
    present = rng.random(400) < 0.5
    scores = present + rng.normal(size=400)
    several = bounds.guess(scores, present, delta=0.0, confidence=0.95)
    share = several.guesses / 800
    alone = bounds.guess(scores, present, delta=0.0, confidence=0.95, shares=[share])
    assert alone.guesses == several.guesses
    assert alone.correct == several.correct
    assert several.lower_bound < alone.lower_bound

  def test_scores_that_tell_nothing(self):
    """False alarms: the bound must be above 0 in at most 10 % of 200 runs (4 σ: 37)."""
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(200):
      present = rng.random(100) < 0.5
      found = bounds.guess(rng.normal(size=100), present, delta=0.0, confidence=0.9)
      alarms += found.lower_bound > 0
    assert alarms <= 37


class TestAuc:
  def test_agrees_with_scikit_learn_ties_and_all(self):
    rng = np.random.default_rng(7)
    inside, outside = rng.integers(0, 12, 80) + 2, rng.integers(0, 12, 50)
    area, (low, high) = bounds.auc(inside, outside, 0.95)
    truth = np.repeat([1, 0], [80, 50])
    assert area == pytest.approx(metrics.roc_auc_score(truth, np.concatenate([inside, outside])))
    assert 0 < low < area < high < 1

  def test_interval_covers(self):
    """95 % of intervals hold the true Φ(1/√2) for unit normals: of 200, at least 178 (4 σ)."""
    rng = np.random.default_rng(8)
    truth = scipy.stats.norm.cdf(1 / math.sqrt(2))
    covered = 0
    for _ in range(200):
      _, (low, high) = bounds.auc(rng.normal(1, 1, 60), rng.normal(0, 1, 80), 0.95)
      covered += low <= truth <= high
    assert 178 <= covered < 200

  def test_without_two_groups(self):
    assert bounds.auc(np.array([]), np.array([1.0]), 0.9) == (0.5, (0.0, 1.0))

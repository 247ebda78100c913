"""The audit of tables: many releases of counts with and without one person, where they leak most.

The table holds nobody but the canary, a person whose rows are all alike, as many as the schema
allows; or nobody at all, or under 'replace_one' a person whose rows differ in every cell. A trial
is both releases as a run makes them, by the same code, with noise of its own. The adversary sees
all counts and knows the canary, so nobody can do better than compare likelihoods: add up the counts
of the canary's own cells, each release by its noise. With correct noise that is one Gaussian
mechanism, and the bound comes close to the accounted ε; scores of pairs, which few of it pays for,
show in nothing but which pairs are counted.

No data are read: what leaks of the counts is the same whatever else is in the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.auditing import gradient
from dpgan_jax.models.moments import release
from dpgan_jax.models.moments.encoding import Means
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.models.moments.tables.encoding import TableEncoding, of_second
from dpgan_jax.models.moments.tables.shrinkage import counted

STATISTICS = ('likelihood', 'contrast', 'scale', 'minus_scale')
"""What the adversary may look at. `likelihood` is optimal against correct releases; the others see
noise that two classes share, and noise whose scale depends on the data."""


def released(
  records: np.ndarray, labels: np.ndarray, moments: Moments, secret: bytes
) -> tuple[Means, np.ndarray]:
  """Both releases of rows float64 [n, C] of classes int [n], as a run makes them."""
  return release.release_both(moments.encoding.encode(records), labels, moments, secret)


def counts_bound(
  moments: Moments, *, trials: int = 4000, seed: int = 0, confidence: float = 0.95,
  progress: Callable[[float], None] | None = None,
) -> gradient.GradientAudit:  # fmt: skip
  """Lower bounds on the ε of both releases of a table, beside the ε that is accounted for them.

  Args:
    moments: what is claimed, of a table.
    trials: pairs of releases altogether, half of them with the canary.
    seed: of the noise; the audit is a function of it.
    confidence: of each statement.
    progress: is told the share of trials that is done.

  Guarantee: as of `gradient.gradient_bound`.

  Raises:
    InputError: releases of something else, or without noise; arguments out of range.
  """
  if not isinstance(moments.encoding, TableEncoding):
    raise _validate.InputError(f'expected a release of a table, got one of a {moments.spec.kind}')
  # Both together are one Gaussian mechanism.
  claimed = dataclasses.replace(moments.stages[MEANS], noise_multiplier=moments.noise_multiplier)
  gradient.check(claimed, trials, confidence)
  rows = _canary(moments.encoding)
  nobody = np.zeros((0, rows.shape[1])), np.zeros(0, np.int32)
  canary = rows[:1].repeat(moments.encoding.schema.rows_per_unit, axis=0)
  other = rows[1:].repeat(moments.encoding.schema.rows_per_unit, axis=0)
  label = np.zeros(len(canary), np.int32)
  replaced = claimed.neighboring_relation == 'replace_one'
  worlds = ((other, label) if replaced else nobody), (canary, label)
  each, scores = trials // 2, np.empty((2, trials // 2, len(STATISTICS)))
  for world, data in enumerate(worlds):
    for i in range(each):
      secret = np.random.default_rng([seed, world, i]).bytes(32)
      found = released(*data, moments, secret)
      scores[world, i] = _seen(rows[:1], moments, *found)
      if replaced:  # by somebody who is known too
        scores[world, i, 0] -= _seen(rows[1:], moments, *found)[0]
      if progress is not None:
        progress((world + (i + 1) / each) / 2)
  return gradient.judge(claimed, 1, scores[1], scores[0], confidence, STATISTICS)


def _canary(encoding: TableEncoding) -> np.ndarray:
  """Two rows float64 [2, C] that share no cell where a column has two: its first and its last."""
  return np.stack([cells.middles[[-1, 0]] for cells in encoding.fine], axis=1)


def _seen(row: np.ndarray, moments: Moments, means: Means, seconds: np.ndarray) -> np.ndarray:
  """`STATISTICS` of both releases, about a canary of rows [1, C] of class 0."""
  encoding = moments.encoding
  assert isinstance(encoding, TableEncoding)
  fine = encoding.encode(row)[0]
  coarse = np.array([w[cell] for w, cell in zip(encoding.within(means), fine, strict=True)])
  firsts = fine + np.cumsum([0, *encoding.fine_sizes[:-1]])
  places = coarse + np.cumsum([0, *encoding.sizes[:-1]])
  known, classes = np.triu(counted(seconds, encoding.sizes)), moments.spec.num_classes
  groups = np.where(known, seconds[:, places[:, np.newaxis], places], 0.0).sum(axis=(1, 2))
  # A row adds 1 to each of P counts: a sum over its cells has the mean kP and the variance σ²k²P².
  sigmas = [moments.stages[name].noise_multiplier for name in (MEANS, SECONDS)]
  sigmas[1] = of_second(sigmas[1])[1]
  first, second = (
    1 / (sigma**2 * encoding.schema.rows_per_unit * max(int(count), 1))
    for sigma, count in zip(sigmas, (len(firsts), known.any(axis=0).sum()), strict=True)
  )
  each = [first * means.sums[k, firsts].sum() + second * groups[k] for k in range(classes)]
  own = each[0] + second * groups[classes:].sum()
  others = each[-1] if classes > 1 else own
  left = np.delete(means.sums[0], firsts)
  scale = float(np.square(left).mean()) if len(left) else 0.0
  return np.array([own, own - others, scale, -scale])

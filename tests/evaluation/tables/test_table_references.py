"""Worthless tables: what each of them keeps of the real one, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.evaluation.tables import cells, marginals, references
from tests.support.tables import people


def test_permuted_keeps_rows_and_classes_but_not_their_relation():
  real = people(500, seed=0)
  found = references.noise('permuted', real, seed=1)
  np.testing.assert_array_equal(found.records, real.records)
  assert np.bincount(found.labels).tolist() == np.bincount(real.labels).tolist()
  assert (found.labels != real.labels).any()


def test_independent_keeps_every_column_and_no_relation():
  real = people(3000, seed=0)
  found = references.noise('independent', real, seed=1)
  np.testing.assert_array_equal(np.sort(found.records, axis=0), np.sort(real.records, axis=0))
  ours, theirs = (marginals.relations(cells.table(t)) for t in (found, real))
  others = ~np.eye(len(ours), dtype=bool)
  assert ours[others].max() < 0.1 < 0.5 < theirs[others].max()


def test_static_is_even_in_the_public_domain():
  real = people(6000, seed=0)
  found = references.noise('static', real, seed=1)  # every value passes the checks of a table
  age, town = found.records[:, 0], found.records[:, 2]
  assert age.mean() == pytest.approx(60, abs=2)
  assert np.bincount(town.astype(int)) / 6000 == pytest.approx(np.full(4, 0.25), abs=0.03)
  assert found.labels.mean() == pytest.approx(0.5, abs=0.03)
  assert np.isnan(found.records[:, 1]).any()
  assert (found.records[:, 0] == np.rint(found.records[:, 0])).all()


@pytest.mark.parametrize('kind', references.NOISES)
def test_a_seed_is_a_table(kind):
  real = people(100, seed=0)
  one, same, other = (references.noise(kind, real, seed=s) for s in (1, 1, 2))
  np.testing.assert_array_equal(one.records, same.records)
  np.testing.assert_array_equal(one.labels, same.labels)
  assert (one.labels != other.labels).any()


def test_another_kind_is_refused():
  with pytest.raises(InputError, match='kind'):
    references.noise('pink', people(9, seed=0), seed=0)

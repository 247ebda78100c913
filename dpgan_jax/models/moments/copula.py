"""Gaussian copulas of columns with cells: from moments of scores to correlations, free of cost.

Behind each column lies a standard normal, cut into the column's cells by its shares. A cell's score
is the normal's mean within it. Scores vary less than the normals, and their correlation is smaller
than the correlation ρ of the normals. It is, exactly, the series Σ aₖbₖρᵏ over k ≥ 1, with the
coefficients of both scores in Hermite polynomials (Mehler 1866); it grows with ρ, and ρ is where it
meets what was released: a polychoric correlation from one moment.

>>> halves = Marginal(np.arange(2), np.array([0.5, 0.5]))
>>> halves.scores.round(3).tolist()
[-0.798, 0.798]
>>> of_both = np.array([[1.0, 0.5], [0.5, 1.0]])  # of two such columns: (2/π)·arcsin ρ = 1/2
>>> found = factor(of_both, [halves] * 2)
>>> bool(abs((found @ found.T)[0, 1] - np.sin(np.pi / 4)) < 0.01)
True
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.special

_TERMS = 40  # of the series; ρᵏ of the next is below 0.02 up to ρ = 0.9
_STRONGEST = 0.995  # |ρ| that is looked for
_LEAST_EIGENVALUE = 1e-4
_HALVINGS = 30


@dataclasses.dataclass(frozen=True)
class Marginal:
  """The distribution of one column in one class.

  Attributes:
    order: int [cells], the cells from the lowest to the highest score.
    shares: float64 [cells], in that order; ≥ 0, their sum 1.
  """

  order: np.ndarray
  shares: np.ndarray

  @functools.cached_property
  def _cuts(self) -> np.ndarray:
    """Where the normal is cut, float64 [cells + 1], from -∞ to ∞."""
    levels = np.clip(np.cumsum(self.shares), 0, 1)
    levels[-1] = 1.0
    return np.append(-np.inf, scipy.special.ndtri(levels))

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """Of each cell in the order, the mean of a standard normal in it; of one without a share, the
    place where it would be: float64 [cells].
    """
    low, high = self._cuts[:-1], self._cuts[1:]
    inside = _density(low) - _density(high)
    tiny = self.shares < 1e-9
    with np.errstate(invalid='ignore', divide='ignore'):
      means = np.where(tiny, 0.0, inside / self.shares)
    places = np.clip(np.where(np.isfinite(low), low, high), -4, 4)
    return np.where(tiny, np.where(np.isfinite(places), places, 0.0), means)

  @functools.cached_property
  def hermite(self) -> np.ndarray:
    """Coefficients of the score in normalised Hermite polynomials of degree 1 ...: [terms]."""
    finite = np.where(np.isfinite(self._cuts), self._cuts, 0.0)
    density = np.where(np.isfinite(self._cuts), _density(self._cuts), 0.0)
    before, polynomial = np.zeros_like(finite), np.ones_like(finite)  # of degree k - 1, normalised
    found = []
    for k in range(1, _TERMS + 1):
      edges = polynomial * density / np.sqrt(k)
      found.append(float(self.scores @ (edges[:-1] - edges[1:])))
      before, polynomial = (
        polynomial, (finite * polynomial - np.sqrt(k - 1) * before) / np.sqrt(k)
      )  # fmt: skip
    return np.array(found)

  def at(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells that levels in [0, 1] of the column fall into, and where in them: int, float [n].

    The higher its place, the larger the value within a cell.
    """
    ends = np.cumsum(self.shares)
    found = np.searchsorted(ends, levels * ends[-1], side='right')
    found = np.minimum(found, np.flatnonzero(self.shares > 0)[-1])
    starts = ends[found] - self.shares[found]
    places = (levels * ends[-1] - starts) / np.maximum(self.shares[found], 1e-300)
    return self.order[found], np.clip(places, 0, 1)


def factor(covariance: np.ndarray, columns: Sequence[Marginal]) -> np.ndarray:
  """A matrix that turns independent standard normals into those behind the columns.

  Args:
    covariance: float64 [C, C], of the scores of all columns.
    columns: of each, its distribution.

  Returns:
    float64 [C, C], the root of a correlation matrix.
  """
  coefficients = np.stack([column.hermite for column in columns])
  spreads = np.sqrt([max(float(c.shares @ c.scores**2), 1e-12) for c in columns])
  sizes = np.sqrt(np.maximum(np.diagonal(covariance), 1e-12))
  wanted = covariance / np.outer(sizes, sizes) * np.outer(spreads, spreads)
  correlations = _correlations(wanted, coefficients)
  np.fill_diagonal(correlations, 1.0)
  values, vectors = np.linalg.eigh(correlations)
  root = vectors * np.sqrt(np.maximum(values, _LEAST_EIGENVALUE))
  return root / np.linalg.norm(root, axis=1, keepdims=True)


def _correlations(wanted: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
  """ρ of each pair whose scores have the covariance `wanted`, by halving [-1, 1]."""
  low, high = np.full_like(wanted, -_STRONGEST), np.full_like(wanted, _STRONGEST)
  for _ in range(_HALVINGS):
    middle = (low + high) / 2
    found = np.zeros_like(wanted)
    for k in range(_TERMS - 1, -1, -1):  # Horner's rule
      found = (found + np.outer(coefficients[:, k], coefficients[:, k])) * middle
    low, high = np.where(found < wanted, middle, low), np.where(found < wanted, high, middle)
  return (low + high) / 2


def _density(x: np.ndarray) -> np.ndarray:
  return np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi)

"""What a release of moments is going to be, from settings and the public facts about the data."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import dp_accounting
import jax
import numpy as np

from dpgan_jax import _validate
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.config import LONGEST_CODE, TrainConfig
from dpgan_jax.models.moments.encoding import Axes, Cells, Encoding
from dpgan_jax.models.moments.images.encoding import ImageEncoding, noise_of_cells
from dpgan_jax.models.moments.images.features import Features
from dpgan_jax.models.moments.images.scattering_encoding import DRAFT_SHARE, ScatteringEncoding
from dpgan_jax.models.moments.series.encoding import SeriesEncoding
from dpgan_jax.models.moments.tables.encoding import TableEncoding
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.releases import marginals
from dpgan_jax.privacy.releases.selection import SelectionMechanism

MEANS, SECONDS = 'moments_means', 'moments'
SCHEMA = 'schema'  # what a table's columns may hold, where the run finds that (`models.domains`)
_SERIES_SHARE = 0.3  # on held-out stays of PhysioNet's sets a and b
# Of images, on held-out training images: experiments/results/OWN_DATA.md, its table of defaults.
_MOST_COEFFICIENTS, _FEWEST_COEFFICIENTS = 144, 9
_MOST_FEATURES = 150  # where a generator matches moments: numbers of each image's code
_IMAGE_SHARES = {'of each class': 0.45, 'pooled': 0.7}
# In units of a covariance's mean eigenvalue, how far eigenvalues of noise reach: with more, images
# have fewer coefficients, classes one covariance, a class one cell. The last two by hand.
_MOST_NOISE, _MOST_NOISE_OF_A_CLASS, _MOST_NOISE_OF_A_CELL = 3.0, 12.0, 3.0
_LEAST_CELL = 10.0  # in units of the noise of its count; twice what a cell is dropped below
_CELLS = 16, 8  # of a divided class; two or four were no better than one, by hand
# How far an image may be from the mean, in units of how far they usually are: little where noise in
# the mean of a class, in the same units, is more than this, and farther the less there is.
_LEAST_REACH, _MOST_REACH, _NOISE_OF_LEAST = 0.8, 1.6, 0.003
# Of a table: one-way counts get a share that falls with the root of how often the rows are as many
# as the noise. Two columns that go together by so much (Cramér's V) are still seen to, in as many
# coarse cells as numbers have; they are ten while there is room. A fine cell's average count is so
# many deviations of its noise; the fewest are by hand, all else was chosen on held-out training
# rows of Adult and generated tables: experiments/results/TABLES.md, its last table.
_SHARE_AT_ONE, _LEAST_SHARE, _LARGEST_SHARE = 6.0, 0.1, 0.6
_WEAKEST_RELATION, _FEWEST_CELLS, _FEW_CELLS, _MOST_CELLS = 0.1, 6, 10, 20
_FINE_OVER_NOISE, _FEWEST_FINE, _MOST_FINER = 6.0, 64, 8
_ALL_CELLS = 1500  # of a table, about: all their pairs are counted
# Of series: so many cosines over time in all channels together, and at most so many in one.
_ALL_SHAPES, _MOST_SHAPES = 30, 24
_MOST_PAIRS = 2**27  # of cells, of all classes together: 1 GiB of counts


@dataclasses.dataclass(frozen=True)
class Moments:
  """The parts of a release of moments.

  Attributes:
    config: the settings.
    spec: what is public of the data.
    detail: of an image, how many frequencies it has; of a table, how many cells a number; of
      series, how many cosines a channel.
    stages: the mechanisms `MEANS` and `SECONDS`, and `SCHEMA` of a table whose schema was found.
    cells: of images, how many Gaussians a class is made of.

  Raises:
    InputError: stages of another size than the data, or that are none of a release of moments; a
      schema that another run has found.
  """

  config: TrainConfig
  spec: Spec
  detail: int
  stages: Mapping[str, DPMechanism]
  cells: int = 1

  def __post_init__(self) -> None:
    if is_found(self.spec) and SCHEMA not in self.stages:
      raise _validate.InputError(
        'expected a public schema, got one with entries ("found") that a run has found privately: '
        'what that cost counts too. Find them again with schema_epsilon, or confirm them: take '
        'their names out of "found"'
      )
    if set(self.stages) - ({SCHEMA} if is_found(self.spec) else set()) != {MEANS, SECONDS}:
      raise _validate.InputError(
        f'expected the stages {MEANS} and {SECONDS}, got {", ".join(self.stages) or "none"}'
      )
    records = self.spec.num_records
    for name, mechanism in self.stages.items():
      whole = mechanism.batch_size == records < mechanism.truncated_batch_size
      if mechanism.steps != 1 or not whole or mechanism.l2_clip_norm != 1:
        raise _validate.InputError(
          f'expected {name} to be one step over all {records} records, uncut and of sensitivity 1, '
          f'got {mechanism}'
        )
    _validate.integer('dim', self.detail, minimum=1, maximum=LONGEST_CODE)
    self._check_cells()
    second = self.encoding.second_dim  # refuses a length that no code has
    groups = self.encoding.second_groups(self.spec.num_classes)
    if self.spec.schema is not None and groups * second**2 > _MOST_PAIRS:
      raise _validate.InputError(
        f'expected fewer categories, columns, classes or moments_coefficients: {second} cells of '
        f'columns in {groups} classes have more pairs than can be counted'
      )

  def _check_cells(self) -> None:
    if _validate.integer('moments_cells', self.cells, minimum=1, maximum=64) == 1:
      return
    if self.spec.schema is not None:
      what = f'one with a {self.spec.kind}'
    elif is_pooled(self.spec, self.detail, self.stages[SECONDS].noise_multiplier):
      what = 'one, as classes have one covariance together'
    elif self.cells & (self.cells - 1) or self.cells >= 2**self.detail:
      what = 'a power of two below 2 to the number of coefficients'
    else:
      return
    raise _validate.InputError(f'expected moments_cells to be {what}, got {self.cells}')

  @functools.cached_property
  def encoding(self) -> Encoding:
    """How records become codes."""
    noise = self.stages[MEANS].noise_multiplier
    if isinstance(self.spec.schema, SeriesSchema):
      return SeriesEncoding(self.spec.schema, self.detail, noise)
    if self.spec.schema is not None:
      return _of_table(self.spec, self.spec.schema, self.detail, noise)
    height, width, channels = self.spec.shape
    pooled = is_pooled(self.spec, self.detail, self.stages[SECONDS].noise_multiplier)
    reach = _reach(self.spec, self.detail, noise)
    about = (height, width, channels), self.detail, reach, pooled, self.cells
    if self.config.matching_steps is None:
      return ImageEncoding(*about)
    of_draft = noise / math.sqrt(DRAFT_SHARE)
    most = min(_MOST_COEFFICIENTS, math.prod(self.spec.shape))
    return ScatteringEncoding(*about, min(_worth(self.spec, of_draft), most))

  @property
  def noise_multiplier(self) -> float:
    """Of the one Gaussian release that costs as much as both."""
    first, second = (self.stages[name].noise_multiplier for name in (MEANS, SECONDS))
    return first * second / math.hypot(first, second) if first and second else 0.0

  @property
  def dim(self) -> int:
    """d, how many sums the first release has of a class, or of all."""
    return self.encoding.dim

  @property
  def shape_of_sums(self) -> tuple[int, int]:
    """(G, d): of each class, or of all together."""
    return self.encoding.groups(self.spec.num_classes), self.dim

  @property
  def shape_of_seconds(self) -> tuple[int, int, int]:
    """(L, s, s): of each class, or of all together."""
    second = self.encoding.second_dim
    return self.encoding.second_groups(self.spec.num_classes), second, second

  @property
  def abstract_axes(self) -> Any:
    """Shapes and dtypes of `Means.axes`; () of what has none."""
    if not isinstance(self.encoding, ScatteringEncoding):
      return ()
    count = self.encoding.features.count
    shapes: Any = (count, self.dim), (count,), (self.dim,)
    return Axes(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))

  @property
  def abstract_cells(self) -> Any:
    """Shapes and dtypes of `Means.cells`; () of what has none."""
    if self.cells == 1:
      return ()
    of_each = self.spec.num_classes, self.cells
    shapes: Any = of_each, (*of_each, self.dim), ()
    return Cells(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))

  @property
  def budget(self) -> Budget:
    """All mechanisms; the last is the main stage, others count whole from the start."""
    return budget_of(self.stages)

  def to_record(self) -> dict[str, Any]:
    """What `read` makes it of again, beside the description of the data; JSON-ready."""
    return {
      'config': self.config.to_dict(),
      'dim': self.detail,
      'cells': self.cells,
      'stages': {name: m.to_dict() for name, m in self.stages.items()},
    }


def is_found(spec: Spec) -> bool:
  """Whether a run finds, or has found, some of the schema."""
  return spec.schema is not None and any(column.found for column in spec.schema.columns)


def budget_of(stages: Mapping[str, DPMechanism]) -> Budget:
  """All stages of a release of moments; `SECONDS` is the main one."""
  others = {name: m for name, m in stages.items() if name != SECONDS}
  return Budget(stages[SECONDS], others, SECONDS)


def make(config: TrainConfig, spec: Spec) -> Moments:
  """What the settings ask for: of `target_epsilon` as much as a release can spend.

  Raises:
    InputError: an ε that no noise reaches.
  """
  if spec.schema is None:
    return _make_images(config, spec)
  for name in ('matching_steps', 'moments_cells'):
    if (value := getattr(config, name)) is not None:
      raise _validate.InputError(f'expected no {name} with a {spec.kind}, got {value}: of images')
  found = mechanisms(config, spec)
  return Moments(config, spec, detail_of(config, spec, found), found)


def _make_images(config: TrainConfig, spec: Spec) -> Moments:
  """Few records at little ε have fewer coefficients, and one covariance for all classes."""
  found = {
    name: mechanisms(config, spec, usual_share=share)
    for name, share in _IMAGE_SHARES.items()
  }
  sigma = {name: stages[SECONDS].noise_multiplier for name, stages in found.items()}
  most, worth = math.prod(spec.shape), _MOST_COEFFICIENTS
  if config.matching_steps is not None:
    height, width, channels = spec.shape
    most, worth = Features((height, width, channels)).count, _MOST_FEATURES
  dim = config.moments_coefficients or min(worth, most, _worth(spec, sigma['pooled']))
  _validate.integer('moments_coefficients', dim, minimum=1, maximum=most)
  pooled = is_pooled(spec, dim, sigma['of each class'])
  cells = config.moments_cells or _cells(spec, dim, found['of each class'])
  return Moments(config, spec, dim, found['pooled' if pooled else 'of each class'], cells)


def _worth(spec: Spec, noise_multiplier: float) -> int:
  """How many numbers of each image have one covariance for all classes that is not all noise."""
  of_noise = _MOST_NOISE * spec.num_records / (math.sqrt(2) * max(noise_multiplier, 1e-9))
  return int(max(_FEWEST_COEFFICIENTS, of_noise ** (2 / 3)))


def is_pooled(spec: Spec, dim: int, noise_multiplier: float) -> bool:
  """Whether images have one covariance for all classes: where those of each would be noise.

  More noise never undoes it, so that the noise of either way gives the same answer as the way that
  was taken.
  """
  return _of_covariances(spec, dim, noise_multiplier) > _MOST_NOISE_OF_A_CLASS


def _cells(spec: Spec, dim: int, stages: Mapping[str, DPMechanism]) -> int:
  """Of how many Gaussians a class is: of one, where those of parts would be noise, or of few."""
  noise = _of_covariances(spec, dim, stages[SECONDS].noise_multiplier)
  fewest = max(2 * dim, _LEAST_CELL * noise_of_cells(dim, stages[MEANS].noise_multiplier))
  of_a_class = spec.num_records / spec.num_classes
  fit = (c for c in _CELLS if c * noise <= _MOST_NOISE_OF_A_CELL and of_a_class >= c * fewest)
  return next(fit, 1)


def _of_covariances(spec: Spec, dim: int, noise_multiplier: float) -> float:
  """How far eigenvalues of noise reach, in units of the mean one of a class's covariance.

  Noise of deviation σ·ρ² on a d × d sum has eigenvalues up to σ·ρ²·√(2d) (Wigner's semicircle), and
  the mean eigenvalue of n images' is n·ρ²/d, ρ being about how long they are.
  """
  return noise_multiplier * math.sqrt(2) * dim**1.5 * spec.num_classes / spec.num_records


def mechanisms(
  config: TrainConfig, spec: Spec, before: Mapping[str, DPMechanism] | None = None, *,
  usual_share: float | None = None,
) -> dict[str, DPMechanism]:  # fmt: skip
  """Those of a release of moments, of as little noise as `target_epsilon` allows.

  Args:
    config: the settings.
    spec: N, and of a table its columns.
    before: other releases of the same records, which are among what is returned.
    usual_share: of the first release, where the settings say nothing; of tables it follows from
      their rows and columns, and of series it is fixed.

  Raises:
    InputError: an ε that no noise reaches.
  """
  assert config.target_epsilon is not None  # TrainConfig has checked it

  def stages(noise_multiplier: float, share: float = 0.5) -> dict[str, DPMechanism]:
    """The two cost together what one Gaussian release of `noise_multiplier` does."""
    return dict(before or {}) | {
      name: DPMechanism.create(
        num_examples=spec.num_records,
        batch_size=spec.num_records,  # everybody takes part, once
        l2_clip_norm=1.0,  # in units of what a record adds at most: noise is in the same
        noise_multiplier=noise_multiplier / math.sqrt(part),
        steps=1,
        delta=config.delta,
        neighboring_relation=config.neighboring_relation,
      )
      for name, part in ((SECONDS, 1 - share), (MEANS, share))
    }

  sigma = 0.0
  if math.isfinite(config.target_epsilon):
    sigma = accounting.calibrate_noise_multiplier(
      lambda s: dp_accounting.ComposedDpEvent([m.event() for m in stages(s).values()]),
      target_epsilon=config.target_epsilon,
      delta=config.delta,
      neighboring_relation=config.neighboring_relation,
    )
  usual_share = usual_share or _usual_share(spec, sigma)
  return stages(sigma, config.moments_means_share or usual_share)


def _usual_share(spec: Spec, noise_multiplier: float) -> float:
  """Of the first release of tables and series."""
  if spec.kind != 'table':
    return _SERIES_SHARE
  root = math.sqrt(rows_over_noise(spec, noise_multiplier))
  return min(max(_SHARE_AT_ONE / root, _LEAST_SHARE), _LARGEST_SHARE)


def _reach(spec: Spec, dim: int, noise_multiplier: float) -> float:
  """Pulling images in makes them more alike, and noise smaller."""
  noise = noise_multiplier * math.sqrt(dim) * spec.num_classes / spec.num_records
  worth = _LEAST_REACH * math.sqrt(_NOISE_OF_LEAST / max(noise, 1e-300))
  return max(_LEAST_REACH, min(worth, _MOST_REACH))


def detail_of(config: TrainConfig, spec: Spec, stages: Mapping[str, DPMechanism]) -> int:
  """What the settings say, or what public numbers let expect to be worth releasing.

  N rows in b × b cells of two columns, with Cramér's V, are away from what independent columns have
  by about N·V/√b, and the largest singular value of noise of deviation s in each cell is about
  2s√b. So b = N·V/2s cells are the most in which such a relation is seen.

  Args:
    config: the settings.
    spec: what is public of the data.
    stages: the mechanisms, of which the second release is looked at.
  """
  assert spec.schema is not None
  if isinstance(spec.schema, SeriesSchema):
    most = spec.schema.grid.steps - 1
    worth = round(_ALL_SHAPES / len(spec.schema.channels))
    shapes = config.moments_coefficients or max(1, min(worth, _MOST_SHAPES, most))
    return _validate.integer('moments_coefficients', shapes, minimum=1, maximum=most)
  if config.moments_coefficients is not None:
    return config.moments_coefficients
  squared = marginals.squared_sensitivity(math.comb(spec.shape[0], 2), spec.schema.rows_per_unit)
  # Of all classes together.
  noise = stages[SECONDS].noise_multiplier * math.sqrt(squared * spec.num_classes)
  worth = expected_rows(spec) * _WEAKEST_RELATION / max(2 * noise, 1e-300)
  columns = spec.schema.modelled
  numbers = sum(column.is_number for column in columns)
  room = (_ALL_CELLS - sum(len(c.categories) for c in columns)) / max(numbers, 1)
  return int(max(_FEWEST_CELLS, min(max(worth, _FEW_CELLS), room, _MOST_CELLS)))


def expected_rows(spec: Spec) -> float:
  """About how many rows a table has, by public numbers: of a person half of what they may have."""
  rows = 1 if spec.schema is None else (1 + spec.schema.rows_per_unit) / 2
  return spec.num_records * rows


def rows_over_noise(spec: Spec, noise_multiplier: float) -> float:
  """How often the rows of a table are as many as the noise of a two-way count, but for √2."""
  k = 1 if spec.schema is None else spec.schema.rows_per_unit
  return expected_rows(spec) / max(noise_multiplier * k * spec.shape[0], 1e-300)


def _of_table(spec: Spec, schema: Schema, bins: int, noise_multiplier: float) -> TableEncoding:
  noise = noise_multiplier * schema.rows_per_unit * math.sqrt(spec.shape[0] * spec.num_classes)
  worth = expected_rows(spec) / max(_FINE_OVER_NOISE * noise, 1e-300)
  intervals = int(max(_FEWEST_FINE, 2 * bins, min(worth, _MOST_FINER * bins)))
  return TableEncoding(schema, bins, intervals, noise_multiplier)


def read(saved: Mapping[str, Any], spec: Spec) -> Moments:
  """The inverse of `Moments.to_record`.

  Raises:
    InputError: settings or mechanisms that do not validate.
    KeyError, TypeError: not such a record.
  """
  config = TrainConfig.from_dict(saved['config'])
  # Those before cells have none.
  return Moments(config, spec, saved['dim'], read_stages(saved['stages']), saved.get('cells', 1))


def read_stages(saved: Mapping[str, Any]) -> dict[str, DPMechanism]:
  """Mechanisms by name, of their records."""
  kinds = {SCHEMA: SelectionMechanism}
  return {str(name): kinds.get(name, DPMechanism).from_dict(m) for name, m in saved.items()}

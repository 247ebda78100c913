"""A release of moments as a stage, and what a run has released."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _devices, _keys, _progress, _validate
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.models.moments import release
from dpgan_jax.models.moments.encoding import Axes, Cells, Means
from dpgan_jax.models.moments.images import matching
from dpgan_jax.models.moments.images.encoding import Gaussians
from dpgan_jax.models.moments.settings import MEANS, SECONDS, Moments
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.run import generator_file
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases.stage import NoMetrics, Stage, State

_OTHER_CELLS_BEFORE = 9  # of config.json's format


class MomentsState(NamedTuple):
  """What a release of moments has given so far; covered by the guarantee but for the key.

  Attributes:
    step: int32; 1 when everything is released.
    counts: float32 [K].
    sums: float32 [G, d].
    scale: float32; of `Means`.
    seconds: float32 [L, s, s].
    sample_key: what the run's own samples are drawn with.
    axes: float32, of `Means`; () of what has none.
    cells: likewise.
  """

  step: jax.Array
  counts: jax.Array
  sums: jax.Array
  scale: jax.Array
  seconds: jax.Array
  sample_key: jax.Array
  axes: Axes | tuple[()] = ()
  cells: Cells | tuple[()] = ()


class MomentsStage(Stage):
  """Two releases on the host: class means before the one step, covariances in it."""

  name, stride = SECONDS, 1

  def __init__(
    self, moments: Moments, dataset: ImageDataset | TableDataset, *, folder: str = '.'
  ) -> None:
    """Reads and writes nothing yet; metrics and checkpoints go to `folder` within the run's."""
    self._moments, self._dataset, self.folder = moments, dataset, folder
    self.mechanisms = {name: moments.stages[name] for name in (MEANS, SECONDS)}
    self._secret = b''

  def init(self, key: jax.Array) -> MomentsState:
    return nothing_released(self._moments, key)

  def data(self) -> tuple[np.ndarray, ...]:
    return self._moments.encoding.encode(self._dataset.records), self._dataset.labels

  def release(self, state: MomentsState, data: tuple[Any, ...], secret: bytes) -> MomentsState:
    self._secret = secret
    codes, labels = data
    means = release.release_means(codes, labels, self._moments, secret)
    # Float32 whatever JAX is set to: what files hold is compared with it.
    arrays = {
      name: jnp.asarray(getattr(means, name), jnp.float32) for name in ('counts', 'sums', 'scale')
    }
    axes = () if means.axes is None else Axes(*map(jnp.asarray, means.axes))
    cells = () if means.cells is None else Cells(*map(jnp.asarray, means.cells))
    return state._replace(**arrays, axes=axes, cells=cells)

  def chunk(self, length: int) -> Callable[..., tuple[State, Any]]:
    del length  # there is one step

    def take(
      state: MomentsState, codes: np.ndarray, labels: np.ndarray
    ) -> tuple[MomentsState, NoMetrics]:
      assert self._secret  # `release` came first
      means = means_of(state)
      seconds = release.release_seconds(codes, labels, means, self._moments, self._secret)
      seconds = jnp.asarray(seconds, jnp.float32)
      return state._replace(step=state.step + 1, seconds=seconds), NoMetrics()

    return take


def nothing_released(moments: Moments, key: jax.Array) -> MomentsState:
  """The state before anything is read."""
  shapes = (moments.spec.num_classes,), moments.shape_of_sums, (), moments.shape_of_seconds
  counts, sums, scale, seconds = (jnp.zeros(shape, jnp.float32) for shape in shapes)
  abstract = moments.abstract_axes, moments.abstract_cells
  beside = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract)
  return MomentsState(jnp.zeros((), jnp.int32), counts, sums, scale, seconds, key, *beside)


def means_of(state: MomentsState) -> Means:
  """The first release."""
  counts, sums = (np.asarray(array, np.float64) for array in (state.counts, state.sums))
  axes = Axes(*map(np.asarray, state.axes)) if state.axes else None
  cells = Cells(*map(np.asarray, state.cells)) if state.cells else None
  return Means(counts, sums, float(state.scale), axes, cells)


def released(moments: Moments, state: MomentsState) -> MomentsSynthesizer:
  """The model that a finished stage leaves."""
  return MomentsSynthesizer(moments, means_of(state), np.asarray(state.seconds, np.float64))


def with_network(
  model: MomentsSynthesizer, run: RunDir, key: jax.Array, *, progress: bool
) -> MomentsSynthesizer:
  """The model with the generator that its settings ask for, if any: of the run's file, or taught
  now and kept there. No record has a part in it, and nothing is charged.

  Args:
    model: what the run has released.
    run: its directory.
    key: of teaching; the same gives the same on one machine.
    progress: show how far it is on stderr.
  """
  steps = model.config.matching_steps
  if steps is None:
    return model
  if not run.matched.exists():
    show = _progress.WorkProgress() if progress and _devices.is_owner() else None
    told = None if show is None else functools.partial(show.update, 'a generator matches moments')
    assert isinstance(model.model, Gaussians)  # of images
    found = matching.fit(model.model, steps=steps, key=key, progress=told)
    if show is not None:
      show.close()
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params)):
      raise _validate.InputError(
        f'the generator of {steps} steps that matches moments has diverged: nothing of it is kept; '
        'the release stays as it is, and other matching_steps need a new run'
      )
    taught = dataclasses.replace(model, network=found.params)
    generator_file.save(taught, run.matched)
  return read_network(model, run)


def read_network(model: MomentsSynthesizer, run: RunDir) -> MomentsSynthesizer:
  """`with_network` of a run that has it already.

  Raises:
    InputError: its file is not there, or of another release.
  """
  if model.config.matching_steps is None:
    return model
  if not run.matched.is_file():
    raise _validate.InputError(f'{run.path} has no generator yet: let dpgan_jax.train run')
  remedy = 'delete it, and let dpgan_jax.train make it again'
  try:
    saved = generator_file.load(run.matched)
  except _validate.InputError as error:
    raise _validate.InputError(f'{error}; {remedy}') from None
  if not isinstance(saved, MomentsSynthesizer) or not all(
    np.array_equal(one, other)
    for one, other in zip(_arrays(saved), _arrays(model), strict=True)
  ):
    raise _validate.InputError(
      f'{run.matched} does not match what this run has released: {remedy}'
    )
  return dataclasses.replace(model, network=saved.network)  # all else is what the run says


def _arrays(model: MomentsSynthesizer) -> tuple[np.ndarray, ...]:
  means = model.means
  return means.counts, means.sums, model.seconds, *(means.axes or ()), *(means.cells or ())


def is_readable(moments: Moments, run: RunDir) -> bool:
  """Whether this version knows what the numbers that a run has released are of."""
  return moments.spec.kind != 'table' or run.load_config()['format'] >= _OTHER_CELLS_BEFORE


def restore_moments(moments: Moments, run: RunDir) -> MomentsSynthesizer | None:
  """What a run has released; None where it has not yet.

  Raises:
    InputError: a table whose counts are of other pairs of cells.
  """
  if not is_readable(moments, run):
    raise _validate.InputError(
      f'{run.path} is of an earlier version of dpgan_jax, which counted other pairs of cells: '
      'read it with that version'
    )
  state = _restored(moments, run)
  return None if state is None else released(moments, state)


def _restored(moments: Moments, run: RunDir) -> MomentsState | None:
  with Checkpoints(run.checkpoints, identity=run.identity()) as checkpoints:
    abstract = jax.eval_shape(lambda: nothing_released(moments, _keys.from_seed(0)))
    restored = checkpoints.restore_latest(abstract)
  return restored[1] if restored and restored[0] else None

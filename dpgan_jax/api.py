"""The whole package as one object, for notebooks and scripts.

model = DPGAN(target_epsilon=2.0, epochs=20, batch_size=64, delta=1e-4)
model.fit(images, labels, run_dir='runs/mine')     # uint8 [N, H, W] or [N, H, W, C]; int [N]
model.epsilon                                      # what it cost
x, y = model.sample(10_000)                        # as many as you like, for free
model.save('generator.safetensors')                # nothing private in it
DPGAN.load('generator.safetensors').sample(100)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data import datasets, readers
from dpgan_jax.data.series import read
from dpgan_jax.data.series import write as series
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.spec import require_confirmed, schema_of
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import schema_file, write
from dpgan_jax.data.tables.files.open import OpenTable, read_open
from dpgan_jax.data.tables.schema import Schema
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans import recipe
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file, secrets, trainer
from dpgan_jax.run.stages import DataOn


class DPGAN:
  """A model of private records, with differential privacy: fit, sample, save, load.

  Args:
    config: all settings at once; or
    **settings: fields of `TrainConfig`. `target_epsilon=2.0` alone releases moments; with
      `method='gan'` it trains a GAN of chosen settings, with `epochs=20` one of the defaults.

  Raises:
    InputError: settings that contradict each other or are out of range.
  """

  def __init__(self, config: TrainConfig | None = None, **settings: Any) -> None:
    if config is not None and settings:
      raise _validate.InputError('expected a TrainConfig or settings by name, not both')
    unknown = sorted(set(settings) - set(TrainConfig.__dataclass_fields__))
    if unknown:
      raise _validate.InputError(f'unknown settings: {", ".join(unknown)}')
    settings.setdefault('dataset', 'arrays')
    self.config = TrainConfig(**settings) if config is None else config
    self._given = settings if config is None else _changed(config)
    self._model: Synthesizer | None = None

  def fit(
    self,
    records: Any,
    labels: np.ndarray | None = None,
    *,
    run_dir: str | os.PathLike[str],
    num_classes: int | None = None,
    schema: Schema | str | os.PathLike[str] | None = None,
    unit_column: str | None = None,
    max_rows_per_unit: int | None = None,
    progress: bool = True,
    devices: int = 1,
    data_on: DataOn = 'device',
  ) -> DPGAN:
    """Trains on private records; the same call after an interruption continues.

    Args:
      records: images, uint8 [N, H, W] or [N, H, W, C], C = 1 or 3, or an `ImageDataset`; or, with a
        schema, a table: a data frame, or the CSV or Parquet file of one; or series: the same, long,
        or arrays by name, or an .npz file of them (`series.read`); or a `TableDataset`.
      labels: of images, whole numbers [N] from 0; None puts all of them in one class.
      run_dir: directory of the run: ledger, checkpoints, samples, figures. It is private as a
        whole.
      num_classes: K, a public number; default: the largest label + 1.
      schema: of a table or of series, or the JSON file that dpgan_jax.schema drafted.
      unit_column: of a table in which persons have several rows, the column that says whose a row
        is: ε is then for a person. Default: as the schema says.
      max_rows_per_unit: k, how many rows of a person count.
      progress: show a progress bar.
      devices: how many compute; a run may go on with another number.
      data_on: where a GAN's records are: 'device', or 'host' if they do not fit there. Images may
        be on the disk, np.load(FILE, mmap_mode='r'). A run may go on the other way. Moments read
        records on the host always.

    Returns:
      Itself.

    Raises:
      InputError: arrays that are not images and labels, a table that is not as its schema says, or
        a directory of another run.
    """
    if schema is not None:
      given = _schema(schema, unit_column, max_rows_per_unit, self.config)
      is_open = self.config.schema_epsilon is not None
      records = read_open(records, given) if is_open else read.read_records(records, given)
    elif (unit_column, max_rows_per_unit) != (None, None):
      raise _validate.InputError('expected unit_column and max_rows_per_unit beside a schema')
    elif isinstance(records, str | os.PathLike) or hasattr(records, 'columns'):
      raise _validate.InputError('expected a schema beside a table (dpgan_jax.schema drafts one)')
    if isinstance(records, datasets.ImageDataset | TableDataset | OpenTable):
      if labels is not None or num_classes is not None:
        raise _validate.InputError(
          'expected no labels or num_classes beside an ImageDataset or a table'
        )
    else:
      for name in ('image_size', 'channels', 'holdout'):
        if getattr(self.config, name) is not None:
          raise _validate.InputError(
            f'expected no {name} with arrays, which are trained on as they are: prepare and split '
            'them before, or give what sources.Source(...).load() returns'
          )
      records = _dataset(records, labels, num_classes)
    self.config, _ = recipe.settled(self.config, records.spec, self._given)
    trained = trainer.train(
      self.config, records, run_dir, progress=progress, devices=devices, data_on=data_on
    )
    self._model = trained.model
    return self

  def sample(
    self,
    num: int,
    *,
    labels: np.ndarray | None = None,
    clearest: float = 1.0,
    given: Mapping[str, Any] | None = None,
    seed: int | None = None,
  ) -> Any:
    """`num` synthetic records: images uint8 [num, H, W, C] and labels int64 [num]; of a table, a
    frame of its columns: of pandas where that is installed, else a `pyarrow.Table`; of series
    arrays by name, as an .npz file of them has (`series.write.to_arrays`).

    Args:
      num: how many.
      labels: int [num], the class of each; default: all classes equally often, of moments in
        the proportions of their noisy counts.
      clearest: the share kept of what is drawn of each class, where a private classifier names
        samples (label_share): what it is surest of. Free of privacy cost.
      given: of a table or series, values that all have, by column: {'sex': 'female'}; of series
        static ones, or the target.
      seed: for the same samples again; default: from the operating system.
    """
    if seed is not None:
      _validate.integer('seed', seed, minimum=0, maximum=2**32 - 1)
    model, key = self._fitted, secrets.root_key(seed)
    if given:
      if labels is not None:
        raise _validate.InputError('expected no labels beside given values: the target is one')
      found = model.sample_given(num, given, key=key)
    else:
      found = model.sample(num, labels=labels, clearest=clearest, key=key)
    return found if model.spec.schema is None else _frame(model.spec.schema, *found)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the generator (safetensors). The file holds nothing private and may be published."""
    generator_file.save(self._fitted, path)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> DPGAN:
    """Reads what `save` wrote; loading runs no code.

    Raises:
      InputError: not such a file.
    """
    model = generator_file.load(path)
    result = cls(model.config)
    result._model = model
    return result

  @property
  def epsilon(self) -> float:
    """ε at the mechanism's δ of everything drawn from this generator."""
    return self._fitted.epsilon()

  @property
  def mechanism(self) -> DPMechanism:
    """The mechanism it was trained with."""
    return self._fitted.budget.mechanism

  @property
  def _fitted(self) -> Synthesizer:
    if self._model is None:
      raise _validate.InputError('expected a trained model: call fit or load first')
    return self._model


def _changed(config: TrainConfig) -> list[str]:
  """Names of settings that are not the defaults."""
  fields = dataclasses.fields(config)
  return [f.name for f in fields if getattr(config, f.name) != f.default]


def _schema(
  schema: Schema | str | os.PathLike[str],
  unit_column: str | None,
  max_rows_per_unit: int | None,
  config: TrainConfig,
) -> Schema:
  is_file = not isinstance(schema, Schema)
  found = schema_file.read_schema(schema, schema_of) if is_file else schema
  found = persons.settled(found, unit_column, max_rows_per_unit)
  if is_file and config.schema_epsilon is None:
    require_confirmed(found, os.fspath(schema))
  return found


def _frame(schema: Schema, records: np.ndarray, labels: np.ndarray | None) -> Any:
  if isinstance(schema, SeriesSchema):
    return series.to_arrays(schema, records, labels)
  labels = np.zeros(len(records), np.int32) if labels is None else labels.astype(np.int32)
  table = write.to_arrow(
    TableDataset(records=records, labels=labels, schema=schema, name='samples', partial=True)
  )
  return table.to_pandas() if importlib.util.find_spec('pandas') else table


def _dataset(
  images: np.ndarray, labels: np.ndarray | None, num_classes: int | None
) -> datasets.ImageDataset:
  for what, array in (('images', images), ('labels', labels)):
    if isinstance(array, np.ma.MaskedArray):
      raise _validate.InputError(
        f'arrays: expected {what} without a mask, got {type(array).__name__}: what it hides would '
        'count; leave those records out'
      )
  images = np.asarray(images)
  if images.ndim == 3:
    images = images[..., None]
  if labels is None:
    labels = np.zeros(len(images) if images.ndim else 0, np.int32)
  labels = readers.int32_labels('arrays', np.asarray(labels))
  if num_classes is None:
    num_classes = int(labels.max(initial=0)) + 1
  # A class of which there is no image is refused, so that more classes than images need no names.
  _validate.integer('num_classes', num_classes, minimum=1, maximum=max(1, len(labels)))
  return datasets.ImageDataset(
    images=np.ascontiguousarray(images),
    labels=labels,
    num_classes=num_classes,
    name='arrays',
    class_names=tuple(str(i) for i in range(num_classes)),
  )

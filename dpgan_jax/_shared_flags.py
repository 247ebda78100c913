"""Flags that several commands share, as fields that their options inherit."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from dpgan_jax import _devices, _settings, _validate
from dpgan_jax.data.sources import Dataset, Source
from dpgan_jax.data.tables.schema import MOST_ROWS_PER_UNIT
from dpgan_jax.evaluation import features, references, tasks
from dpgan_jax.evaluation.scoring import Amount
from dpgan_jax.models.config import TrainConfig

_amount = functools.partial(_settings.field, group='how much is evaluated')
_chosen = functools.partial(_settings.field, group='samples', common=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
  """Where the data are; which they are, and what is done to them, are settings."""

  data_dir: str | None = _settings.field(
    None, 'Folder (or file: .npz, a table) of the data; default: download by name. Also --data.',
    group='data', common=True, alias='data',
  )
  labels_csv: str | None = _settings.field(
    None,
    "With png: a table of every image's class, with the columns file (within data_dir) and label.",
    group='data', common=True,
  )
  schema: str | None = _settings.field(
    None,
    'With table or series: the description, by dpgan_jax.schema. Persons with rows: unit_column.',
    group='data', common=True,
  )
  unit_column: str | None = _settings.field(
    None,
    'With table: the column that says whose a row is, where persons have several: epsilon is then '
    'for a person with up to max_rows_per_unit rows. Default: as the schema says.',
    group='data',
  )
  max_rows_per_unit: int | None = _settings.field(
    None, 'With unit_column: rows of a person that count; the others are left out.', minimum=1,
    maximum=MOST_ROWS_PER_UNIT, group='data',
  )

  __post_init__ = _settings.check

  def source(self, settings: Any, dataset: str | None = None) -> Source:
    """The data that these and the settings name; `dataset` in the place of the settings'."""
    names = (field.name for field in dataclasses.fields(DataOptions))
    where = {name: getattr(self, name) for name in names}
    return Source.of(settings, dataset=dataset, **where)

  def settled(self, config: TrainConfig) -> tuple[TrainConfig, Source]:
    """The settings of a new run with the hold-out that it records, and its data without it."""
    source = self.source(config).settled()
    return config.replace(holdout=source.holdout), source


_device = functools.partial(_settings.field, group='devices')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions:
  """Which devices compute; the run is the same on any number of them."""

  devices: str | None = _device(
    None, "A number, or 'all'; default: one, or all of several processes.", common=True
  )
  data_on: str = _device(
    'device', 'Where the records are that steps are taken on: host is for those that do not fit.',
    choices=('device', 'host'),
  )

  __post_init__ = _settings.check

  def count_devices(self) -> int:
    """How many devices compute.

    Raises:
      InputError: fewer are there.
    """
    return _devices.count_of(self.devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions(DeviceOptions):
  """The same, of several processes."""

  coordinator: str | None = _device(
    None, "Of several processes: host:port of the first; 'auto' on Slurm and Cloud TPU."
  )
  num_processes: int | None = _device(None, 'Beside coordinator: how many.', minimum=1)
  process_id: int | None = _device(
    None, 'Beside coordinator: which of them this is, from 0.', minimum=0
  )

  __post_init__ = _settings.check

  def start_devices(self) -> int:
    """Joins the other processes, if there are any; how many devices compute.

    Raises:
      InputError: fewer are there, or the processes do not find each other.
    """
    _devices.start(self.coordinator, self.num_processes, self.process_id)
    return self.count_devices()


def show(dataset: Dataset) -> None:
  """Prints what the data are, and what their reader skipped and changed."""
  for line in (dataset.spec.describe(), *dataset.notes):
    print(line)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AmountOptions:
  """How much is evaluated."""

  num: int | None = _amount(
    None, 'Samples to draw from a run; default: 70,000, as the report did, or 12,000 if quick.',
    minimum=references.MIN_SAMPLES,
  )
  quick: bool = _amount(False, 'A first impression: fewer images, fewer epochs.', common=True)
  tasks: tuple[str, ...] | None = _amount(
    None, 'Only these, with commas between them; default: all of them.', choices=tasks.TASKS,
    common=True,
  )
  inception: bool = _amount(False, 'FID on Inception-v3 too; needs torch-fidelity.')
  cnn_epochs: int | None = _amount(
    None, 'Epochs of the TSTR CNN; default: 4 to 50, so that it takes minutes.', minimum=1
  )
  eval_seed: int = _amount(
    0, 'Seed of samples, draws and judges.', minimum=0, maximum=_settings.MOST_SEED
  )

  __post_init__ = _settings.check

  def require_no_images(self, kind: str) -> None:
    """Refuses what is of images only.

    Raises:
      InputError: naming it.
    """
    for name in ('tasks', 'inception', 'cnn_epochs'):
      if getattr(self, name):
        raise _validate.InputError(f'expected no {name} with a run of a {kind}: it is of images')

  def amount(self) -> Amount:
    """What these options ask for.

    Raises:
      InputError: torch-fidelity is asked for and not installed.
    """
    if self.inception:
      features.require_inception()
    make = tasks.Settings.quick if self.quick else tasks.Settings
    settings = make(
      seed=self.eval_seed, inception=self.inception, cnn_epochs=self.cnn_epochs,
      tasks=None if self.tasks is None else tuple(sorted(self.tasks)),
    )  # fmt: skip
    return Amount(settings, self.num or (12_000 if self.quick else 70_000), self.quick)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
  """What is done to samples after they are drawn."""

  clearest: float = _chosen(
    1.0, 'Keep this share of every class, e.g. 0.6: what its classifier is surest of.', above=0,
    maximum=1,
  )
  distort: bool = _chosen(
    False, 'Turn, shift, scale and shear each a little: better to learn classes from.'
  )

  __post_init__ = _settings.check

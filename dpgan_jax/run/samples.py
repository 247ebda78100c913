"""Samples of a run as files: the records, and a picture of them, for each kind of data."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from dpgan_jax import _figures
from dpgan_jax.data import writers
from dpgan_jax.data.series import picture as courses
from dpgan_jax.data.series import write as series
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables import picture
from dpgan_jax.data.tables.files import write as tables
from dpgan_jax.models.synthesizer import Synthesizer

Samples = tuple[np.ndarray, np.ndarray | None]
"""Records [n, ...] and their classes."""


def formats(spec: Spec) -> tuple[str, ...]:
  """What samples can be written as; the first is the default."""
  if isinstance(spec.schema, SeriesSchema):
    return series.FORMATS
  return writers.FORMATS if spec.schema is None else tables.FORMATS


def write(
  model: Synthesizer,
  records: np.ndarray,
  labels: np.ndarray | None,
  path: pathlib.Path,
  *,
  format: str | None = None,
  overwrite: bool = False,
) -> pathlib.Path:
  """Writes samples, whole or not at all; with what they cost, where a format has a place for it.

  Args:
    model: what they were drawn from.
    records: [n, ...], as the data are.
    labels: their classes, int [n]; None: they have none.
    path: a file, or the folder of a format of several files.
    format: one of `formats`; default: the first of them.
    overwrite: replace what is there.

  Returns:
    What was written.

  Raises:
    InputError: a format that there is not, or something is there.
  """
  spec = model.spec
  how: Any = {
    'format': format or formats(spec)[0], 'overwrite': overwrite, 'guarantee': model.guarantee(),
  }  # fmt: skip
  if isinstance(spec.schema, SeriesSchema):
    return series.export(path, spec.schema, records, labels, **how)
  if spec.schema is not None:
    return tables.export(path, spec.schema, records, labels, **how)
  names = None if labels is None else spec.class_names
  return writers.export(path, records, labels, class_names=names, **how)


def for_picture(
  model: Synthesizer, drawn: Samples, key: jax.Array, *, clearest: float = 1.0
) -> Samples:
  """Images of every class in their order, drawn with `key`; or the records that were drawn."""
  if model.spec.schema is not None:
    return drawn
  num = 10 * min(model.spec.num_classes, 10)
  return model.sample_for_picture(num, key, clearest=clearest)


def picture_of(
  spec: Spec, records: np.ndarray, labels: np.ndarray | None, path: pathlib.Path
) -> None:
  """Draws what `for_picture` gave."""
  if isinstance(spec.schema, SeriesSchema):
    courses.courses(spec.schema, {'synthetic': records}, path)
    return
  if spec.schema is not None:
    picture.one_way(spec.schema, {'synthetic': (records, labels)}, path)
    return
  _figures.sample_grid(
    records, path, labels=labels, class_names=spec.class_names, scale=_figures.scale_of(spec.shape)
  )

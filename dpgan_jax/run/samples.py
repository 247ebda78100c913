"""Samples of a run as files: the records, and a picture of them, for each kind of data."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from dpgan_jax import _figures
from dpgan_jax.data import writers
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables import picture
from dpgan_jax.data.tables.files import write as tables
from dpgan_jax.models.synthesizer import Synthesizer


def formats(spec: Spec) -> tuple[str, ...]:
  """What samples can be written as; the first is the default."""
  return writers.FORMATS if spec.schema is None else tables.FORMATS


def write(
  spec: Spec,
  records: np.ndarray,
  labels: np.ndarray | None,
  path: pathlib.Path,
  *,
  format: str | None = None,
  overwrite: bool = False,
) -> pathlib.Path:
  """Writes samples, whole or not at all.

  Args:
    spec: of the data that they stand for.
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
  format = format or formats(spec)[0]
  if spec.schema is not None:
    return tables.export(
      path, spec.schema, records, labels, format=format, overwrite=overwrite
    )
  names = None if labels is None else spec.class_names
  return writers.export(
    path, records, labels, format=format, class_names=names, overwrite=overwrite
  )


def draw_for_picture(
  model: Synthesizer, key: jax.Array, *, clearest: float = 1.0
) -> tuple[np.ndarray, np.ndarray | None]:
  """Images of every class in their order, or rows as they come."""
  if model.spec.schema is not None:
    return model.sample(model.config.num_samples, key=key)
  num = 10 * min(model.spec.num_classes, 10)
  return model.sample_for_picture(num, key, clearest=clearest)


def picture_of(
  spec: Spec, records: np.ndarray, labels: np.ndarray | None, path: pathlib.Path
) -> None:
  """Draws what `draw_for_picture` gave."""
  if spec.schema is not None:
    picture.one_way(spec.schema, {'synthetic': (records, labels)}, path)
    return
  _figures.sample_grid(
    records, path, labels=labels, class_names=spec.class_names, scale=_figures.scale_of(spec.shape)
  )

"""An evaluation of series as a page, and from records to the files that hold its scores; and from a
model of series or of a table to theirs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from dpgan_jax import _files, _progress
from dpgan_jax._validate import InputError
from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation import scores, scoring
from dpgan_jax.evaluation.series import pictures
from dpgan_jax.evaluation.series.scores import score
from dpgan_jax.evaluation.tables import pages
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import secrets

_MOST_ROWS = 100_000  # that are sampled of a model unless told otherwise
COURSES, LASTING = 'evaluation.png', 'evaluation_autocorrelation.png'
_NOTES = (
  '\n- All scores but the first four are of a table of simple summaries: of each channel the share '
  'of steps measured, mean, least, most and last value, and the mean change; and the static '
  'columns.\n'
  '- Means and rates of steps: the mean absolute error over channels and steps, in units of the '
  'spread of the channel. The next value: ridge regression on the last known values, learnt from '
  'synthetic and tested on real series. Telling apart: the balanced accuracy of boosting, less a '
  'half. *Noise* is every step of every channel shuffled by itself, or values drawn evenly, '
  'whichever looks better.\n'
)


def evaluate_run(
  train: TableDataset,
  test: TableDataset,
  records: np.ndarray,
  labels: np.ndarray | None,
  out: str | pathlib.Path,
  *,
  quick: bool = False,
  seed: int = 0,
  scores_dir: str | pathlib.Path | None = None,
) -> dict[str, Any]:
  """Scores what a model has sampled, and writes record, page and pictures.

  Args, Raises: as of `evaluation.tables.evaluate_run`; records are those of series.
  """
  out = _files.require_folder(out)
  assert isinstance(train.schema, SeriesSchema)
  if labels is None:
    labels = np.zeros(len(records), np.int32)
  made = dataclasses.replace(
    train, records=records, labels=labels.astype(np.int32), name='samples', partial=True, notes=()
  )
  show = _progress.WorkProgress()
  store = scores.Store(pathlib.Path(scores_dir or out / scoring.KEPT))
  record = score(train, test, made, quick=quick, seed=seed, store=store, progress=show.update)
  show.close()
  pictures.courses(test, made, out / COURSES)
  pictures.autocorrelation(test, made, out / LASTING)
  text = pages.to_markdown(record).replace('of a synthetic table', 'of synthetic series', 1)
  pages.write(record, text.rstrip() + _NOTES, out, {
    COURSES: ('Series over time: bands of quantiles, single sequences and the share of steps '
              'measured, of held-out and synthetic series.',
              'Bands and shares that are alike are what good synthetic series have.'),
    LASTING: ('Autocorrelation: how much a value says of later ones, by channel, of held-out and '
              'synthetic series.', 'Curves that lie on each other are best.'),
  })  # fmt: skip
  return record


def evaluate_model(
  model: Synthesizer,
  train: TableDataset,
  test: TableDataset,
  out: str | pathlib.Path,
  *,
  num: int | None,
  quick: bool,
  seed: int,
  scores_dir: str | pathlib.Path | None = None,
) -> dict[str, Any]:
  """Draws records and scores them beside real ones, as `evaluate_run` of a table or of series.

  Args:
    model: whose spec has the schema of both tables.
    train, test, out, quick, seed, scores_dir: as of `evaluate_run`.
    num: how many records; default: as many as were trained on.

  Raises:
    InputError: tables of another schema.
  """
  if train.schema != model.spec.schema:
    raise InputError('expected the schema that the run was trained with, got another')
  num = num or min(len(train), _MOST_ROWS)
  records, labels = model.sample(num, key=secrets.root_key(seed))
  evaluate = evaluate_run if model.spec.kind == 'series' else pages.evaluate_run
  return evaluate(train, test, records, labels, out, quick=quick, seed=seed, scores_dir=scores_dir)

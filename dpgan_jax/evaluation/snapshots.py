"""Generators side by side: those that a run kept along the way, and pictures of several.

A run with `--reports_per_snapshot` leaves `snapshots/step_<n>.safetensors`, each a publishable
generator as `model_file` writes it. Looking at samples of them reads no private data.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from dpgan_jax import _figures, _keys, _validate
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.run import generator_file
from dpgan_jax.run.directory import RunDir

_SHOWN = 20  # samples in a row
_KEY = 0  # public, and the same for all: rows show the same z


def paths(
  run: RunDir, at_most: int | None = None, *, as_trained: bool = False
) -> list[pathlib.Path]:
  """Files of a run's snapshots by step; of more than `at_most`, evenly many and the last one.

  Args:
    run: the run's directory.
    at_most: how many.
    as_trained: the generators themselves instead of their moving averages, where the run kept both.
      Averaging does not feed back: they are those of the same run without an average.

  Raises:
    InputError: the run has none.
  """
  folder = run.snapshots / 'as_trained' if as_trained else run.snapshots
  found = sorted(folder.glob('step_*.safetensors'))
  if not found:
    raise _validate.InputError(
      f'{run.path} has no snapshots{" as trained" if as_trained else ""}: train with '
      '--reports_per_snapshot=N to keep generators along the way'
      + (', and with --g_ema_decay > 0 to keep both' if as_trained else '')
    )
  if at_most is not None and len(found) > at_most:
    chosen = np.linspace(0, len(found) - 1, _validate.integer('at_most', at_most, minimum=1) + 1)
    found = [found[round(i)] for i in chosen[1:]]
  return found


def samples(model: Synthesizer) -> np.ndarray:
  """The row that a generator gets in a picture: uint8 [20, h, w, c], of a public key."""
  by_class = np.arange(_SHOWN) % model.spec.num_classes
  asked = model.is_conditional and not model.is_labelled_afterwards
  images, _ = model.sample(_SHOWN, labels=by_class if asked else None, key=_keys.from_seed(_KEY))
  return images


def picture(
  models: Sequence[tuple[str, Synthesizer]], path: str | os.PathLike[str], *, title: str
) -> pathlib.Path:
  """Draws a row of samples of each generator, all of them of the same z and classes.

  Args:
    models: a name for each, and the generator; images of one size.
    path: the PNG file; replaced where it exists.
    title: one line above.
  """
  rows = [(name, samples(model)) for name, model in models]
  height = models[0][1].spec.shape[0]
  return _figures.image_rows(rows, path, scale=max(1, round(56 / height)), title=title)


def picture_over_steps(
  run: RunDir,
  path: str | os.PathLike[str],
  *,
  title: str,
  at_most: int = 8,
  as_trained: bool = False,
) -> pathlib.Path:
  """Draws a row of samples of each of a run's snapshots (the report's figures 6.2 and 6.3).

  Raises:
    InputError: the run kept none.
  """
  models = [generator_file.load(file) for file in paths(run, at_most, as_trained=as_trained)]
  rows = [(f'step {m.steps:,}, ε = {show_epsilon(m.epsilon())}', m) for m in models]
  return picture(rows, path, title=title)

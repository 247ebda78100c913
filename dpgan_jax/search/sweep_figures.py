"""Scores over ε as figures, with the spread of several runs of one ε."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax.evaluation import curves as draw

_FIGURES: tuple[tuple[str, str, str, dict[str, str], dict[str, Any]], ...] = (
  ('tstr.png', 'TSTR: classifiers trained on samples, tested on real images', 'accuracy',
   {'tstr_cnn': 'CNN', 'tstr_mlp': 'MLP', 'tstr_lr': 'logistic regression'}, {}),
  ('secondary_accuracy.png', 'How often a network tells samples from real images', 'accuracy',
   {'secondary_accuracy': "the report's secondary network", 'conv_judge_accuracy': 'convolutional'},
   {'ideal': (0.5, 'ideal: 0.5, a guess')}),
  ('fid.png', 'FID on fixed features', 'FID', {'fid': 'FID'}, {}),
  ('secondary_fid.png', "The report's FID: activations of its secondary network", 'FID',
   {'secondary_fid': 'FID'}, {}),
)  # fmt: skip


def draw_groups(
  groups: Mapping[float, Sequence[Mapping[str, Mapping[str, Any]]]],
  folder: pathlib.Path,
  *,
  note: str = draw.PRIVATE,
) -> list[str]:
  """The same of ε ↦ the scores of each run; `note` stands below each figure."""
  made = []
  for file, title, ylabel, wanted, options in _FIGURES:
    series = []
    for name, label in wanted.items():
      points = {e: [r[name]['value'] for r in runs if name in r] for e, runs in groups.items()}
      points = {e: values for e, values in points.items() if values}
      references = [r[name]['reference'] for runs in groups.values() for r in runs if name in r]
      known = [r for r in references if r is not None]
      if points:
        series.append(draw.Series(label, points, statistics.fmean(known) if known else None))
    if series:
      draw.over_epsilon(series, folder / file, title=title, ylabel=ylabel, note=note, **options)
      made.append(file)
  return made

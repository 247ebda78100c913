"""One sentence over the scores of a table, by the public rule of `evaluation.verdict`.

Usefulness and likeness, each between what is worth nothing (0) and what real rows are worth (1),
are found as `RULE` says; its worthless tables are those of `references.noise`. What says nothing on
a table, because real rows are hardly better than a worthless table, is left out, and without
usefulness nothing is called good. The levels of usefulness are those of images; those of likeness
were set with scores of Adult's test rows in view, and tried on generated tables.

>>> judge((0.9, 0.89, 0.5), (0.02, 0.025, {'static': 0.6, 'independent': 0.1})).level
'good'
>>> judge((0.9, 0.51, 0.5), (0.02, 0.1, {'static': 0.6, 'independent': 0.1})).level
'useless'
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from dpgan_jax.evaluation.verdict import Level, Verdict, conclude, said, share

LEVELS = (
  Level('good', 'green', 0.9, 0.8),
  Level('usable', 'yellow', 0.6, 0.5),
  Level('poor', 'orange', 0.2, 0.1),
  Level('useless', 'red', 0.0, 0.0),
)
LEAST_TO_LEARN = 0.05
"""AUROC above noise of a classifier that was trained on real rows: with less it says nothing."""
LEAST_APART = 1.5
"""Times the total variation of real rows that a worthless table has: with less it says nothing."""
RULE = (
  'The first sentence: *usefulness* is (TSTR - g) / (real - g), of the AUROC of the best of three '
  'classifiers for the target, where g, at least 0.5, is the highest of eight shuffled targets; '
  'without a target of the mean over all columns, each shuffled by itself for g. *Likeness* is '
  '(w - d) / (w - r), where d, r and w are the two-way total variations of synthetic rows, of real '
  'training rows and of a worthless table, each to held-out rows, its mean over static and '
  'independent columns; each share in [0, 1]. '
  + said(LEVELS)
)


def judge(
  auroc: tuple[float, float, float] | None,
  distance: tuple[float, float, Mapping[str, float]] | None,
) -> Verdict:
  """Applies the rule.

  Args:
    auroc: on held-out real rows, of classifiers trained on real rows, on synthetic ones and on
      noise; None where there are none.
    distance: two-way total variation to held-out rows, of real training rows, of synthetic rows
      and of worthless tables by name; None of a table of one column.
  """
  parts: list[str] = []
  usefulness = likeness = None
  if auroc is None:
    parts.append('how useful they are was not measured')
  elif auroc[0] - auroc[2] < LEAST_TO_LEARN:
    parts.append(
      f'usefulness says nothing here (even trained on real rows a classifier has AUROC '
      f'{auroc[0]:.3f}, on noise {auroc[2]:.3f})'
    )
  else:
    usefulness = share(*auroc)
    parts.append(
      f'a classifier trained on them has AUROC {auroc[1]:.3f} on held-out real rows, trained on '
      f'real rows {auroc[0]:.3f}, on noise {auroc[2]:.3f}'
    )
  real, synthetic, worthless = distance or (0.0, 0.0, {})
  apart = {name: w for name, w in worthless.items() if w > LEAST_APART * real}
  if not apart:
    parts.append('how much they look like real rows is not known')
  else:
    likeness = statistics.fmean(share(real, synthetic, w) for w in apart.values())
    parts.append(
      f'two-way marginals are {synthetic:.3f} from held-out rows, those of real rows {real:.3f}, '
      + ', '.join(f'of {name} columns {w:.3f}' for name, w in apart.items())
    )
  return conclude('rows', LEVELS, usefulness, likeness, parts)


def to_json(found: Verdict) -> dict[str, Any]:
  """JSON-ready, with the rule for tables."""
  return {**found.to_json(), 'rule': RULE.replace('*', ''), 'reads_private_data': True}

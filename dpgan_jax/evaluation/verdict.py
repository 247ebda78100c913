"""One sentence over all scores, by a public rule.

Two shares, usefulness and likeness, each between what is worth nothing (0) and what real images
are worth (1), are found as `RULE` says; its kinds of noise are those of `references.noise`. Both
have to reach a level for samples to be called so. What is not known, or says nothing on these data,
leaves the other, and then nothing is called good. The levels were chosen on generated shapes and
the digits of scikit-learn's training split, where planted failures have known answers
(`tests/evaluation/test_verdict.py`); no test set was looked at.

>>> judge((0.98, 0.95, 0.10), (0.1, 0.4, 60.0, 20.0)).level
'good'
>>> judge((0.98, 0.11, 0.10), (0.1, 0.2, 60.0, 20.0)).level  # labels that mean nothing
'useless'
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Level(NamedTuple):
  """What samples are called from these shares up."""

  name: str
  colour: str
  usefulness: float
  likeness: float


def said(levels: Sequence[Level]) -> str:
  """How levels follow from both shares, in words."""
  bounds = ', '.join(
    f'{level.name} ({level.colour}) from {level.usefulness:g} and {level.likeness:g} up'
    for level in levels[:-1]
  )
  return (
    f'{bounds}; else useless (red). Where one of them is not known, the other decides, and nothing '
    'is good.'
  )


LEVELS = (
  Level('good', 'green', 0.9, 0.9),
  Level('usable', 'yellow', 0.6, 0.5),
  Level('poor', 'orange', 0.2, 0.1),
  Level('useless', 'red', 0.0, 0.0),
)
UNKNOWN = Level('unknown', 'grey', 0.0, 0.0)
LEAST_TO_LEARN = 0.1
"""Above a guess, for a classifier that was trained on real images: with less it says nothing."""
NEXT = {
  'good': 'Next: check on real data what you want to conclude from them, then release them.',
  'usable': 'Next: try them on your own task first; more records, a larger ε or fewer classes make '
  'them better.',
  'poor': 'Next: do not rely on them; use more records, a larger ε, or fewer classes or columns.',
  'useless': 'Next: do not use them; use many more records, a larger ε, or fewer classes.',
  'unknown': 'Next: hold out real records, so that samples can be compared with them.',
}
"""What to do after a verdict, by level."""
RULE = (
  'The first sentence: *usefulness* is (TSTR - guess) / (real - guess), of balanced accuracies and '
  'of the classifier that learns most from real images; *likeness* is (s - d) / (s - r), where d, '
  'r and s are the roots of the FID of samples, real images and noise, each share in [0, 1], its '
  'mean over both kinds of noise. '
  + said(LEVELS)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """What samples are worth.

  Attributes:
    level: its name and colour.
    usefulness, likeness: shares in [0, 1]; None where they are not known.
    sentence: the same in words.
  """

  level: str
  colour: str
  usefulness: float | None
  likeness: float | None
  sentence: str

  @property
  def next_step(self) -> str:
    """What to do now."""
    return NEXT[self.level]

  def to_json(self) -> dict[str, Any]:
    """JSON-ready, with the rule."""
    rule = RULE.replace('*', '')
    return {**dataclasses.asdict(self), 'next_step': self.next_step, 'rule': rule}


def judge(accuracy: tuple[float, float, float] | None, fid: tuple[float, ...] | None) -> Verdict:
  """Applies the rule.

  Args:
    accuracy: balanced, on held-out real images, of a classifier trained on real images, on samples,
      and of a guess; None where there is no such classifier.
    fid: to real images, of other real images, of samples, and of one or more kinds of noise; None
      where it is not known or does not tell noise from real images.
  """
  parts = []
  usefulness = likeness = None
  if accuracy is None:
    parts.append('how useful they are was not measured')
  elif accuracy[0] - accuracy[2] < LEAST_TO_LEARN:
    parts.append(
      f'usefulness says nothing here (even trained on real images a classifier is right about '
      f'{accuracy[0]:.1%}, a guess about {accuracy[2]:.1%})'
    )
  else:
    usefulness = share(*accuracy)
    parts.append(
      f'a classifier trained on them is right about {accuracy[1]:.1%} of held-out real images, '
      f'trained on real images about {accuracy[0]:.1%}, a guess about {accuracy[2]:.1%}'
    )
  if fid is None:
    parts.append('how much they look like real images is not known')
  else:
    real, samples, *noises = (math.sqrt(max(value, 0.0)) for value in fid)
    likeness = statistics.fmean(share(real, samples, noise) for noise in noises)
    parts.append(f'they have come {likeness:.0%} of the way from noise to real images')
  return conclude('samples', LEVELS, usefulness, likeness, parts)


def conclude(
  what: str,
  levels: Sequence[Level],
  usefulness: float | None,
  likeness: float | None,
  parts: Sequence[str],
) -> Verdict:
  """The highest level that both shares reach; without one of them never the first.

  Args:
    what: is judged: 'samples'.
    levels: from the best to the worst, which everything reaches.
    usefulness, likeness: shares in [0, 1]; None where they are not known.
    parts: of the sentence, that say why.
  """
  level = UNKNOWN
  if usefulness is not None or likeness is not None:
    best = levels if usefulness is not None and likeness is not None else levels[1:]
    level = next(
      one for one in best
      if (usefulness is None or usefulness >= one.usefulness)
      and (likeness is None or likeness >= one.likeness)
    )  # fmt: skip
  say = f'Not known what these {what} are worth' if level is UNKNOWN else (
    f'These {what} are {level.name}'
  )  # fmt: skip
  return Verdict(
    level=level.name, colour=level.colour, usefulness=usefulness, likeness=likeness,
    sentence=f'{say} ({level.colour}): {"; ".join(parts)}.',
  )  # fmt: skip


def share(best: float, value: float, worst: float) -> float:
  """Where a value is between the worst (0) and the best (1), which differ."""
  return min(max((value - worst) / (best - worst), 0.0), 1.0)

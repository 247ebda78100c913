"""All scores of synthetic series: those of a table of summaries, and those of series alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.evaluation import scores
from dpgan_jax.evaluation.series import courses, summaries
from dpgan_jax.evaluation.tables import references
from dpgan_jax.evaluation.tables.scores import Score, Settings
from dpgan_jax.evaluation.tables.scores import score as score_table

FORMAT = 'dpgan_jax evaluation of series 1'
NAMES = ('hourly_means', 'hourly_rates', 'predictive', 'discriminative')
_WORTHLESS = 'independent', 'static'


def of_series(
  train: TableDataset, test: TableDataset, made: TableDataset, settings: Settings
) -> dict[str, tuple[float, float, dict[str, float]]]:
  """Of `NAMES`: what made series get, real training series, and worthless ones by name.

  Worthless are: every step of every channel shuffled by itself (the baseline of independent values
  an hour), and values drawn evenly from the bounds.
  """
  found: dict[str, list[float]] = {name: [] for name in NAMES}
  seed = settings.effort.seed
  for data in (made, train, *(references.noise(n, train, seed=seed) for n in _WORTHLESS)):
    for name, value in zip(
      NAMES,
      (*courses.hourly(test, data), courses.predictive(data, test),
       courses.discriminative(test, data, settings.effort)),
      strict=True,
    ):  # fmt: skip
      found[name].append(value)
  return {
    name: (own, real, dict(zip(_WORTHLESS, noises, strict=True)))
    for name, (own, real, *noises) in found.items()
  }


def score(
  train: TableDataset,
  test: TableDataset,
  made: TableDataset,
  *,
  quick: bool = False,
  seed: int = 0,
  store: scores.Store | None = None,
  progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
  """Scores synthetic series against the real ones that they stand for; strict JSON.

  Args, Raises: as of `evaluation.tables.scores.score`.
  """
  record = score_table(
    *map(summaries.table, (train, test, made)), quick=quick, seed=seed, store=store,
    progress=progress,
  )  # fmt: skip
  settings, added = Settings.of(quick=quick, seed=seed), []
  for name, (own, real, noises) in of_series(train, test, made, settings).items():
    one = Score(
      name=name, value=own, best='low', reads=('train', 'test'), n=len(made), reference=real,
      static=min(noises.values()), detail={'static': noises},
    )
    added.append(one.to_json() | {'remark': ''})
  about = record['about']
  schema = made.schema
  assert isinstance(schema, SeriesSchema)
  size = f'{schema.grid.steps} steps and {len(schema.channels)} channels'
  about['samples'] = f'{made.name}, {len(made):,} sequences of {size}'
  return {**record, 'format': FORMAT, 'scores': added + record['scores']}

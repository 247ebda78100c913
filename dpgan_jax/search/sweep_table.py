"""What a sweep left, as one table: read from the directories of its runs, as JSON and as a page.

The table holds every run in the directory, finished or not, whichever command made it. So does the
ε that all runs spend together on the same records: a run that failed was paid for as well.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dp_accounting

from dpgan_jax import _markdown, _validate
from dpgan_jax._records import json_ready
from dpgan_jax.budget.budget import Budget
from dpgan_jax.evaluation import scores
from dpgan_jax.evaluation.tables import pages
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.accounting import rounded_up, show_epsilon
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import plan
from dpgan_jax.run.directory import RunDir

FORMAT = 'dpgan_jax sweep 1'
EVALUATION, GENERATOR = 'evaluation.json', 'generator.safetensors'
_LEFT = ('ledger.jsonl', 'secret.json', 'checkpoints', 'metrics.jsonl', 'snapshots', GENERATOR)
COLUMNS = (
  'tstr_cnn', 'tstr_mlp', 'tstr_lr', 'fid', 'precision', 'recall', 'coverage',
  'secondary_accuracy', 'secondary_fid', 'conv_judge_accuracy', 'copy_share',
  'tstr_auroc', 'every_column_auroc', 'one_way', 'two_way', 'three_way', 'near_share',
  'hourly_means', 'predictive', 'discriminative',
)  # fmt: skip
"""Scores of the page, in this order; JSON has them all."""
_PRIVATE = (
  'These scores were computed from real records without noise. No ε covers them: they are for the '
  'data owner, not for publication (unless the data are public), and choosing settings, an ε or a '
  'run by them is a use of private data that has to be charged or disclosed. After ±: the standard '
  'deviation between runs.'
)
_SPENDING = (
  'Each ε above is that of one run, for whoever sees the outputs of that run only. All runs read '
  'the same records: whoever sees several of them sees more.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One run as it is on the disk.

  Attributes:
    name: its directory within the sweep's.
    target_epsilon: the ε it was asked for.
    budget: of its stages.
    charged: steps of the GAN that are paid for; what comes before them counts whole.
    finished: whether all steps are taken and its generator is kept.
    seed_fixed: whether its key follows from a known seed.
    scores: by name, as `scores.Score.to_json` has them; empty if it is not evaluated.
    amount: how much of an evaluation that was.
    reason: why it failed, as far as that is known.
  """

  name: str
  target_epsilon: float
  budget: Budget
  charged: int
  finished: bool
  seed_fixed: bool
  scores: Mapping[str, Mapping[str, Any]]
  amount: str | None
  reason: str | None

  @functools.cached_property
  def epsilon(self) -> float:
    """ε of the steps charged, rounded up to four digits."""
    return rounded_up(self.budget.epsilon(self.charged))

  @property
  def mechanism(self) -> DPMechanism:
    """Of the GAN's steps."""
    return self.budget.mechanism

  @property
  def spent(self) -> list[tuple[DPMechanism, int]]:
    """The steps of each stage that are paid for."""
    beside = [(m, m.steps) for m in self.budget.beside.values()]
    return [*beside, (self.mechanism, self.charged)] if self.charged else beside


@dataclasses.dataclass(frozen=True)
class Table:
  """A sweep: settings that its runs share, and the runs by ε and name."""

  settings: Mapping[str, Any]
  data: Mapping[str, Any]
  runs: tuple[Run, ...]

  def by_epsilon(self) -> dict[float, list[Run]]:
    """Evaluated runs of each ε, which ascends."""
    groups: dict[float, list[Run]] = {}
    for run in self.runs:
      if run.scores:
        groups.setdefault(run.target_epsilon, []).append(run)
    return groups

  @functools.cached_property
  def spent_together(self) -> tuple[float, int, int]:
    """ε of all private runs together; how many these are; how many others had no privacy."""
    steps: dict[DPMechanism, int] = {}
    for run in self.runs:
      for mechanism, count in run.spent if run.budget.is_private else ():
        # Runs of one mechanism and different keys are one longer run, as far as ε goes.
        one = dataclasses.replace(mechanism, steps=1)
        steps[one] = steps.get(one, 0) + count
    private = sum(bool(run.spent) and run.budget.is_private for run in self.runs)
    public = sum(bool(run.spent) for run in self.runs) - private
    if not steps:
      return 0.0, 0, public
    events = [mechanism.event(count) for mechanism, count in steps.items()]
    whole = events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(events)
    first = next(iter(steps))
    epsilon = accounting.epsilon(
      whole, delta=first.delta, neighboring_relation=first.neighboring_relation
    )
    return rounded_up(epsilon), private, public


# --- reading -------------------------------------------------------------------------------------


def read(folder: pathlib.Path, failures: Mapping[str, str]) -> Table:
  """Reads a sweep's directory.

  Args:
    folder: the directory.
    failures: why runs failed, by name, as the command that made them knows.

  Raises:
    InputError: it is not the directory of a sweep, or holds a run without its config.json.
  """
  saved = RunDir.open(folder, create=False).load_config()
  if saved.get('format') != FORMAT:
    raise _validate.InputError(f'expected {folder} to be the directory of a sweep')
  runs = [_read_run(path, failures) for path in folder.glob('eps*/*') if _is_run(path)]
  runs.sort(key=lambda run: (run.target_epsilon, run.name))
  return Table(saved['settings'], saved['data'], tuple(runs))


def _is_run(path: pathlib.Path) -> bool:
  """Whether a run has begun there; refuses one that cannot be counted, and so would be left out."""
  if (path / 'config.json').is_file():
    return True
  left = [name for name in _LEFT if (path / name).exists()]
  if left:
    raise _validate.InputError(
      f'{path} holds {left[0]} but no config.json: what that run has spent is not known, and the '
      'total would leave it out; restore config.json from a backup'
    )
  return False


def _read_run(path: pathlib.Path, failures: Mapping[str, str]) -> Run:
  """Reads one run; what cannot be read of its ledger counts as spent whole."""
  name = f'{path.parent.name}/{path.name}'
  run = RunDir.open(path, create=False)
  planned = plan.read(run.load_config(), run.config)
  finished = (path / GENERATOR).is_file()
  charged = planned.budget.mechanism.steps
  reason = failures.get(name)
  if not finished:
    try:
      charged = run_statement.build(run).steps_charged
    except _validate.InputError as error:
      reason = reason or f'{error} (all its steps are counted as taken)'
  return make_run(
    name, planned, charged=charged, finished=finished, evaluation=_json(path / EVALUATION),
    reason=reason,
  )  # fmt: skip


def make_run(
  name: str,
  planned: plan.Plan,
  *,
  charged: int,
  finished: bool,
  evaluation: Mapping[str, Any],
  reason: str | None,
) -> Run:
  """A run from its plan and from what evaluation.json holds; other arguments as in `Run`."""
  config = planned.config
  return Run(
    name=name,
    target_epsilon=math.inf if config.target_epsilon is None else config.target_epsilon,
    budget=planned.budget,
    charged=charged,
    finished=finished,
    seed_fixed=config.seed is not None,
    scores={s['name']: s for s in evaluation.get('scores', [])},
    amount=evaluation.get('about', {}).get('amount'),
    reason=reason,
  )


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_bytes())
  except FileNotFoundError:
    return {}
  except ValueError:
    raise _validate.InputError(f'expected {path} to be JSON; remove it to have it made') from None


# --- the table -----------------------------------------------------------------------------------


def summary(runs: Iterable[Run], name: str) -> dict[str, Any] | None:
  """Mean, spread and ends of a score over runs; None if no run has it."""
  found = [run.scores[name] for run in runs if name in run.scores]
  if not found:
    return None
  values = [s['value'] for s in found]
  references = [s['reference'] for s in found if s['reference'] is not None]
  return {
    'values': values,
    'mean': statistics.fmean(values),
    'standard_deviation': statistics.stdev(values) if len(values) > 1 else None,
    'reference': statistics.fmean(references) if references else None,
    'reads_private_data': found[0]['reads_private_data'],
  }


def to_json(table: Table) -> dict[str, Any]:
  """Everything, for machines: strict JSON, an infinite number is the string 'inf'."""
  epsilon, private, public = table.spent_together
  groups = table.by_epsilon()
  names = list(dict.fromkeys(n for run in table.runs for n in run.scores))
  return json_ready({
    'format': FORMAT,
    'settings': dict(table.settings),
    'data': {k: v for k, v in table.data.items() if k != 'data_fingerprint'},
    'by_epsilon': [
      {
        'target_epsilon': target,
        'runs': len(runs),
        'steps': _steps(runs),
        'scores': {n: s for n in names if (s := summary(runs, n)) is not None},
      }
      for target, runs in groups.items()
    ],
    'spent_together': {
      'epsilon': epsilon,
      'delta': table.settings.get('delta'),
      'private_runs': private,
      'runs_without_privacy': public,
      'statement': spending(epsilon, private, public, table),
    },
    'runs': [
      {
        'run': run.name,
        'target_epsilon': run.target_epsilon,
        'epsilon': run.epsilon,
        'noise_multiplier': run.mechanism.noise_multiplier,
        'steps': run.mechanism.steps,
        'steps_charged': run.charged,
        'finished': run.finished,
        'seed_fixed': run.seed_fixed,
        'evaluated': run.amount,
        'reason': run.reason,
      }
      for run in table.runs
    ],
    'privacy': _PRIVATE,
  })  # fmt: skip


def spending(epsilon: float, private: int, public: int, table: Table) -> str:
  """What all runs together spend, in words."""
  lines = [_SPENDING]
  if private:
    which = f'The {private} private runs together' if private > 1 else 'The one private run'
    lines.append(
      f'{which}: ({show_epsilon(epsilon)}, {table.settings["delta"]!r})-differential privacy, by '
      'composition of all steps charged (PLD).'
    )
  if public:
    lines.append(
      f'{public} run{"s" * (public > 1)} without privacy: no ε covers the samples of '
      f'{"these" if public > 1 else "this one"}, nor what is published beside them.'
    )
  if any(run.seed_fixed for run in table.runs):
    lines.append('Seeds were fixed: nothing here is private against those who know them.')
  lines.append(
    'Choosing an ε or a run by scores that read private data is not covered by any of it.'
  )
  return ' '.join(lines)


def to_markdown(table: Table, figures: Sequence[str], left_out: Sequence[str]) -> str:
  """The page, for people."""
  s = table.settings
  lines = [
    '# Sweep over ε', '',
    f'- data: {s["dataset"]}, N = {_records(table):,}',
    f'- models: moments, δ = {s["delta"]!r}' if s.get('method') == 'moments' else
    f'- models: {s["generator"]} and {s["discriminator"]}, B = {s["batch_size"]}, '
    f'C = {s["l2_clip_norm"]}, δ = {s["delta"]!r}, n_D = {s["d_steps_per_g_step"]}',
    '', '## Scores', '', _PRIVATE, '',
  ]  # fmt: skip
  lines += [score_table(table), '', '## What is spent', '']
  lines += [spending(*table.spent_together, table), '']
  rows = []
  for run in table.runs:
    taken = f'{run.charged:,}' if run.finished else f'{run.charged:,} of {run.mechanism.steps:,}'
    state = 'finished' if run.finished else 'not finished'
    state += ', not evaluated' if run.finished and not run.scores else ''
    state += f': {run.reason}' if run.reason else ''
    sigma = f'{run.mechanism.noise_multiplier:g}'
    rows.append((run.name, show_epsilon(run.epsilon), sigma, taken, state))
  lines += ['## Runs', '', _markdown.table(('run', 'ε', 'σ', 'steps', 'state'), rows)]
  if len({run.amount for run in table.runs if run.amount}) > 1:
    lines += ['', '**Runs were evaluated with different amounts: their scores do not compare.**']
  lines += ['', '## Figures', '', *(f'![{name}]({name})' for name in figures)]
  lines += [f'- left out: {reason}' for reason in left_out]
  return '\n'.join(lines) + '\n'


def _records(table: Table) -> int:
  return table.data.get('num_records', table.data.get('num_examples'))  # the latter in version 0.1


def score_table(table: Table) -> str:
  """Markdown: a row for each ε, and what real images get."""
  names = [n for n in COLUMNS if any(n in run.scores for run in table.runs)]
  if not names:
    return 'No run has been evaluated.'
  titles = [{**pages.TITLES, **scores.TITLES}[name] for name in names]
  rows = []
  for target, runs in table.by_epsilon().items():
    steps = ', '.join(f'{n:,}' for n in _steps(runs))
    scored = (_cell(summary(runs, name)) for name in names)
    rows.append((show_epsilon(target), len(runs), steps, *scored))
  evaluated = [run for run in table.runs if run.scores]
  real = [(summary(evaluated, name) or {}).get('reference') for name in names]
  kind = {'table': 'rows', 'series': 'series'}.get(str(table.data.get('kind')), 'images')
  rows.append((f'real {kind}', '', '', *('–' if r is None else f'{r:.4g}' for r in real)))
  return _markdown.table(('ε', 'runs', 'steps', *titles), rows)


def _steps(runs: Iterable[Run]) -> list[int]:
  return sorted({run.mechanism.steps for run in runs})


def _cell(found: Mapping[str, Any] | None) -> str:
  if found is None:
    return '–'
  spread = found['standard_deviation']
  return f'{found["mean"]:.4g}' + ('' if spread is None else f' ± {spread:.2g}')

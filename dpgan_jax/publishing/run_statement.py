"""The privacy statement read off a run directory, and the files that it is written to.

Everything in it follows from the run directory: settings and mechanism (config.json), the steps
paid for (the ledger), the steps taken (the checkpoints); these are only read. The same run gives
the same bytes.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dpgan_jax import _environment, _figures, _files, _json, _validate
from dpgan_jax.budget import cross_check
from dpgan_jax.budget.budget import Budget
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.models.gans import verdict as gan_verdict
from dpgan_jax.models.gans.verdict import GANVerdict
from dpgan_jax.models.moments import verdict
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.models.moments.verdict import Verdict
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.accounting import rounded_up
from dpgan_jax.publishing import page
from dpgan_jax.publishing.statement import ENVIRONMENT, PICTURE, Statement
from dpgan_jax.run import metrics, plan
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases import moments, schema

_CURVE_POINTS = 7  # each costs about a second of accounting


def build(run: RunDir, *, tuning_note: str | None = None) -> Statement:
  """The statement of a run, finished or not; nothing is written.

  Args:
    run: its directory.
    tuning_note: how settings were chosen, in the data owner's words; None keeps what an earlier
      report.json says, an empty one takes it back.

  Raises:
    InputError: a damaged or contradictory run directory; an ε that the second computation
      contradicts (`cross_check`).
  """
  saved = run.load_config()
  planned = schema.settled(plan.read(saved, run.config), run)
  try:
    at_start = dict(saved['environment'])
  except (KeyError, TypeError, ValueError) as error:
    raise _validate.InputError(f'{run.config} is not the record of a run: {error!r}') from None
  budget, mechanism, config = planned.budget, planned.budget.mechanism, planned.config
  # Checkpoints first: a run that is training meanwhile charges its ledger before it takes steps.
  taken = max(Checkpoints(run.checkpoints).steps(), default=0)
  charged, beside_finished = _charged_steps(run, budget, taken)
  curve = {delta: budget.epsilon(charged, delta) for delta in _deltas(mechanism.delta)}
  budgeted = budget.epsilon()
  second_opinion = _second_opinion(budget, charged, curve)
  _second_opinion(budget, mechanism.steps, {mechanism.delta: budgeted})

  return Statement(
    config=config.replace(seed=None),
    mechanism=mechanism,
    beside=budget.beside,
    spec=planned.spec,
    seed_fixed=config.seed is not None,
    steps_taken=taken,
    steps_charged=charged,
    beside_finished=beside_finished,
    curve=tuple(curve.items()),
    epsilon=curve[mechanism.delta],
    epsilon_budgeted=budgeted,
    second_opinion=second_opinion,
    environment_at_start=_publishable(at_start),
    environment_now=_publishable(_environment.environment()),
    tuning_note=_note(run, tuning_note),
    verdict=_verdict(run, planned),
  )


def _verdict(run: RunDir, planned: plan.Plan) -> Verdict | GANVerdict | None:
  """What samples can be good for, from what was released; None where nothing can be said."""
  if not isinstance(planned, Moments):
    if not run.signs.is_file():  # not at its end yet, or of an earlier version
      return None
    try:
      return gan_verdict.judge(gan_verdict.from_record(_json.read(run.signs)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise _validate.InputError(
        f'{run.signs} is not what a run leaves ({error}): let dpgan_jax.train write it again'
      ) from None
  model = moments.restore_moments(planned, run) if moments.is_readable(planned, run) else None
  found = None if model is None else verdict.judge(model.means, model.seconds, planned)
  if found is None or planned.config.matching_steps is None or run.matched.is_file():
    return found
  untaught = 'There is no generator yet: let dpgan_jax.train run, free of privacy cost. '
  return dataclasses.replace(found, sentence=untaught + found.sentence)


def write(run: RunDir, *, tuning_note: str | None = None) -> Statement:
  """Writes report.json, report.md, report.html and the picture of ε over δ into a run directory.

  Args:
    run: the directory.
    tuning_note: as in `build`.

  Returns:
    The statement.

  Raises:
    InputError: as `build`.
  """
  statement = build(run, tuning_note=tuning_note)
  lines = metrics.read_metrics(run.metrics) if run.metrics.is_file() else ()
  save(statement, run.path, metrics=lines)
  return statement


def save(
  statement: Statement, folder: pathlib.Path, *, metrics: Sequence[Mapping[str, Any]] = ()
) -> None:
  """Writes the files of a statement into `folder`; each is whole or absent.

  Args:
    statement: what they say.
    folder: where they go; the page shows samples.png of it, if that is there.
    metrics: lines of the run's record, of which the page shows what is covered.
  """
  _figures.epsilon_delta_curve(
    [delta for delta, _ in statement.curve],
    [epsilon for _, epsilon in statement.curve],
    folder / PICTURE,
    at_delta=statement.mechanism.delta,
    at_epsilon=rounded_up(statement.epsilon),
  )
  names = (PICTURE, 'samples.png')
  pictures = {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}
  texts = {'report.md': statement.to_markdown(), page.NAME: to_html(statement, pictures, metrics)}
  for name, text in texts.items():
    with _files.atomic_write(folder / name) as file:
      file.write(text)
  _files.write_json(folder / 'report.json', statement.to_json())


def to_html(
  statement: Statement,
  pictures: Mapping[str, bytes],
  metrics: Sequence[Mapping[str, Any]] = (),
) -> str:
  """The page of a statement; `pictures` and `metrics` as of `page.make`."""
  verdict = statement.verdict
  return page.make(
    statement.to_markdown(), statement.files(), statement.spec, statement.config.dataset, pictures,
    colour=verdict and verdict.colour, metrics=metrics,
  )  # fmt: skip


def _charged_steps(run: RunDir, budget: Budget, taken: int) -> tuple[int, bool]:
  """Steps of the GAN paid for, having checked that they cover the steps taken; and whether the
  stages beside them are paid for whole, as they count in any case.
  """
  if not run.ledger.exists():
    if taken:
      raise _validate.InputError(
        f'{run.ledger} is missing but a checkpoint has taken {taken} steps: what has been spent '
        'is no longer certain; restore the file from a backup'
      )
    return 0, not budget.beside
  ledger = Ledger.read(run.ledger, stages=budget.stages, identity=run.identity())
  ledger.require_covers(taken, budget.stage)
  if run.metrics.is_file():  # a line is written after its steps were taken
    for record in metrics.read_metrics(run.metrics)[-1:]:
      ledger.require_covers(record['step'], budget.stage)
  whole = all(ledger.charged_steps(name) == m.steps for name, m in budget.beside.items())
  return ledger.charged_steps(budget.stage), whole


def _second_opinion(
  budget: Budget, steps: int, epsilons: Mapping[float, float]
) -> cross_check.Interval | None:
  """The interval around the exact ε of `steps` steps at the mechanism's δ, all of `epsilons` being
  checked; None if there is no guarantee.

  Its lower end is what two data sets attain: where batches are often cut, that of the event, which
  the accountant is checked by, is none of the mechanism.
  """
  if not budget.is_private:
    return None
  event, delta = budget.event(steps), budget.mechanism.delta
  relation = budget.mechanism.neighboring_relation
  found = cross_check.require_agreement(event, epsilons, neighboring_relation=relation)
  (attained,) = cross_check.bounds(event, [delta], neighboring_relation=relation, attained=True)
  return cross_check.Interval(attained.lower, found[delta].upper)


def _deltas(delta: float) -> list[float]:
  """δ of the curve: exactly the stated one, and others as numbers that people can read."""
  points = accounting.log_spaced_deltas(delta, _CURVE_POINTS)
  return [delta if math.isclose(d, delta) else float(f'{d:.6g}') for d in points]


def _note(run: RunDir, given: str | None) -> str | None:
  """The note on one line: the one given, or else the one that an earlier report holds."""
  if given is None and run.report_json.exists():
    try:
      given = _json.read(run.report_json)['tuning']['note']
      if not isinstance(given, str | None):
        raise TypeError
    except (ValueError, KeyError, TypeError):
      raise _validate.InputError(
        f'expected {run.report_json} to be a report, since its tuning note is kept; remove the '
        'file, or give dpgan_jax.report a --tuning_note'
      ) from None
  note = ' '.join((given or '').split())
  try:
    note.encode()
  except UnicodeEncodeError:
    raise _validate.InputError(f'expected tuning_note to be UTF-8 text, got {note!r}') from None
  return note or None


def _publishable(environment: Mapping[str, Any]) -> dict[str, Any]:
  return {n: environment[n] for n in (*ENVIRONMENT, 'plugins') if n in environment}

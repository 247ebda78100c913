"""The ways to audit, each as a record of what it could show."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _keys, _progress, _validate
from dpgan_jax.auditing import canaries, counts, membership, one_run
from dpgan_jax.auditing.gradient import GradientAudit, gradient_bound
from dpgan_jax.data.sources import Source
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.files import schema_file
from dpgan_jax.evaluation import scoring
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import settings
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import plan, secrets, trainer


def gradient(
  config: TrainConfig,
  *,
  num_examples: int | None,
  trials: int,
  dimension: int,
  confidence: float,
  seed: int,
) -> dict[str, Any]:
  """Many short runs of the mechanism's own parts in their worst case; reads no data."""
  if num_examples is None:
    raise _validate.InputError('expected --num_examples=N, the N of the mechanism (tens will do)')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # δ ≥ 1/N is no concern where there are no data
    mechanism = plan.make_budget(config, num_examples).mechanism
  show = _progress.WorkProgress()
  found = gradient_bound(
    mechanism,
    trials=trials,
    key=_keys.from_seed(seed),
    confidence=confidence,
    dimension=dimension,
    progress=lambda share: show.update('simulated runs', share),
  )
  show.close()
  return _of_many_runs(found, {'mechanism': mechanism})


def table(
  config: TrainConfig,
  *,
  schema: str | None,
  num_examples: int | None,
  trials: int,
  confidence: float,
  seed: int,
) -> dict[str, Any]:
  """Many releases of a table with one person and without; reads no data."""
  if schema is None or num_examples is None:
    raise _validate.InputError(
      'expected --schema=FILE of the table and --num_examples=N, how many records it has'
    )
  if config.schema_epsilon is not None:
    raise _validate.InputError('expected no schema_epsilon: a schema is given, and counts audited')
  described = schema_file.read_schema(schema)
  spec = Spec.of_schema(described, num_records=num_examples, name='table')
  moments = settings.make(config, spec)
  show = _progress.WorkProgress()
  found = counts.counts_bound(
    moments, trials=trials, seed=seed, confidence=confidence,
    progress=lambda share: show.update('releases', share),
  )  # fmt: skip
  show.close()
  return _of_many_runs(found, moments.stages)


def _of_many_runs(found: GradientAudit, claimed: Mapping[str, DPMechanism]) -> dict[str, Any]:
  return {
    'steps': found.steps,
    'accounted_epsilon': found.accounted_epsilon,
    'delta': found.delta,
    'lower_bound': found.lower_bound,
    'family_bound': found.family_bound,
    'refuted': found.refuted or found.lower_bound > found.accounted_epsilon,
    'trials': found.trials,
    'tests': {
      'lower_bound': {'statistic': found.statistic, **dataclasses.asdict(found.errors)},
      'family_bound': {
        'statistic': found.family_statistic, **dataclasses.asdict(found.family_errors),
      },
    },
    **{name: mechanism.to_dict() for name, mechanism in claimed.items()},
    'says': 'lower_bound assumes nothing. family_bound takes the mechanism to be what it claims '
    'but for its noise multiplier. refuted: the runs contradict the accountant at some delta. '
    'Each with the confidence given. No data were read.',
  }  # fmt: skip


def one_real_run(
  config: TrainConfig,
  out: pathlib.Path,
  *,
  num_canaries: int,
  canary_kind: str,
  confidence: float,
  seed: int,
  source: Source,
) -> dict[str, Any]:
  """One real run with canaries; on private data it is a release of its own."""
  dataset = source.load_images()
  others = source.load_images('test') if canary_kind == 'mislabelled' else None
  planted = canaries.make_canaries(
    canary_kind,
    num_canaries,
    spec=dataset.spec,
    others=others,
    parameters=one_run.count_parameters(config, dataset),
    seed=seed,
  )
  about = {'canary_kind': canary_kind, 'audit_seed': seed}
  found = one_run.audit_run(config, dataset, planted, out, confidence=confidence, about=about)
  strongest = found.by['gradient']  # named before anything was measured
  m = found.mechanism
  return {
    'steps': m.steps,
    'accounted_epsilon': found.accounted_epsilon,
    'delta': m.delta,
    'lower_bound': strongest.lower_bound,
    'refuted': strongest.lower_bound > found.accounted_epsilon,
    'trials': 1,
    'canaries': found.canaries,
    'canaries_present': found.present,
    'canary_kind': canary_kind,
    'adversaries': {name: dataclasses.asdict(guesses) for name, guesses in found.by.items()},
    'mechanism': m.to_dict(),
    'config': dataclasses.replace(config, seed=None).to_dict(),
    'seed': secrets.describe(config.seed),
    'says': f'The data set has N = {m.num_examples} records: {len(dataset)} of {dataset.name} and '
    f'{found.canaries} canaries; epsilon is for adding or removing one of them. lower_bound is '
    'that of the adversary who sees every noisy gradient; loss sees the discriminator, samples '
    'only what is published, and both need canaries that are images. Each adversary has the '
    'confidence given to itself. This run is a release of its own: it spent its epsilon on the '
    'data.',
  }


def samples_attack(
  *,
  run_dir: str | None,
  samples: str | None,
  source: Source,
  other_data: bool,
  delta: float,
  candidates: int,
  confidence: float,
  seed: int,
) -> dict[str, Any]:
  """Membership attacks on samples; reads training images, so its figures are private.

  Args:
    run_dir: the run whose samples are attacked; or
    samples: an .npz file of them.
    source: the real data; of a run, what it has recorded of them comes first.
    other_data: whether the data set in it was asked for, and so takes the place of the run's.
    delta: at which bounds are stated for `samples`; a run has its own.
    candidates: images of each kind that are asked about, at most.
    confidence: of each bound.
    seed: of draws and candidates.
  """
  if (run_dir is None) == (samples is None):
    raise _validate.InputError('expected --run_dir=DIRECTORY or --samples=FILE.npz, one of them')
  accounted, steps = None, None
  if samples is not None:
    if not other_data:
      raise _validate.InputError('expected --dataset=NAME of the training images beside --samples')
    source, name = source.settled(), pathlib.Path(samples).name
    images, _ = scoring.read_samples(samples)
  else:
    assert run_dir is not None
    trained = trainer.restore_model(run_dir)
    model = trained.model
    source = Source.of(
      model.config, data_dir=source.data_dir, labels_csv=source.labels_csv,
      dataset=source.dataset if other_data else model.spec.name,
    )  # fmt: skip
    accounted, delta, steps = model.epsilon(), model.budget.mechanism.delta, model.steps
    name = scoring.source_of(model)
    images, _ = model.sample(model.config.num_samples, key=_keys.from_seed(seed))
  train, test = scoring.load_real(source)
  show = _progress.WorkProgress()
  found = membership.attack(
    np.asarray(images),
    train.images,
    test.images,
    delta=delta,
    confidence=confidence,
    most=candidates,
    seed=seed,
    progress=lambda share: show.update('attacks', share),
  )
  show.close()
  named = found['density_ratio']  # before anything was measured
  return {
    'steps': steps,
    'accounted_epsilon': accounted,
    'delta': delta,
    'lower_bound': named.guesses.lower_bound,
    'refuted': accounted is not None and named.guesses.lower_bound > accounted,
    'trials': 1,
    'candidates': 2 * min(candidates, len(train), len(test) // 2),
    'attacked': f'{len(images):,} samples, {name}',
    'attacks': {name: dataclasses.asdict(each) for name, each in found.items()},
    'says': f'Members are training images of {source.dataset}, non-members test images. The bounds '
    'hold if membership was decided by fair coins among the candidates; a split that differs in '
    'more than chance looks like a leak. Computed from training images: private.',
  }


def summary(record: dict[str, Any]) -> str:
  """The lines that the command prints."""
  accounted = record['accounted_epsilon']
  against = 'no accounted epsilon is known for it' if accounted is None else (
    f'accounted: {accounted:.4g}'
  )  # fmt: skip
  lines = [
    f'{record["name"]}: epsilon >= {record["lower_bound"]:.4g} with '
    f'{100 * record["confidence"]:.4g} % confidence at delta {record["delta"]:g}; {against}'
  ]
  if 'family_bound' in record:
    lines.append(f'  if only the noise could be another: epsilon >= {record["family_bound"]:.4g}')
  for name, each in record.get('adversaries', {}).items():
    lines.append(f'  {name}: {_ranked(each)}')
  for name, each in record.get('attacks', {}).items():
    lines.append(f'  {name}: {_ranked(each["guesses"])}')
  if record['refuted']:
    lines.append('  REFUTED: the runs contradict the accounted guarantee')
  return '\n'.join(lines)


def _ranked(guesses: dict[str, Any]) -> str:
  low, high = guesses['auc_interval']
  return (
    f'epsilon >= {guesses["lower_bound"]:.3g}, {guesses["correct"]} of {guesses["guesses"]} '
    f'guesses right; area under the curve {guesses["auc"]:.3f} ({low:.3f} to {high:.3f})'
  )

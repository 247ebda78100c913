"""From the results of tasks to scores: each with its name, its reference and what it read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpgan_jax.evaluation import judges
from dpgan_jax.evaluation.scores import Evaluation, Score

Result = Mapping[str, Any]


def gather(results: Mapping[str, Result], num_samples: int, *, labelled: bool) -> Evaluation:
  """Names every number, and says which real images it read.

  Args:
    results: by name of the task.
    num_samples: how many samples were scored.
    labelled: whether they have classes.
  """
  train, both = ('train',), ('train', 'test')
  scores: list[Score] = []

  def add(name: str, value: float, best: str, reads: tuple[str, ...], n: int, **rest: Any) -> None:
    scores.append(Score(name=name, value=value, best=best, reads=reads, n=n, **rest))

  for name in judges.CLASSIFIERS:
    if f'tstr_{name}' not in results:
      continue
    tstr, ceiling = results[f'tstr_{name}'], results.get(f'ceiling_{name}', {})
    detail = {
      'per_class': tstr['per_class'],
      'epochs': tstr['epochs'],
      'epoch_chosen': tstr['epoch'],
    }
    if ceiling:
      detail |= {'per_class_ceiling': ceiling['per_class'], 'n_ceiling': ceiling['n']}
    # The reference was trained on the training images; the value was tested on the test images.
    add(f'tstr_{name}', tstr['accuracy'], 'high', both, tstr['n'],
        reference=ceiling.get('accuracy'), detail=detail)  # fmt: skip
    add(f'hold_out_{name}', tstr['hold_out_accuracy'], 'high', (), tstr['n'] // 10)
  if found := results.get('features'):
    for name, best in (
      ('fid', 'low'), ('kid', 'low'), ('precision', 'high'), ('recall', 'high'),
      ('density', 'high'), ('coverage', 'high'),
    ):  # fmt: skip
      n = found['n' if name == 'fid' else 'pairs']
      add(name, found['fake'][name], best, train, n, reference=found['floor'][name])
  for name in ('secondary', 'conv_judge'):
    if r := results.get(name):
      detail = {key: r[key] for key in ('on_real', 'on_fake', 'n_train')}
      add(f'{name}_accuracy', r['accuracy'], '0.5', both, r['n_unseen'], detail=detail)
  if r := results.get('secondary'):
    add('secondary_fid', r['fid'], 'low', both, r['n_unseen'], reference=r['fid_floor'],
        detail={'n_reference': r['n_unseen'] // 2})  # fmt: skip
  if r := results.get('memorisation'):
    n, detail = r['queries'], {key: r[key] for key in r if key.startswith(('median', 'ref'))}
    add('closer_to_train', r['closer_to_train'], '0.5', both, n, detail=detail)
    add('copy_share', r['copy_share'], 'low', both, n, reference=0.01)
    add('copying_z', r['z_score'], 'not far below 0', both, n)
  if r := results.get('distinct'):
    add('distinct_samples', r['value'], 'high', (), num_samples)
  skipped = {}
  if not labelled:
    skipped['tstr'] = 'the samples have no labels, which a classifier needs to be trained'
  if r := results.get('inception_fid'):
    add('inception_fid', r['value'], 'low', train, r['n'], reference=r['floor'])
  else:
    skipped['inception_fid'] = 'not asked for (--inception; needs the package torch-fidelity)'
  return Evaluation(scores=tuple(scores), skipped=skipped)

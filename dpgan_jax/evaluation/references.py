"""What samples are measured against, and from the results of tasks to scores beside it.

Above, what real images get in their place. Below, what noise gets: `static`, which has the mean and
the variance of each colour and nothing else, and `pixels`, each of whose pixels is that of another
real image. Of the two the one that looks better counts, and for accuracies a guess.

>>> real = np.full((9, 2, 2, 1), [[[40]], [[200]]], np.uint8)
>>> noise('pixels', real, 1, seed=0)[0, ..., 0].tolist()
[[40, 40], [200, 200]]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _validate
from dpgan_jax.data.images.dataset import ENOUGH, ImageDataset
from dpgan_jax.data.spec import Spec
from dpgan_jax.evaluation import distances, features, judges
from dpgan_jax.evaluation.scores import Evaluation, Score

Result = Mapping[str, Any]
NOISES = ('static', 'pixels')
# Fewer leave too few points for a covariance of features.
MIN_SAMPLES, MIN_TEST = 200, ENOUGH
_AT_ONCE = 500


def check_samples(
  images: np.ndarray, labels: np.ndarray | None, train: ImageDataset, test: ImageDataset
) -> np.ndarray | None:
  """Refuses what cannot be scored; returns the labels as int64 [n]."""
  if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
    found = f'{images.dtype} {images.shape}' if isinstance(images, np.ndarray) else type(images)
    raise _validate.InputError(f'expected samples to be uint8 [N, H, W, C], got {found}')
  if not len(images):
    raise _validate.InputError('expected samples, got an empty set')
  if images.shape[1:] != train.spec.shape:
    raise _validate.InputError(
      f'expected samples of the size of {train.name}, {train.spec.shape}, got {images.shape[1:]}'
    )
  for what, count, least in (
    ('samples', len(images), MIN_SAMPLES), ('training images', len(train), MIN_SAMPLES),
    ('test images', len(test), MIN_TEST),
  ):  # fmt: skip
    if count < least:
      raise _validate.InputError(
        f'expected at least {least} {what} (fewer leave too few points for a covariance of '
        f'features), got {count}'
      )
  if test.spec.shape != train.spec.shape or test.num_classes != train.num_classes:
    raise _validate.InputError('expected test images of the size and classes of the training set')
  if labels is None:
    return None
  labels = np.asarray(labels)
  if labels.dtype.kind not in 'iu' or labels.shape != (len(images),):
    raise _validate.InputError(
      f'expected labels to be {len(images)} whole numbers, got {labels.dtype} {labels.shape}'
    )
  if labels.min() < 0 or labels.max() >= train.num_classes:
    raise _validate.InputError(
      f'expected labels in [0, {train.num_classes}), got {labels.min()} to {labels.max()}'
    )
  return labels.astype(np.int64)


def noise(kind: str, real: np.ndarray, num: int, *, seed: int) -> np.ndarray:
  """Images that show nothing, made of real ones: they read private data.

  Args:
    kind: 'static' is independent in every pixel and colour, of the mean and the variance that real
      images have in this colour (a beta distribution, which needs no cutting off); 'pixels' keeps
      the distribution of each pixel with its colours, and takes the pixels from different images.
    real: uint8 [m, h, w, c].
    num: how many.
    seed: of the draw.

  Returns:
    uint8 [num, h, w, c].
  """
  _validate.one_of('kind', kind, NOISES)
  rng = np.random.default_rng(seed)
  shape = real.shape[1:]
  made = np.empty((num, *shape), np.uint8)
  # White, black and blank images would have no beta distribution: these have almost none.
  mean = (real.mean(axis=(0, 1, 2), dtype=np.float64) / 255).clip(1e-4, 1 - 1e-4)
  variance = np.maximum(real.var(axis=(0, 1, 2), dtype=np.float64) / 255**2, 1e-6)
  total = np.maximum(mean * (1 - mean) / variance - 1, 1e-2)
  rows, columns = np.ogrid[: shape[0], : shape[1]]
  for start in range(0, num, _AT_ONCE):
    part = made[start : start + _AT_ONCE]
    if kind == 'static':
      part[:] = np.rint(255 * rng.beta(mean * total, (1 - mean) * total, part.shape))
    else:
      part[:] = real[rng.integers(0, len(real), part.shape[:3]), rows, columns]
  return made


def gather(
  results: Mapping[str, Result], *, num_samples: int, labelled: bool, spec: Spec
) -> Evaluation:
  """Names every number, sets it beside real images and noise, and says which real images it read.

  Args:
    results: by name of the task.
    num_samples: how many samples were scored.
    labelled: whether they have classes.
    spec: of the real data.
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
      'balanced': tstr['balanced_accuracy'],
      'balanced_guess': tstr['balanced_guess'],
    }
    if ceiling:
      detail |= {
        'per_class_ceiling': ceiling['per_class'],
        'n_ceiling': ceiling['n'],
        'balanced_ceiling': ceiling['balanced_accuracy'],
      }
    # The reference was trained on the training images; the value was tested on the test images.
    add(f'tstr_{name}', tstr['accuracy'], 'high', both, tstr['n'],
        reference=ceiling.get('accuracy'), static=tstr['guess'], detail=detail)  # fmt: skip
    if tstr['uneven']:
      add(f'balanced_{name}', tstr['balanced_accuracy'], 'high', both, tstr['n'],
          reference=ceiling.get('balanced_accuracy'), static=tstr['balanced_guess'])  # fmt: skip
    add(f'hold_out_{name}', tstr['hold_out_accuracy'], 'high', (), tstr['n'] // 10)
  if found := results.get('features'):
    chosen = features.choose(spec)
    about = {'features': chosen, 'off_ground': features.off_ground(chosen, spec.shape)}
    lower = results.get('static_features', {})
    for name, best in (
      ('fid', 'low'), ('kid', 'low'), ('precision', 'high'), ('recall', 'high'),
      ('density', 'high'), ('coverage', 'high'),
    ):  # fmt: skip
      n = found['n' if name == 'fid' else 'pairs']
      by_noise = {kind: lower[kind][name] for kind in NOISES if kind in lower}
      add(name, found['fake'][name], best, train, n, reference=found['floor'][name],
          static=_looks_better(by_noise, best), detail={'static': by_noise}, **about)  # fmt: skip
  for name in ('secondary', 'conv_judge'):
    if r := results.get(name):
      by_noise = {k: results[f'static_{name}'][k] for k in NOISES if f'static_{name}' in results}
      detail = {key: r[key] for key in ('on_real', 'on_fake', 'n_train')} | {'static': by_noise}
      # Real images are not told from real images: that needs no judge to know.
      add(f'{name}_accuracy', r['accuracy'], '0.5', both, r['n_unseen'], reference=0.5,
          static=_looks_better(by_noise, '0.5'), detail=detail)  # fmt: skip
  if r := results.get('secondary'):
    by_noise = {kind: r['static'][kind] for kind in NOISES}
    add('secondary_fid', r['fid'], 'low', both, r['n_unseen'], reference=r['fid_floor'],
        static=_looks_better(by_noise, 'low'), features='secondary network',
        detail={'n_reference': r['n_unseen'] // 2, 'static': by_noise})  # fmt: skip
  copies = None
  if r := results.get('memorisation'):
    copies = distances.Memorisation(**r)
    n, no_more = r['queries'], {'remark': 'a detail: what the sentence on copies says decides'}
    detail = no_more | {key: r[key] for key in r if key.startswith(('median', 'ref'))}
    low, high = copies.copy_interval
    interval = f'95 % interval {low:.1%} to {high:.1%}, {"alarm" if copies.alarm else "no alarm"}'
    add('closer_to_train', r['closer_to_train'], '0.5', both, n, reference=0.5, detail=detail)
    add('copy_share', r['copy_share'], 'low', both, n, reference=0.01,
        detail={'interval': (low, high), 'alarm': copies.alarm, 'remark': interval})  # fmt: skip
    add('copying_z', r['z_score'], '–', both, n, detail=no_more)
  if r := results.get('distinct'):
    add('distinct_samples', r['value'], 'high', (), num_samples)
  skipped = {}
  if not labelled:
    skipped['tstr'] = 'the samples have no labels, which a classifier needs to be trained'
  if r := results.get('inception_fid'):
    add('inception_fid', r['value'], 'low', train, r['n'], reference=r['floor'],
        static=_looks_better({k: r[k] for k in NOISES}, 'low'), features='Inception-v3',
        off_ground=features.off_ground('inception', spec.shape))  # fmt: skip
  else:
    skipped['inception_fid'] = 'not asked for (--inception; needs the package torch-fidelity)'
  return Evaluation(
    scores=tuple(scores), skipped=skipped, class_names=spec.class_names, copies=copies
  )


def _looks_better(by_noise: Mapping[str, float], best: str) -> float | None:
  """What the noise gets that a score likes better; None where noise was not scored."""
  better = max if best == 'high' else min
  return better(by_noise.values(), default=None)

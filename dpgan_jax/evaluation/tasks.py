"""What is computed of samples, and with what they are compared: every score beside what real images
and static get, and marked where it read real images.

Real training images are private, and real test images are somebody's too: a score that read either
is not covered by the ε of a run, whoever computed it. Only scores on samples alone are.

Results that are done are kept in a `scores.Store`, by a digest of all that they depend on: an
evaluation that was interrupted goes on where it was, and another of the same real data finds what
real images and static get.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from dpgan_jax import _plugins
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.evaluation import distances, features, judges, references, scores
from dpgan_jax.evaluation.scores import Evaluation, Result, Store
from dpgan_jax.models import fitting

VERSION = 2
"""Raised whenever a score changes its meaning: what an older version kept is not used."""
TASKS = _plugins.Live(lambda: (
  'distinct', 'features', 'memorisation', 'secondary', 'conv_judge',
  *(f'{kind}_{name}' for name in judges.CLASSIFIERS for kind in ('tstr', 'ceiling')),
))  # fmt: skip
"""The pieces of work of an evaluation, each kept as a whole (and `inception_fid`, if asked for).

With each of `features`, `secondary` and `conv_judge` goes `static_<name>`: what noise gets.
"""
_SECONDARY_EPOCHS = 10
_STATIC_JUDGED = 2000  # real images, and as many of noise, that teach a judge what noise is
_UNEVEN = 1.5  # times as many test images of one class as of another: accuracy alone misleads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How much is done; the numbers are upper limits, as the data may be fewer.

  Attributes:
    seed: of every draw, start and order.
    judge_train, judge_test: images of each kind for the secondary network (the report's numbers).
    conv_train, conv_epochs: the same of the convolutional judge, which is far dearer.
    fid_images: of each kind for the FID.
    pair_images: of each kind where all pairs are compared: KID, precision to coverage.
    nearest_queries: samples whose nearest neighbours are looked for.
    tstr_images: samples that classifiers are trained on.
    cnn_images_seen: images times epochs of the CNN; with it the default evaluation takes minutes.
    cnn_epochs: exactly so many instead; None: from 4 to 50, by `cnn_images_seen`.
    inception: compute the FID on Inception's features too (needs torch-fidelity).
    tasks: the pieces of work that are done, by name; None: all of them.
  """

  seed: int = 0
  judge_train: int = 60_000
  judge_test: int = 10_000
  conv_train: int = 15_000
  conv_epochs: int = 4
  fid_images: int = 30_000
  pair_images: int = 10_000
  nearest_queries: int = 5_000
  tstr_images: int = 60_000
  cnn_images_seen: int = 150_000
  cnn_epochs: int | None = None
  inception: bool = False
  tasks: tuple[str, ...] | None = None

  @classmethod
  def quick(cls, **others: Any) -> Settings:
    """A first impression in about a minute; its scores do not compare with those of the default."""
    return cls(
      judge_train=10_000, judge_test=2_000, conv_train=3_000, conv_epochs=2, fid_images=5_000,
      pair_images=2_000, nearest_queries=500, tstr_images=5_000, cnn_images_seen=20_000, **others,
    )  # fmt: skip

  @classmethod
  def light(cls, **others: Any) -> Settings:
    """What is cheap enough to be done again and again: no networks but small dense ones."""
    tasks = ['features', 'secondary']
    tasks += [f'{kind}_{name}' for name in ('mlp', 'lr') for kind in ('tstr', 'ceiling')]
    return cls.quick(tasks=tuple(tasks), **others)

  def epochs(self, classifier: str, n: int) -> int:
    """Of a classifier on n images: small sets are seen more often, as steps are what counts."""
    if classifier == 'cnn':
      return self.cnn_epochs or int(np.clip(round(self.cnn_images_seen / n), 4, 50))
    return int(np.clip(200_000 // n, 10, 100))


def evaluate(
  images: np.ndarray,
  labels: np.ndarray | None,
  train: ImageDataset,
  test: ImageDataset,
  settings: Settings,
  *,
  store: Store | None = None,
  progress: Callable[[str, float], None] | None = None,
) -> Evaluation:
  """Scores samples against the real images they stand for.

  Args:
    images: uint8 [n, h, w, c], n ≥ 200.
    labels: classes [n]; None leaves out what needs them.
    train: what the generator was trained on.
    test: real images that it never saw.
    settings: how much to do.
    store: where finished results are kept and found.
    progress: is told what is being done and the share of all work that is done.

  Raises:
    InputError: samples or data that cannot be scored; one line says why.
  """
  labels = references.check_samples(images, labels, train, test)
  pieces = _Work(images, labels, train, test, settings).pieces()
  results = scores.results(pieces, store, progress)
  return references.gather(
    results, num_samples=len(images), labelled=labels is not None, spec=train.spec
  )


class _Work:
  """The pieces of work of one evaluation."""

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray | None,
    train: ImageDataset,
    test: ImageDataset,
    settings: Settings,
  ):
    self.images, self.labels, self.train, self.test = images, labels, train, test
    self.settings, s = settings, settings
    self.feature_name = features.choose(train.spec)
    # The report's 60,000 to 10,000, in that proportion where there are fewer.
    self.n_judge = min(s.judge_train, len(images) * 6 // 7, len(train))
    self.n_unseen = min(s.judge_test, len(images) - self.n_judge, len(test))
    self.n_fid = min(s.fid_images, len(images), len(train) // 2)
    self.n_pairs = min(s.pair_images, self.n_fid)
    self.n_tstr = min(s.tstr_images, len(images))
    self.n_ceiling = min(self.n_tstr, len(train))
    self.n_nearest = min(s.nearest_queries, len(images), len(test))

  def _order(self, what: str, count: int) -> np.ndarray:
    """A permutation of its own for every purpose: two that must not overlap share one."""
    name = int.from_bytes(hashlib.sha256(what.encode()).digest()[:4], 'big')
    return np.random.default_rng([self.settings.seed, name]).permutation(count)

  def pieces(self) -> list[scores.Piece]:
    s = self.settings
    samples, real = _digest(self.images, self.labels), [self.train.fingerprint()]
    both = {'seed': s.seed, 'samples': samples, 'real': [*real, self.test.fingerprint()]}
    n_conv = min(s.conv_train, self.n_judge)
    pairs = self.n_pairs
    few, few_conv = min(self.n_judge, _STATIC_JUDGED), min(n_conv, _STATIC_JUDGED)

    def task(name: str, cost: float, run: Callable[..., Result], **depends: Any) -> scores.Piece:
      key = scores.digest([VERSION, name, {**both, **depends}])
      return scores.Piece(name, key, cost, run)

    tasks = [
      task('distinct', 0.1, self.distinct),
      task('features', self.n_fid / 1500 + pairs**2 / 1e7, self.features, n=self.n_fid, m=pairs,
           features=self.feature_name),
      task('static_features', pairs / 1000 + pairs**2 / 1e7, self.static_features, n=pairs,
           features=self.feature_name, samples=None),
      task('memorisation', self.n_nearest * len(self.train) / 2e7, self.memorisation,
           n=self.n_nearest),
      task('secondary', 3 + self.n_judge / 3000, self.secondary, n=self.n_judge, m=self.n_unseen),
      task('static_secondary', 3 + few / 1500, self.static_judge('secondary', few), n=few,
           m=self.n_unseen, samples=None),
      task('conv_judge', 5 + n_conv * 2 * s.conv_epochs / 2500, self.conv_judge, n=n_conv,
           epochs=s.conv_epochs, m=self.n_unseen),
      task('static_conv_judge', 5 + few_conv * 4 * s.conv_epochs / 2500,
           self.static_judge('conv_judge', few_conv), n=few_conv, epochs=s.conv_epochs,
           m=self.n_unseen, samples=None),
    ]  # fmt: skip
    for name in judges.CLASSIFIERS if self.labels is not None else ():
      rate, epochs = {'cnn': 1000, 'lr': 50_000}.get(name, 12_000), s.epochs(name, self.n_tstr)
      for kind, n in (('tstr', self.n_tstr), ('ceiling', self.n_ceiling)):
        depends = {'n': n, 'epochs': epochs, **_plugins.origin('judge', name)}
        if kind == 'ceiling':  # the same for all samples: another evaluation may find it
          depends['samples'] = None

        def run(tell: fitting.Progress, name: str = name, kind: str = kind) -> Result:
          return self.classifier(name, kind, tell)

        tasks.append(task(f'{kind}_{name}', 3 + n * epochs / rate, run, **depends))
    if s.inception:
      # First: what it needs may be missing, which is better known before the rest is done.
      tasks.insert(0, task('inception_fid', self.n_fid / 20, self.inception, n=self.n_fid))
    chosen = TASKS if s.tasks is None else s.tasks
    return [t for t in tasks if t.name.removeprefix('static_') in (*chosen, 'inception_fid')]

  # Each of these returns plain numbers, which is what the store keeps.

  def distinct(self, tell: fitting.Progress) -> Result:
    del tell
    rows = np.ascontiguousarray(self.images).reshape(len(self.images), -1)
    return {'value': len({row.tobytes() for row in rows}) / len(rows)}

  def _halves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, real images, and as many other real images, which give the floor."""
    order = self._order('halves', len(self.train))
    fake = self.images[self._order('fid', len(self.images))[: self.n_fid]]
    half, other = order[: self.n_fid], order[self.n_fid : 2 * self.n_fid]
    return fake, self.train.images[half], self.train.images[other]

  def _compared(self, real: np.ndarray, other: np.ndarray) -> Result:
    """Distances between features of real images and of others; FID of all, the rest of some."""
    fid = distances.fid(real, other)
    real, other = real[: self.n_pairs], other[: self.n_pairs]
    return {
      'fid': fid, 'kid': distances.kid(real, other), **distances.prdc(real, other)._asdict(),
    }  # fmt: skip

  def features(self, tell: fitting.Progress) -> Result:
    points = []
    for share, images in zip((0.2, 0.4, 0.6), self._halves(), strict=True):
      points.append(features.extract(images, self.feature_name))
      tell(share)
    fake, real, other = points
    found = {'fake': self._compared(real, fake)}
    tell(0.8)
    return {**found, 'floor': self._compared(real, other), 'n': self.n_fid, 'pairs': self.n_pairs}

  def _noise(self, kind: str, num: int) -> np.ndarray:
    return references.noise(kind, self.train.images, num, seed=self.settings.seed)

  def static_features(self, tell: fitting.Progress) -> Result:
    """Noise is far from real images: as many as where all pairs are compared say how far."""
    n = self.n_pairs
    real = features.extract(self._halves()[1][:n], self.feature_name)
    result: Result = {}
    for share, kind in ((0.5, 'static'), (1.0, 'pixels')):
      noise = features.extract(self._noise(kind, n), self.feature_name)
      result[kind] = self._compared(real, noise)
      tell(share)
    return result

  def memorisation(self, tell: fitting.Progress) -> Result:
    n = self.n_nearest
    fake = self.images[self._order('nearest', len(self.images))[:n]]
    test = self.test.images[self._order('nearest', len(self.test))[: max(n, references.MIN_TEST)]]
    points = [x.reshape(len(x), -1) / np.float32(255) for x in (fake, self.train.images, test)]
    tell(0.05)
    found = distances.memorisation(points[0], points[1], points[2], seed=self.settings.seed)
    return dataclasses.asdict(found)

  def _judge_images(self) -> list[np.ndarray]:
    """Real, fake, unseen real, unseen fake."""
    fakes = self._order('judge', len(self.images))
    reals = self._order('judge', len(self.train))[: self.n_judge]
    unseen = self._order('unseen', len(self.test))[: self.n_unseen]
    split = self.n_judge
    unseen_fake = self.images[fakes[split : split + self.n_unseen]]
    return [
      self.train.images[reals], self.images[fakes[:split]], self.test.images[unseen], unseen_fake,
    ]  # fmt: skip

  def secondary(self, tell: fitting.Progress) -> Result:
    real, fake, unseen_real, unseen_fake = self._judge_images()
    judged = judges.real_or_fake(
      judges.Secondary(), real, fake, unseen_real, unseen_fake,
      epochs=_SECONDARY_EPOCHS, seed=self.settings.seed, progress=tell,
    )  # fmt: skip
    judge = judged.judge
    noise = {kind: self._noise(kind, self.n_unseen) for kind in references.NOISES}
    seen, *others = (
      fitting.forward(judge.module, judge.params, x, method='activations')
      for x in (unseen_real, unseen_fake, *noise.values())
    )
    fids = [distances.fid(seen, other) for other in others]
    half = self.n_unseen // 2
    return {
      **_judged(judged),
      'fid': fids[0],
      'fid_floor': distances.fid(seen[:half], seen[half:]),
      'static': dict(zip(noise, fids[1:], strict=True)),
      'n_train': self.n_judge, 'n_unseen': self.n_unseen,
    }  # fmt: skip

  def conv_judge(self, tell: fitting.Progress) -> Result:
    real, fake, unseen_real, unseen_fake = self._judge_images()
    n = min(self.settings.conv_train, self.n_judge)
    judged = judges.real_or_fake(
      judges.ConvJudge(), real[:n], fake[:n], unseen_real, unseen_fake,
      epochs=self.settings.conv_epochs, seed=self.settings.seed, progress=tell,
    )  # fmt: skip
    return {**_judged(judged), 'n_train': n, 'n_unseen': self.n_unseen}

  def static_judge(self, name: str, n: int) -> Callable[[fitting.Progress], Result]:
    """How often a judge tells noise from real images: a few thousand of each teach it."""
    dense = name == 'secondary'
    epochs = _SECONDARY_EPOCHS if dense else self.settings.conv_epochs

    def run(tell: fitting.Progress) -> Result:
      real, _, unseen, _ = self._judge_images()
      found: Result = {}
      for done, kind in enumerate(references.NOISES):
        noise = self._noise(kind, n + len(unseen))
        judged = judges.real_or_fake(
          judges.Secondary() if dense else judges.ConvJudge(), real[:n], noise[:n], unseen,
          noise[n:], epochs=epochs, seed=self.settings.seed,
        )  # fmt: skip
        found[kind] = judged.accuracy
        tell((done + 1) / len(references.NOISES))
      return found

    return run

  def classifier(self, name: str, kind: str, tell: fitting.Progress) -> Result:
    assert self.labels is not None
    if kind == 'tstr':
      images, labels, n = self.images, self.labels, self.n_tstr
    else:
      images, labels, n = self.train.images, self.train.labels, self.n_ceiling
    chosen = self._order(kind, len(images))[:n]
    found = judges.train_and_test(
      name, (images[chosen], labels[chosen]), (self.test.images, self.test.labels),
      num_classes=self.train.num_classes, epochs=self.settings.epochs(name, self.n_tstr),
      seed=self.settings.seed, progress=tell,
    )  # fmt: skip
    counts = np.bincount(self.test.labels, minlength=self.train.num_classes)
    commonest = np.bincount(self.train.labels).argmax()
    return {
      **dataclasses.asdict(found), 'n': n, 'epochs': self.settings.epochs(name, self.n_tstr),
      'guess': float(counts[commonest] / counts.sum()),
      'balanced_guess': 1 / np.count_nonzero(counts),
      'uneven': bool(counts.max() > _UNEVEN * counts.min()),
    }  # fmt: skip

  def inception(self, tell: fitting.Progress) -> Result:
    fake, real, other = self._halves()
    others = {'value': fake, 'floor': other}
    others |= {kind: self._noise(kind, self.n_fid) for kind in references.NOISES}
    found: Result = {'n': self.n_fid}
    for done, (name, images) in enumerate(others.items()):
      found[name] = features.inception_fid(real, images)
      tell((done + 1) / len(others))
    return found


def _judged(judged: judges.Judged) -> Result:
  return {'accuracy': judged.accuracy, 'on_real': judged.on_real, 'on_fake': judged.on_fake}


def _digest(images: np.ndarray, labels: np.ndarray | None) -> str:
  digest = hashlib.sha256()
  for array in (images, *(() if labels is None else (labels,))):
    digest.update(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()

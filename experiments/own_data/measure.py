"""What moments give on sets of many sizes, at many ε, with nothing but ε chosen; and the verdicts.

    ./run.sh python -m experiments.own_data.measure --mnist_dir=... \
      --out=experiments/results/own_data.json
    ./run.sh python -m experiments.own_data.make_page

Training images alone are looked at: a part of them is held out and judges. Only 'all digits' are
judged by test images of the digits, which no setting was chosen by. Every set also runs with its
labels shuffled, and with static in the place of its images: a verdict has to call these useless. A
classifier (logistic regression on pixels) learns from samples and is tested on held-out real
images; what it gets from the real training images stands beside. A quarter of an hour on 2 cores;
without `--mnist_dir` it does the sets that scikit-learn ships, in some minutes.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from sklearn.datasets import load_sample_images
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from dpgan_jax import _cli, _keys
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments import release, settings, verdict
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer
from dpgan_jax.privacy import exact_noise
from experiments import pages

FLAGS = flags.FLAGS
EPSILONS = (0.1, 0.3, 1.0, 3.0, 8.0)
KINDS = ('real', 'shuffled labels', 'static')
DRAWS, _JUDGES = 4000, 3000
_SIDE = 12  # of a patch


@dataclasses.dataclass(frozen=True)
class Part:
  """A set: what is released of it, and the held-out images that judge."""

  name: str
  images: np.ndarray
  labels: np.ndarray
  unseen: np.ndarray
  unseen_labels: np.ndarray
  names: tuple[str, ...]

  @property
  def dataset(self) -> datasets.ImageDataset:
    """What a model is made of."""
    return datasets.ImageDataset(
      images=np.ascontiguousarray(self.images), labels=self.labels, num_classes=len(self.names),
      name=self.name, class_names=self.names,
    )  # fmt: skip


def parts(mnist_dir: str | None) -> Iterator[Part]:
  """The sets, small ones first."""
  digits = datasets.load_dataset('digits')
  yield from _cut('digits', digits.images, digits.labels, digits.class_names, (300, 1100), 340)
  test = datasets.load_dataset('digits', split='test')
  yield Part(
    'all digits', digits.images, digits.labels, test.images, test.labels, digits.class_names
  )
  patches, labels = _patches(6000)
  yield from _cut('patches of two photographs', patches, labels, ('china', 'flower'),
                  (1000, 4000), 1000)  # fmt: skip
  if mnist_dir:
    mnist = datasets.load_dataset('mnist', data_dir=mnist_dir)
    yield from _cut('mnist', mnist.images, mnist.labels, mnist.class_names,
                    (1000, 5000, 20_000), _JUDGES)  # fmt: skip


def _cut(
  name: str, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...],
  sizes: tuple[int, ...], judges: int,
) -> Iterator[Part]:  # fmt: skip
  order = np.random.default_rng(0).permutation(len(images))
  images, labels = images[order], labels[order]
  for n in sizes:
    yield Part(name, images[:n], labels[:n], images[-judges:], labels[-judges:], names)


def _patches(num: int) -> tuple[np.ndarray, np.ndarray]:
  """Colour patches of the photographs that scikit-learn ships; their class is which one."""
  rng, found = np.random.default_rng(0), []
  for photograph in load_sample_images().images:
    small = photograph[::2, ::2]
    tops, lefts = (rng.integers(0, size - _SIDE, num // 2) for size in small.shape[:2])
    found += [small[t : t + _SIDE, l : l + _SIDE] for t, l in zip(tops, lefts, strict=True)]
  return np.stack(found), np.repeat(np.arange(2), num // 2).astype(np.int32)


def released(part: Part, epsilon: float, **changes: Any) -> MomentsSynthesizer:
  """One release of a set; `changes` are of the settings that are defaults otherwise."""
  spec = part.dataset.spec
  moments = settings.make(TrainConfig(target_epsilon=epsilon, delta=1e-5, **changes), spec)
  codes, secret = moments.encoding.encode(part.images), exact_noise.new_secret()
  return MomentsSynthesizer(moments, *release.release_both(codes, part.labels, moments, secret))


def spoilt(part: Part, kind: str, seed: int) -> Part:
  """With its labels shuffled, or static in the place of its images; others as they are."""
  rng = np.random.default_rng(seed)
  if kind == 'shuffled labels':
    return dataclasses.replace(part, labels=rng.permutation(part.labels))
  if kind == 'static':
    return dataclasses.replace(part, images=rng.integers(0, 256, part.images.shape, np.uint8))
  return part


def run(part: Part, epsilon: float, kind: str, seed: int) -> dict[str, Any]:
  """One release, its verdict, and what its samples teach."""
  part = spoilt(part, kind, seed)
  started = time.monotonic()
  model = released(part, epsilon)
  found = verdict.judge(model.means, model.seconds, model.moments)
  assert found is not None
  row = {
    'set': part.name, 'num_records': len(part.images), 'shape': list(model.spec.shape),
    'classes': len(part.names), 'epsilon': epsilon, 'kind': kind, 'seed': seed,
    'level': found.level, 'signal': round(found.signal, 2),
    'expected': verdict.expected(model.moments),
  }  # fmt: skip
  if kind == 'real':
    drawn, classes = model.draw(DRAWS, _keys.from_seed(seed))
    row['seconds'] = round(time.monotonic() - started, 1)
    row['accuracy'] = taught(drawn, classes, part)
  return row


def taught(images: np.ndarray, labels: np.ndarray, part: Part) -> float:
  """Accuracy on a set's held-out images of a logistic regression that learns from `images`."""
  flat = lambda a: a.reshape(len(a), -1) / 255  # noqa: E731
  if len(np.unique(labels)) < 2:
    return float(np.mean(part.unseen_labels == labels[0]))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)
    judge = LogisticRegression(max_iter=60, C=0.1).fit(flat(images), labels)
  return round(float(judge.score(flat(part.unseen), part.unseen_labels)), 4)


def main() -> None:
  out, rows, ceilings = pathlib.Path(FLAGS.out), [], []
  for part in parts(FLAGS.mnist_dir):
    real = taught(part.images[:DRAWS], part.labels[:DRAWS], part)
    guess = float(np.bincount(part.unseen_labels).max() / len(part.unseen_labels))
    ceilings.append(
      {'set': part.name, 'num_records': len(part.images), 'real': real, 'guess': round(guess, 4)}
    )
    for epsilon in EPSILONS:
      rows += [run(part, epsilon, kind, seed) for kind in KINDS for seed in range(FLAGS.seeds)]
      last = [r for r in rows[-len(KINDS) * FLAGS.seeds :] if r['kind'] == 'real']
      print(part.name, len(part.images), epsilon, [(r['level'], r['accuracy']) for r in last])
    pages.write_json(out, {'delta': 1e-5, 'ceilings': ceilings, 'rows': rows})


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  flags.DEFINE_string('mnist_dir', None, 'Folder of MNIST; default: MNIST is left out.')
  flags.DEFINE_integer('seeds', 2, 'Releases of each set at each epsilon.')
  flags.DEFINE_string('out', str(pages.RESULTS / 'own_data.json'), 'The record.')
  _cli.run(main)

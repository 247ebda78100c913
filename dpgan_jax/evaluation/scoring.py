"""An evaluation from samples to the files that hold its scores."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpgan_jax import _figures, _files, _html, _markdown, _progress
from dpgan_jax.data import naming, readers
from dpgan_jax.data.images.dataset import SPLITS, ImageDataset
from dpgan_jax.data.sources import Source
from dpgan_jax.evaluation import curves, features, scores, tasks
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.run import secrets

KEPT = 'evaluation_scores'
_GALLERY = 100  # samples on the page
_PRIVATE = (
  '**Keep this page private.** It was computed from real records without noise, which no ε covers. '
  'It is for the data owner, to decide by. To pass on: what `dpgan_jax.release` writes.'
)
# What other commands left in the folder, shown if it is there.
_BESIDE = {
  'losses.png': (
    'Curves over steps: losses of the generator, and of the discriminator on real and fake images.',
    'losses.png: what D loses on real images reads private data; the other curves do not.',
  ),
  **{
    f'evaluation_steps_{name}.png': (
      f'Curve of {what} over the steps of training.',
      f'evaluation_steps_{name}.png: {what} over steps; reads private data.',
    )
    for name, what in (
      ('fid', 'the FID'), ('tstr', 'the accuracy of classifiers trained on samples'),
      ('secondary', 'how often samples are told from real images'),
    )
  },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Amount:
  """How much of an evaluation is done.

  Attributes:
    settings: of the scores.
    num: samples that are drawn from a run.
    quick: whether this is a first impression only.
  """

  settings: tasks.Settings
  num: int
  quick: bool


@dataclasses.dataclass(frozen=True)
class Samples:
  """What is evaluated: images uint8 [n, h, w, c], classes [n] or None, and where they are from."""

  images: np.ndarray
  labels: np.ndarray | None
  source: str


def draw(model: Synthesizer, amount: Amount) -> Samples:
  """Samples of a generator; the same model and seed give the same ones."""
  print(f'drawing {amount.num:,} samples', file=sys.stderr, flush=True)
  key = secrets.root_key(amount.settings.seed)
  images, labels = model.sample(amount.num, key=key)
  return Samples(images, labels if has_classes(model) else None, source=source_of(model))


def has_classes(model: Synthesizer) -> bool:
  """Whether classes of samples can be scored; a single one is none, with nothing to tell apart."""
  return model.is_conditional and model.spec.num_classes > 1


def source_of(model: Synthesizer) -> str:
  return f'run at step {model.steps:,}'


def load_real(source: Source) -> tuple[ImageDataset, ImageDataset]:
  """What a run was trained on, and images that it never saw: held out, or the test split."""
  train, test = (source.load_images(split) for split in SPLITS)
  naming.require_same(test.name, test.class_names, train.class_names, 'training')
  return train, test


def score(
  samples: Samples,
  train: ImageDataset,
  test: ImageDataset,
  amount: Amount,
  out: pathlib.Path,
  *,
  scores_dir: str | pathlib.Path | None = None,
) -> scores.Evaluation:
  """Evaluates samples, showing progress, and writes evaluation.json, .md and .png into `out`.

  Args:
    samples: what is evaluated.
    train, test: the real images.
    amount: how much is done.
    out: folder of the results; made where missing.
    scores_dir: where finished scores are kept; default: `KEPT` in `out`.

  Raises:
    InputError: samples that cannot be scored, or `out` is a file.
  """
  _files.require_folder(out)
  show = _progress.WorkProgress()
  store = scores.Store(pathlib.Path(scores_dir or out / KEPT))
  result = tasks.evaluate(
    samples.images, samples.labels, train, test, amount.settings, store=store, progress=show.update
  )
  show.close()
  count, shape = len(samples.images), samples.images.shape[1:]
  labelled = samples.labels is not None
  write(result, describe(samples.source, count, shape, labelled, train, test, amount), amount, out,
        samples)  # fmt: skip
  return result


def describe(
  source: str,
  count: int,
  shape: tuple[int, ...],
  labelled: bool,
  train: ImageDataset,
  test: ImageDataset,
  amount: Amount,
) -> dict[str, Any]:
  """What was evaluated and against what, for the head of the record."""
  return {
    'samples': f'{source}, {count:,} images {tuple(shape)}, '
    + ('labelled' if labelled else 'unlabelled'),
    'real_data': f'{train.name}, {len(train):,} for training and {len(test):,} for testing',
    'features': features.choose(train.spec),
    'amount': 'quick: compares with no full evaluation' if amount.quick else 'full',
    'eval_seed': amount.settings.seed,
  }


def read_samples(path: str) -> tuple[np.ndarray, np.ndarray | None]:
  """Images uint8 [n, h, w, c] and classes [n], None if the file has no `y`.

  Raises:
    InputError: as `readers.read_npz`.
  """
  labelled = 'y' in readers.npz_names(path)
  images, *rest = readers.read_npz(path, parts=('x', 'y') if labelled else ('x',))
  images = images if images.ndim == 4 else images[..., np.newaxis]
  return np.ascontiguousarray(images), rest[0] if rest else None


def write(
  result: scores.Evaluation,
  about: dict[str, Any],
  amount: Amount,
  out: pathlib.Path,
  samples: Samples | None = None,
) -> None:
  """Writes the four files; each is whole or absent. The pages leave out the bare settings."""
  record = result.to_json({**about, 'settings': dataclasses.asdict(amount.settings)})
  _files.write_json(out / 'evaluation.json', record)
  curves.evaluation(result, out / 'evaluation.png')
  text = result.to_markdown(about)
  with _files.atomic_write(out / 'evaluation.md') as file:
    file.write(text + '\n![TSTR and coverage](evaluation.png)\n')
  gallery = None if samples is None else _gallery(samples, result.class_names)
  write_page(text, result.verdict.colour, out, {
    'evaluation.png': ('Bar charts: precision to coverage of samples, of real images and of noise; '
                       'and accuracy by class of a network trained on samples, or on real images.',
                       'Bars of samples should reach those of real images.'),
  }, gallery)  # fmt: skip


def _gallery(samples: Samples, class_names: tuple[str, ...]) -> _html.Picture:
  """The first samples of each class, none chosen."""
  labels = samples.labels
  if labels is None:
    chosen = np.arange(min(_GALLERY, len(samples.images)))
  else:
    classes = np.unique(labels)[:_GALLERY // 10]
    chosen = np.concatenate([np.flatnonzero(labels == k)[:10] for k in classes])
  with tempfile.TemporaryDirectory() as folder:
    png = _figures.sample_grid(
      samples.images[chosen], pathlib.Path(folder) / 'x.png', class_names=class_names,
      labels=None if labels is None else labels[chosen],
      scale=_figures.scale_of(samples.images.shape[1:]),
    ).read_bytes()  # fmt: skip
  rows = '' if labels is None else ', a row for each class'
  below = 'Samples that were scored, the first ones; none was chosen.'
  return _html.Picture(png, f'A grid of the samples{rows}.', below)


def write_page(
  markdown: str,
  colour: str | None,
  out: pathlib.Path,
  pictures: Mapping[str, tuple[str, str]],
  gallery: _html.Picture | None = None,
  name: str = 'evaluation.html',
) -> None:
  """Writes a page of scores as one file, with the pictures in it; it says that it is private.

  Args:
    markdown: its text: a title, first what it comes to, then sections.
    colour: of what it comes to; None: nothing is coloured.
    out: folder of the page and of its pictures.
    pictures: for the names of files in `out`, which may be missing, what they show and mean.
    gallery: samples.
    name: of the page.
  """
  parts = _markdown.sections(markdown)
  title, first, *rest = parts.pop('').split('\n\n')
  made = [_html.box('red', _PRIVATE)]
  made.append(_html.box(colour, first) if colour else _html.body(first))
  made.append(_html.body('\n\n'.join(rest)))
  if gallery is not None:
    made += ['<h2>Samples</h2>', _html.figure(gallery)]
  shown = {n: said for n, said in {**pictures, **_BESIDE}.items() if (out / n).is_file()}
  if shown:
    made.append('<h2>Pictures</h2>')
    files = ((out / name).read_bytes() for name in shown)
    found = map(_html.Picture, files, *zip(*shown.values(), strict=True))
    made += map(_html.figure, found)
  made += [_html.body(f'## {heading}\n\n{text}') for heading, text in parts.items()]
  with _files.atomic_write(out / name) as file:
    file.write(_html.page(title.removeprefix('# '), made))

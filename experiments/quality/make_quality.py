"""Makes experiments/results/QUALITY.md: what was tried for more useful samples, and how far it got.

An idea that was measured (see split.py) is added by a record of its run:

    ./run.sh python -m experiments.quality.make_quality --add=runs/screen/NAME --kept=yes \\
        --idea='what was changed' --prediction='what it was expected to do'

A run on other data with the same settings (see second_set.py):

    ./run.sh python -m experiments.quality.make_quality --elsewhere=runs/NAME \\
        --data_name='what data'

The final table is that of the sweeps with the committed settings, scored on the real test set,
which keep_sweep.py has kept. Without flags only the page is made anew. Seconds.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags

from dpgan_jax import _cli, _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.publishing import run_statement
from dpgan_jax.publishing.statement import Statement
from dpgan_jax.run.directory import RunDir
from experiments import pages
from experiments.pages import number
from experiments.quality import keep_sweep
from experiments.quality.final_table import (
  REAL,
  SCORES,
  SWEEPS,
  in_the_way,
  recipe,
  standing,
  table,
)

FLAGS = flags.FLAGS
KEPT = ('yes', 'no')
PRIVATE = (
  'Every score here read real images without noise; MNIST is public. On private data such scores '
  'stay inside, and what is chosen by them has to be counted.'
)
_OF_DATA_OR_FILES = ('dataset', 'num_samples', 'reports_per_checkpoint', 'reports_per_grid',
                     'reports_per_snapshot', 'steps_per_report')  # fmt: skip


def add(run_dir: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Takes what the page needs of a screened run.

  Raises:
    InputError: the run is not evaluated, or an argument is missing.
  """
  for name in ('idea', 'prediction', 'kept'):
    if FLAGS[name].value is None:
      raise _validate.InputError(f'expected --{name}=… with --add')
  _validate.one_of('kept', FLAGS.kept, KEPT)
  run, statement, measured = _evaluated(run_dir)
  defaults = TrainConfig(dataset='idx', noise_multiplier=1.0, steps=1).to_dict()
  settings = {
    k: v for k, v in statement.config.to_dict().items() if v != defaults[k] and k != 'seed'
  }
  record = {
    'idea': FLAGS.idea,
    'prediction': FLAGS.prediction,
    'kept': FLAGS.kept,
    'minutes': keep_sweep.minutes(run),
    **measured,
    'scores': {name: found['value'] for name, found in measured['scores'].items()},
    'settings': settings,
  }
  name = f'{len(list(folder.glob("*.json"))):02d}_{run.path.resolve().name}.json'
  path = next(iter(folder.glob(f'??_{run.path.resolve().name}.json')), folder / name)
  pages.write_json(path, record)
  return path


def add_elsewhere(run_dir: pathlib.Path, results: pathlib.Path) -> pathlib.Path:
  """Takes what the page needs of a run on other data, with the settings of the sweeps.

  Raises:
    InputError: the run is not evaluated, or has settings that the sweeps do not have.
  """
  if not FLAGS.data_name:
    raise _validate.InputError("expected --data_name='what data' with --elsewhere")
  run, statement, measured = _evaluated(run_dir)
  shared = pages.read_json(results / SWEEPS[0] / 'shared.json')['settings']
  own = statement.config.to_dict()
  differs = sorted(k for k in shared if k not in _OF_DATA_OR_FILES and own[k] != shared[k])
  if differs:
    raise _validate.InputError(
      f'expected a run with the settings of the sweeps; {", ".join(differs)} differ'
    )
  path = results / 'quality' / 'elsewhere' / f'{run.path.resolve().name}.json'
  pages.write_json(path, {'data': FLAGS.data_name, **measured})
  return path


def _evaluated(run_dir: pathlib.Path) -> tuple[RunDir, Statement, dict[str, Any]]:
  run = RunDir.open(run_dir, create=False)
  path = run.path / 'evaluation.json'
  found = pages.read_json(path)
  if found is None:
    raise _validate.InputError(f'expected {path}: evaluate the run first')
  statement = run_statement.build(run)
  return run, statement, {
    'epsilon': statement.to_json()['guarantee']['epsilon'],
    'steps': statement.steps_taken,
    'real_data': found['about']['real_data'],
    'scores': {
      s['name']: {'value': s['value'], 'reference': s.get('reference')}
      for s in found['scores'] if s['name'] in SCORES
    },
  }  # fmt: skip


def page(results: pathlib.Path) -> str:
  """The page, from the records in `results`/quality and those of sweeps."""
  links, folder = ', '.join(f'[{name}]({name})' for name in SWEEPS), results / 'quality'
  return pages.join(
    '# How useful the samples are',
    'Made by `python -m experiments.quality.make_quality` from the records in [quality](quality) '
    f'and of sweeps ({links}). TSTR: a CNN (32-64-128) is trained on samples only and tested on '
    f'real images. δ = 1e-5, no public images but the held-out ones. {PRIVATE}',
    '## Where it stands',
    standing(results),
    '## The recipe',
    recipe(results / SWEEPS[0] / 'sweep.json'),
    '## With the committed settings',
    *table(results),
    '## What stands in the way of the GAN',
    in_the_way(results),
    '## On other data',
    _elsewhere(pages.read_all(folder / 'elsewhere')),
    '## Labels or images',
    _limits(pages.read_all(folder / 'limits')),
    '## Moments beside the GAN',
    _beside_moments(pages.read_all(folder / 'beside_moments')),
    '## Free after training',
    _afterwards(pages.read_all(folder / 'afterwards')),
    '## What was tried',
    _tried(pages.read_all(folder)),
  )


def _epsilon(record: dict[str, Any]) -> str:
  return number(float(record['epsilon']))


def _steps(record: dict[str, Any]) -> str:
  return f'{record["steps"]:,}'


def _elsewhere(records: list[dict[str, Any]]) -> str:
  scores = {
    title: lambda r, name=name: pages.beside_real(r['scores'].get(name))
    for name, title in SCORES.items()
  }
  columns = {'data': lambda r: r['data'], 'ε': _epsilon, 'steps': _steps, **scores}
  return pages.table(
    columns, records,
    'The same settings, chosen on MNIST, without another look at anything. One run each; in '
    'brackets what real images get.',
  )  # fmt: skip


def _limits(records: list[dict[str, Any]]) -> str:
  """What stands in the way: the records of label_limit.py."""
  records = sorted(records, key=lambda r: float(r['epsilon']))
  private = dict.fromkeys(who for r in records for who in r['tstr'] if who not in REAL)
  columns = {'ε': _epsilon}
  for who, beside in [(n, 'agreement') for n in private] + [(n, 'on_real') for n in REAL]:
    columns[REAL.get(who, f'labelled by: {who}')] = lambda r, who=who, beside=beside: (
      f'{number(r["tstr"].get(who))} ({number(r[beside].get(who))})'
    )
  return pages.table(
    columns, records,
    'TSTR of the same samples under different labels, by `experiments.quality.label_limit`. In '
    'brackets, for private labellers: how often their labels are those of the CNN in the last '
    'column; for the two CNNs that were trained on real images: how often these are right about '
    'real test images. What the best labels gain is lost to private labels; what samples with them '
    'lack to the accuracy of the CNN that gave them is lost to images. The last CNN has the '
    'architecture of those that are trained on the samples, which learn the borders of their own '
    'kind more easily: it flatters its labels, the other does not.',
  )  # fmt: skip


def _beside_moments(records: list[dict[str, Any]]) -> str:
  """What moments add to a GAN: the records of beside_moments.py."""
  rows, gains = [], []
  for r in records:
    about = _epsilon(r), f'{r["steps"]:,} of {r["steps_planned"]:,}'
    rows += [
      (*about, f'of the GAN, labelled by: {"a CNN trained on real images" if who in REAL else who}',
       *(number(r[what][who]) for what in ('agreement', 'tstr', 'half moments')))
      for who in r['agreement']
    ]  # fmt: skip
    rows += [
      ('–', '–', f'draws of moments, {share} of ε', '–', number(r[what]), '–')
      for what, share in (('moments', '0.4'), ('moments of all of epsilon', 'all'))
    ]
    private = [who for who in r['agreement'] if who not in REAL]
    alone = max(r['moments of all of epsilon'], *(r['tstr'][who] for who in private))
    best = max(r['half moments'][who] for who in private)
    gains.append(f'{100 * (best - alone):+.1f} points at ε = {_epsilon(r)}')
  return pages.table(
    ('ε in all', 'steps', 'samples', 'labels agree', 'TSTR', 'half of them draws of moments'), rows,
    'A GAN without classes, moments (0.4 of ε) and the linear labeller (0.3) under one ε; one run, '
    'by `experiments.quality.beside_moments`. Trained on 50,000 training images of MNIST, tested '
    'on the 10,000 others by a small CNN (the labellers\', not that of the other tables); the test '
    'set was not read. A CNN that learns from draws of the moments labels samples at no further '
    'cost. “Agree”: with the CNN that was trained on real images. The best half and half with '
    'private labels, compared with the better of GAN and moments, each alone (moments with all of '
    f'ε; the GAN with the noise that moments leave it): {", ".join(gains)}. Moments would have '
    'been joined to the GAN for 0.7.',
  )  # fmt: skip


def _afterwards(records: list[dict[str, Any]]) -> str:
  """What is free after training: the records of afterwards.py."""
  records = sorted(records, key=lambda r: (r['real_data'], float(r['epsilon'])))
  rows = [
    (_epsilon(r), r['real_data'], f'{r["samples"]:,}', how, *(number(found[n]) for n in SCORES))
    for r in records for how, found in r['scores'].items()
  ]  # fmt: skip
  return pages.table(
    ('ε', 'real images', 'samples', 'of', *SCORES.values()), rows,
    'Samples of the last generator of a run, or as many of each of several from the second half of '
    'its steps (`--g_mixture`), or the share of these in each class whose labels are surest '
    '(`sample --clearest`); as they are, or turned, shifted, scaled and slanted a little at '
    'random, with the same labels (`sample --distort`); by `experiments.quality.afterwards`. All '
    'of it is free of privacy cost. Shapes between two classes are what a generator without '
    'classes draws too often: without them samples are more like real ones. Distorted samples are '
    'more varied, and each is less like a real image; they are of no use to those who distort what '
    'they train on anyway. All other tables are of samples as drawn, but for one column '
    'of the first.',
  )  # fmt: skip


def _tried(records: list[dict[str, Any]]) -> str:
  scores = {
    title: lambda r, name=name: number(r['scores'].get(name)) for name, title in SCORES.items()
  }
  columns = {
    'idea': lambda r: r['idea'],
    'expected': lambda r: r['prediction'],
    'ε': lambda r: number(float(r['epsilon']), '.3g'),
    'steps': _steps,
    **scores,
    'minutes': lambda r: r['minutes'],
    'kept': lambda r: r['kept'],
  }
  return pages.table(
    columns, records,
    'One run each, trained on 50,000 training images of MNIST and scored on the 10,000 others, '
    'with fewer samples than the table above; the test set was not read. In the order in which it '
    'was tried. Minutes are of training, on a machine that did other work beside it.',
  )  # fmt: skip


def main() -> None:
  results = pathlib.Path(FLAGS.results).resolve()
  if FLAGS.add:
    print(f'added: {add(pathlib.Path(FLAGS.add), results / "quality").name}')
  if FLAGS.elsewhere:
    print(f'added: {add_elsewhere(pathlib.Path(FLAGS.elsewhere), results).name}')
  pages.write(results / 'QUALITY.md', page(results))
  print(f'Page: {results / "QUALITY.md"}')


if __name__ == '__main__':
  flags.DEFINE_string('add', None, 'Directory of an evaluated run, to be added as an idea.')
  flags.DEFINE_string('idea', None, 'With add: what was changed.')
  flags.DEFINE_string('prediction', None, 'With add: what that was expected to do, and why.')
  flags.DEFINE_string('kept', None, 'With add: yes or no.')
  flags.DEFINE_string('elsewhere', None, 'Directory of an evaluated run on other data.')
  flags.DEFINE_string('data_name', None, 'With elsewhere: what the data are.')
  flags.DEFINE_string('results', str(pages.RESULTS), 'Folder of QUALITY.md and of quality/.')
  _cli.run(main)

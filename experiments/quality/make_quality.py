"""Makes experiments/results/QUALITY.md: what was tried for more useful samples, and how far it got.

An idea that was measured (see split.py) is added by a record of its run:

    ./run.sh python experiments/quality/make_quality.py --add=runs/screen/NAME --kept=yes \\
        --idea='what was changed' --prediction='what it was expected to do'

A run on other data with the same settings (see second_set.py):

    ./run.sh python experiments/quality/make_quality.py --elsewhere=runs/NAME \\
        --data_name='what data'

The final table is that of the sweeps with the committed settings, scored on the real test set,
which ../keep_sweep.py has kept. Without flags only the page is made anew. No number on it is typed
by hand. Seconds.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from absl import flags

from dpgan_jax import _cli, _files, _markdown, _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.publishing import run_statement
from dpgan_jax.run.directory import RunDir

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keep_sweep
from final_table import REAL, SCORES, SWEEPS, in_the_way, number, recipe, table

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results'
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
  run, found = _evaluated(run_dir)
  statement = run_statement.build(run)
  defaults = TrainConfig(dataset='idx', noise_multiplier=1.0, steps=1).to_dict()
  settings = {
    k: v for k, v in statement.config.to_dict().items() if v != defaults[k] and k != 'seed'
  }
  record = {
    'idea': FLAGS.idea,
    'prediction': FLAGS.prediction,
    'kept': FLAGS.kept,
    'epsilon': statement.to_json()['guarantee']['epsilon'],
    'steps': statement.steps_taken,
    'minutes': keep_sweep.minutes(run),
    'real_data': found['about']['real_data'],
    'scores': {s['name']: s['value'] for s in found['scores'] if s['name'] in SCORES},
    'settings': settings,
  }
  folder.mkdir(parents=True, exist_ok=True)
  number = len(list(folder.glob('*.json')))
  name = f'{number:02d}_{run.path.resolve().name}.json'
  path = next(iter(folder.glob(f'??_{run.path.resolve().name}.json')), folder / name)
  keep_sweep.write_json(path, record)
  return path


def add_elsewhere(run_dir: pathlib.Path, results: pathlib.Path) -> pathlib.Path:
  """Takes what the page needs of a run on other data, with the settings of the sweeps.

  Raises:
    InputError: the run is not evaluated, or has settings that the sweeps do not have.
  """
  if not FLAGS.data_name:
    raise _validate.InputError("expected --data_name='what data' with --elsewhere")
  run, found = _evaluated(run_dir)
  statement = run_statement.build(run)
  shared = json.loads((results / SWEEPS[0] / 'shared.json').read_bytes())['settings']
  own = statement.config.to_dict()
  differs = sorted(k for k in shared if k not in _OF_DATA_OR_FILES and own[k] != shared[k])
  if differs:
    raise _validate.InputError(
      f'expected a run with the settings of the sweeps; {", ".join(differs)} differ'
    )
  path = results / 'quality' / 'elsewhere' / f'{run.path.resolve().name}.json'
  keep_sweep.write_json(path, {
    'data': FLAGS.data_name,
    'epsilon': statement.to_json()['guarantee']['epsilon'],
    'steps': statement.steps_taken,
    'real_data': found['about']['real_data'],
    'scores': {
      s['name']: {'value': s['value'], 'reference': s['reference']}
      for s in found['scores'] if s['name'] in SCORES
    },
  })  # fmt: skip
  return path


def _evaluated(run_dir: pathlib.Path) -> tuple[RunDir, dict[str, Any]]:
  run = RunDir.open(run_dir, create=False)
  path = run.path / 'evaluation.json'
  if not path.is_file():
    raise _validate.InputError(f'expected {path}: evaluate the run first')
  return run, json.loads(path.read_bytes())


def page(results: pathlib.Path) -> str:
  """The page, from the records in `results`/quality and those of sweeps."""
  links = ', '.join(f'[{name}]({name})' for name in SWEEPS)
  parts = [
    '# How useful the samples are',
    'Made by `experiments/quality/make_quality.py` from the records in [quality](quality) and of '
    f'sweeps ({links}). TSTR: a CNN (32-64-128) is trained on samples only and tested on real '
    f'images. δ = 1e-5, no public images but the held-out ones. {PRIVATE}',
    '## The recipe',
    recipe(results / SWEEPS[0] / 'sweep.json'),
    '## With the committed settings',
    *table(results),
    '## What stands in the way',
    in_the_way(results),
    '## On other data',
    _elsewhere(results / 'quality' / 'elsewhere'),
    '## Names or images',
    _limits(results / 'quality' / 'limits'),
    '## Free after training',
    _afterwards(results / 'quality' / 'afterwards'),
    '## What was tried',
    'One run each, trained on 50,000 training images of MNIST and scored on the 10,000 others, '
    'with fewer samples than the table above; the test set was not read. In the order in which it '
    'was tried. Minutes are of training, on a machine that did other work beside it.',
    _tried(results / 'quality'),
  ]
  return '\n\n'.join(parts) + '\n'


def _elsewhere(folder: pathlib.Path) -> str:
  rows = []
  for path in sorted(folder.glob('*.json')):
    r = json.loads(path.read_bytes())
    cells = []
    for name in SCORES:
      found = r['scores'].get(name, {'value': None, 'reference': None})
      real = found['reference']
      cells.append(number(found['value']) + (f' (real {number(real)})' if real else ''))
    rows.append((r['data'], f'{float(r["epsilon"]):.4g}', f'{r["steps"]:,}', *cells))
  if not rows:
    return 'Not measured yet.'
  return (
    'The same settings, chosen on MNIST, without another look at anything. One run each; in '
    'brackets what real images get.\n\n'
  ) + _markdown.table(('data', 'ε', 'steps', *SCORES.values()), rows)


def _limits(folder: pathlib.Path) -> str:
  """What stands in the way: the records of label_limit.py."""
  records = [json.loads(path.read_bytes()) for path in sorted(folder.glob('*.json'))]
  if not records:
    return 'Not measured yet.'
  records.sort(key=lambda r: float(r['epsilon']))
  private = dict.fromkeys(who for r in records for who in r['tstr'] if who not in REAL)
  table = [
    (
      f'{float(r["epsilon"]):.4g}',
      *(f'{number(r["tstr"].get(n))} ({number(r["agreement"].get(n))})' for n in private),
      *(f'{number(r["tstr"].get(n))} ({number(r["on_real"].get(n))})' for n in REAL),
    )
    for r in records
  ]
  header = ('ε', *(f'named by: {n}' for n in private), *REAL.values())
  return (
    'TSTR of the same samples under different names, by `experiments/quality/label_limit.py`. In '
    'brackets, for private names: how often they are those of the CNN in the last column; for the '
    'two that were trained on real images: how often these are right about real test images. What '
    "the best names gain is lost to private names; what they lack to their giver's own accuracy is "
    'lost to images. The last CNN has the architecture of those that are trained on the samples, '
    'which learn the borders of their own kind more easily: it flatters names, the other does not.'
    '\n\n'
  ) + _markdown.table(header, table)


def _afterwards(folder: pathlib.Path) -> str:
  """What is free after training: the records of afterwards.py."""
  records = [json.loads(path.read_bytes()) for path in sorted(folder.glob('*.json'))]
  if not records:
    return 'Not measured yet.'
  records.sort(key=lambda r: (r['real_data'], float(r['epsilon'])))
  rows = [
    (f'{float(r["epsilon"]):.4g}', r['real_data'], f'{r["samples"]:,}', how,
     *(number(found[name]) for name in SCORES))
    for r in records for how, found in r['scores'].items()
  ]  # fmt: skip
  return (
    'Samples of the last generator of a run, or as many of each of several from the second half of '
    'its steps (`--g_mixture`), or the share of what these draw of each class whose names are '
    'surest (`sample --clearest`); as they are, or turned, shifted, scaled and slanted a little at '
    'random under the same names (`sample --distort`); by `experiments/quality/afterwards.py`. All '
    'of it is free of privacy cost. Shapes between two classes are what a generator without '
    'classes draws too often: without them samples are more like real ones. Distorted samples are '
    'more varied, and each is less like a real image; they are of no use to those who distort what '
    'they train on anyway. All other tables are of samples as drawn, but for one column '
    'of the first.\n\n'
  ) + _markdown.table(('ε', 'real images', 'samples', 'of', *SCORES.values()), rows)


def _tried(folder: pathlib.Path) -> str:
  rows = []
  for path in sorted(folder.glob('*.json')):
    r = json.loads(path.read_bytes())
    scores = [number(r['scores'].get(name)) for name in SCORES]
    epsilon = r['epsilon'] if isinstance(r['epsilon'], str) else f'{r["epsilon"]:.3g}'
    rows.append(
      (r['idea'], r['prediction'], epsilon, f'{r["steps"]:,}', *scores, r['minutes'], r['kept'])
    )
  if not rows:
    return 'Nothing yet.'
  header = ('idea', 'expected', 'ε', 'steps', *SCORES.values(), 'minutes', 'kept')
  return _markdown.table(header, rows)


def main() -> None:
  results = pathlib.Path(FLAGS.results).resolve()
  if FLAGS.add:
    print(f'added: {add(pathlib.Path(FLAGS.add), results / "quality").name}')
  if FLAGS.elsewhere:
    print(f'added: {add_elsewhere(pathlib.Path(FLAGS.elsewhere), results).name}')
  with _files.atomic_write(results / 'QUALITY.md') as file:
    file.write(page(results))
  print(f'Page: {results / "QUALITY.md"}')


if __name__ == '__main__':
  flags.DEFINE_string('add', None, 'Directory of an evaluated run, to be added as an idea.')
  flags.DEFINE_string('idea', None, 'With add: what was changed.')
  flags.DEFINE_string('prediction', None, 'With add: what that was expected to do, and why.')
  flags.DEFINE_string('kept', None, 'With add: yes or no.')
  flags.DEFINE_string('elsewhere', None, 'Directory of an evaluated run on other data.')
  flags.DEFINE_string('data_name', None, 'With elsewhere: what the data are.')
  flags.DEFINE_string('results', str(RESULTS), 'Folder of QUALITY.md and of quality/.')
  _cli.run(main)

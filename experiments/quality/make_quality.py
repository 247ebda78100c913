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
import math
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from dpgan_jax import _files, _markdown, _validate, cli, report
from dpgan_jax.config import TrainConfig
from dpgan_jax.run_dir import RunDir
from dpgan_jax.statement import show_epsilon

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import afterwards
import keep_sweep

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results'
MNIST = RESULTS.parent / 'mnist.flags'
SCORES = {
  'tstr_cnn': 'TSTR',
  'secondary_accuracy': 'secondary',
  'fid': 'FID',
  'coverage': 'coverage',
}
KEPT = ('yes', 'no')
PRIVATE = (
  'Every score here read real images without noise; MNIST is public. On private data such scores '
  'stay inside, and what is chosen by them has to be counted.'
)
TARGETS: dict[float, tuple[str, ...]] = {
  0.2: ('90', '–', '–', '–'),
  1.0: ('93', '97.4', '92.4', '97.3'),
  10.0: ('95.5', '98.6', '94.4', '98.6'),
}
"""By ε, in percent: TSTR to reach on 2 cores within 2 hours, and with a GPU; published ones."""
BEST = afterwards.VARIANTS['clearest+distorted']
CPU = 'CPU'
CHANGED = 'TSTR, clearest and distorted (runs)'
AIMS = ('to reach, 2 cores', 'to reach, GPU', 'best GAN published', 'best of any kind')

_OF_DATA_OR_FILES = ('dataset', 'num_samples', 'reports_per_checkpoint', 'reports_per_grid',
                     'reports_per_snapshot', 'steps_per_report')  # fmt: skip

_REAL = {
  'real, other network': 'by another CNN trained on real images',
  'real': 'by the same CNN trained on real images',
}  # as label_limit.py calls them


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
  statement = report.build(run)
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
  statement = report.build(run)
  shared = json.loads((results / 'sweep' / 'shared.json').read_bytes())['settings']
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
  """The page, from the records in `results`/quality and in `results`/sweep."""
  parts = [
    '# How useful the samples are',
    'Made by `experiments/quality/make_quality.py` from the records in [quality](quality) and '
    '[sweep](sweep). TSTR: a CNN (32-64-128) is trained on samples only and tested on real images. '
    f'δ = 1e-5, no public images but the held-out ones. {PRIVATE}',
    '## The recipe',
    _recipe(results / 'sweep' / 'sweep.json'),
    '## With the committed settings',
    *_final(results),
    '## What stands in the way',
    _in_the_way(results),
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


def _recipe(path: pathlib.Path) -> str:
  """What mnist.flags do, in the settings of the sweep that the final table is of."""
  if not path.is_file():
    return 'Not measured yet.'
  s = TrainConfig.from_dict({**json.loads(path.read_bytes())['settings'], 'target_epsilon': 1.0})
  linear, cnn = (f'{share or 0:g} of ε' for share in (s.label_share, s.label_cnn_share))
  return '\n'.join((
    'The GAN learns what digits look like and nothing of classes; private classifiers, which need '
    'less of a budget, name what it draws. Three stages read the records, under one '
    'ledger, and what they cost together (PLD, composed exactly) is the ε of everything:',
    '',
    f'1. A linear classifier on scattering features, for {linear}: DP-SGD with momentum and large '
    'batches, its parameters averaged over the last two thirds.',
    f'2. The GAN, for what is left: {_networks(s)}. D takes one step of {s.d_optimizer} '
    f'for each of G, on Poisson batches of {s.batch_size} records whose gradients are clipped to '
    f'{s.l2_clip_norm:g} and noised, and {s.fake_batch_size} fakes, which need neither; its '
    f'learning rate falls from {s.d_learning_rate:g} to {s.d_learning_rate_end:g}. G learns by '
    f'{s.g_optimizer} at {s.g_learning_rate:g}, and is kept as an average '
    f'({s.g_ema_decay:g} per step).',
    f'3. A small CNN, for {cnn}: taught by samples and their names, then corrected by a short '
    'DP-SGD on the records. Names are what it and the linear classifier say together.',
    '',
    'Free of cost: samples are drawn from the averages of '
    + ('one step' if s.g_mixture is None else f'{s.g_mixture} steps')
    + ' of G; what names are surest of may be chosen from them (`--clearest`), and they may be '
    'distorted a little (`--distort`).',
  ))  # fmt: skip


def _networks(settings: TrainConfig) -> str:
  """Its two networks, in words."""
  if settings.discriminator == settings.generator:
    return f"the {settings.generator}'s networks"
  if settings.discriminator == 'scattering':
    return (
      f"the {settings.generator}'s generator against a discriminator of two small convolutions, "
      'whose first layer, wavelets of all directions and a modulus, is fixed and public'
    )
  return f'the {settings.generator} generator and the {settings.discriminator} discriminator'


def _final(results: pathlib.Path) -> list[str]:
  folder = results / 'sweep'
  path = folder / 'sweep.json'
  if not path.is_file():
    return ['Not measured yet.']
  sweep = json.loads(path.read_bytes())
  rows = []
  changed = _clearest_and_distorted(
    results / 'quality' / 'afterwards', sweep['settings'].get('dataset')
  )
  for group in sweep['by_epsilon']:
    epsilon = float(group['target_epsilon'])
    scores = group['scores']
    cells = [_spread(scores.get(name)) for name in SCORES]
    aims = TARGETS.get(epsilon, ('–',) * len(AIMS))
    runs = [r for r in sweep['runs'] if r['target_epsilon'] == group['target_epsilon']]
    steps = ', '.join(f'{n:,}' for n in group['steps'])
    rows.append((show_epsilon(epsilon), group['runs'], steps, _minutes(runs), *cells,
                 changed.get(epsilon, '–'), *aims))  # fmt: skip
  real = [_number(s.get('reference') if (s := _first(sweep, n)) else None) for n in SCORES]
  rows.append(('real images', '', '', '', *real, '', *('' for _ in AIMS)))
  settings = sweep['settings']
  names = ('batch_size', 'label_share', 'label_cnn_share')
  shown = {k: settings[k] for k in names if settings.get(k) is not None}
  own = ','.join(
    f'{float(group["target_epsilon"]):g}:{n}'
    for group in sweep['by_epsilon']
    for n in group['steps']
    if n != settings['steps']
  )
  machines = dict.fromkeys(_machine(run['machine']) for run in sweep['runs'])
  on = [f'one core of {name}' if kind == CPU else f'a shared {name}' for kind, name in machines]
  parts = [
    'Made by `python -m dpgan_jax.sweep --flagfile=experiments/mnist.flags'
    f'{_other_flags(settings)}'
    f'{f" --steps_at={own}" * bool(own)}` '
    f'({", ".join(f"{k} = {v}" for k, v in shown.items())}), scored on the test set '
    'when settings were fixed. Runs of other steps at ε = 0.2 and 10 had been scored on it before '
    '(see "What was tried" and the changelog), so that those steps were not chosen blindly. '
    f'Minutes of training are medians over runs, each on {" or ".join(on)}, '
    'with other work beside it, pauses included. TSTR and all else is of samples as they are '
    f'drawn, as in what others report; "{CHANGED}" is TSTR of samples as `sample '
    f'--clearest={BEST.clearest:g} --distort` makes them (see "Free after '
    'training"), in as many of these runs as it was measured. Last four columns: TSTR in %, '
    'the goals of this project and what others report '
    '(GANs: DP-GAN as run by DPImageBench and Private GANs, Revisited, 2023; any kind: '
    'FETA-Pro, 2026, a diffusion model).',
    _markdown.table(('ε', 'seeds', 'steps', 'minutes', *SCORES.values(), CHANGED, *AIMS), rows),
    sweep['spent_together']['statement'],
  ]
  for name in ('tstr.png', 'samples.png'):
    if (folder / name).is_file():
      parts.append(f'![{name}](sweep/{name})')
  return parts


def _other_flags(settings: dict[str, Any]) -> str:
  """What of `settings` the flag file does not say, or not any more."""
  lines = [line for line in MNIST.read_text().splitlines() if line.startswith('--')]
  given = dict(line.removeprefix('--').split('=', 1) for line in lines)

  def same(value: Any, text: str) -> bool:
    return value == (float(text) if isinstance(value, (int, float)) else text)

  differ = [k for k, text in given.items() if k in settings and not same(settings[k], text)]
  return ''.join(f' --{k}={"none" if settings[k] is None else settings[k]}' for k in differ)


def _clearest_and_distorted(folder: pathlib.Path, data_name: str) -> dict[float, str]:
  """TSTR of such samples by ε, from records of afterwards.py on test images of `data_name`."""
  by_epsilon: dict[float, list[float]] = {}
  for path in sorted(folder.glob('*.json')):
    r = json.loads(path.read_bytes())
    if r['real_data'].split(',')[0] != data_name or r.get('target_epsilon') is None:
      continue
    for how, found in r['scores'].items():
      if how.endswith(BEST.name(generators=0).removeprefix('0')):
        by_epsilon.setdefault(float(r['target_epsilon']), []).append(found['tstr_cnn'])
  return {
    epsilon: _spread({
      'mean': statistics.fmean(values),
      'standard_deviation': statistics.stdev(values) if len(values) > 1 else None,
    }) + f' ({len(values)})'
    for epsilon, values in by_epsilon.items()
  }  # fmt: skip


def _in_the_way(results: pathlib.Path) -> str:
  """For every goal that is missed: by how much, and what measurements say of the rest."""
  path = results / 'sweep' / 'sweep.json'
  groups = json.loads(path.read_bytes())['by_epsilon'] if path.is_file() else []
  tstr = {
    float(g['target_epsilon']): 100 * g['scores']['tstr_cnn']['mean']
    for g in groups
    if 'tstr_cnn' in g['scores']
  }
  best = tstr.pop(math.inf, None)
  limits = [json.loads(file.read_bytes()) for file in (results / 'quality/limits').glob('*.json')]
  lines = []
  for epsilon, reached in sorted(tstr.items()):
    for goal, where in zip(TARGETS.get(epsilon, ())[:2], ('2 cores', 'a GPU'), strict=False):
      if goal == '–' or reached >= float(goal):
        continue
      text = (
        f'- ε = {show_epsilon(epsilon)}: {reached:.1f} %, {float(goal) - reached:.1f} points short '
        f'of the {goal} % to be reached on {where}.'
      )
      if best is not None:
        above = float(goal) - best
        text += (
          f' Without any noise the same GAN, whose samples are named in the same way, gets '
          f'{best:.1f} %: so noise, clipping and what other steps there are (see the table) cost '
          f'{best - reached:.1f} points, and '
        ) + (
          f'{above:.1f} are out of reach of this GAN, trained like this, however large ε.'
          if above > 0
          else 'no more than these are missing.'
        )
      for r in limits:
        if abs(float(r['epsilon']) - epsilon) < 0.05 * epsilon:
          real = 100 * r['tstr']['real']
          private = 100 * max(v for who, v in r['tstr'].items() if who not in _REAL)
          text += (
            f' Named by the best CNN trained on real images instead, the samples of one run give '
            f'{real:.1f} % instead of {private:.1f} %.'
          )
      lines.append(text)
  return '\n'.join(lines) or 'No goal is missed by what was measured.'


def _minutes(runs: Sequence[dict[str, Any]]) -> str:
  """Medians of what runs took, by kind of machine: '20 (CPU), 4 (NVIDIA H200)'."""
  by_kind: dict[str, list[float]] = {}
  for run in runs:
    if run['minutes'] is not None:
      by_kind.setdefault(_machine(run['machine'])[0], []).append(run['minutes'])
  return ', '.join(f'{statistics.median(took):.0f} ({kind})' for kind, took in by_kind.items())


def _machine(described: dict[str, Any]) -> tuple[str, str]:
  """Kind and name of what a run was trained on."""
  if (device := described.get('device')) is not None:
    return device, device
  name = f'{described["cpu"]}, {described["cores"]} cores, {described["memory_gib"]} GiB'
  return CPU, name


def _first(sweep: dict[str, Any], name: str) -> dict[str, Any] | None:
  found = [g['scores'][name] for g in sweep['by_epsilon'] if name in g['scores']]
  return found[0] if found else None


def _elsewhere(folder: pathlib.Path) -> str:
  rows = []
  for path in sorted(folder.glob('*.json')):
    r = json.loads(path.read_bytes())
    cells = []
    for name in SCORES:
      found = r['scores'].get(name, {'value': None, 'reference': None})
      real = found['reference']
      cells.append(_number(found['value']) + (f' (real {_number(real)})' if real else ''))
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
  private = dict.fromkeys(who for r in records for who in r['tstr'] if who not in _REAL)
  table = [
    (
      f'{float(r["epsilon"]):.4g}',
      *(f'{_number(r["tstr"].get(n))} ({_number(r["agreement"].get(n))})' for n in private),
      *(f'{_number(r["tstr"].get(n))} ({_number(r["on_real"].get(n))})' for n in _REAL),
    )
    for r in records
  ]
  header = ('ε', *(f'named by: {n}' for n in private), *_REAL.values())
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
     *(_number(found[name]) for name in SCORES))
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
    scores = [_number(r['scores'].get(name)) for name in SCORES]
    epsilon = r['epsilon'] if isinstance(r['epsilon'], str) else f'{r["epsilon"]:.3g}'
    rows.append(
      (r['idea'], r['prediction'], epsilon, f'{r["steps"]:,}', *scores, r['minutes'], r['kept'])
    )
  if not rows:
    return 'Nothing yet.'
  header = ('idea', 'expected', 'ε', 'steps', *SCORES.values(), 'minutes', 'kept')
  return _markdown.table(header, rows)


def _spread(found: dict[str, Any] | None) -> str:
  if found is None:
    return '–'
  spread = found['standard_deviation']
  return _number(found['mean']) + ('' if spread is None else f' ± {spread:.2g}')


def _number(value: float | None) -> str:
  return '–' if value is None else f'{value:.4g}'


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
  cli.run(main)

"""The page of `measure`'s record: `./run.sh python -m experiments.own_data.make_page`."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from dpgan_jax import _validate
from dpgan_jax.models.moments.verdict import LEVELS
from experiments import pages

GANS, BY_EPSILON = pages.RESULTS / 'own_data_gans.json', pages.RESULTS / 'own_data_by_epsilon.json'
CHOICE = pages.RESULTS / 'own_data_choice.json'
RECORD, PAGE = pages.RESULTS / 'own_data.json', pages.RESULTS / 'OWN_DATA.md'
_COMMAND = (
  './run.sh python -m experiments.own_data.measure --mnist_dir=FOLDER && '
  './run.sh python -m experiments.own_data.make_page'
)


def page(
  record: dict[str, Any],
  choice: dict[str, Any],
  gans: dict[str, Any] | None,
  by_epsilon: dict[str, Any] | None,
) -> str:
  """The Markdown of what `measure`, `choose` and `gan_verdicts` have found."""
  real = [row for row in record['rows'] if row['kind'] == 'real']
  planted = [row for row in record['rows'] if row['kind'] != 'real']
  ceilings = {(c['set'], c['num_records']): c for c in record['ceilings']}
  groups = collections.defaultdict(list)
  for row in real:
    groups[row['set'], row['num_records'], row['epsilon']].append(row)
  rows = []
  for (name, n, epsilon), found in groups.items():
    ceiling = ceilings[name, n]
    rows.append((
      name, f'{n:,}', f'{epsilon:g}', f'{statistics.fmean(r["accuracy"] for r in found):.3f}',
      f'{ceiling["real"]:.3f}', f'{ceiling["guess"]:.3f}', _levels(found), found[0]['expected'],
      f'{statistics.fmean(r["seconds"] for r in found):.1f}',
    ))  # fmt: skip
  called = collections.Counter(row['level'] for row in planted)
  return pages.join(
    '# Own data: what ε alone gives',
    f'Moments, δ = {record["delta"]:g}, nothing chosen but ε. A logistic regression on pixels '
    'learns from samples and is tested on held-out real images (training images; only all digits '
    'are judged by their test images, which no setting was chosen by). Made by '
    f'`{_COMMAND}`.',
    pages.table(
      ('set', 'N', 'ε', 'samples', 'real images', 'a guess', 'verdict', 'expected beforehand',
       'seconds'),
      rows,
    ),
    '## Verdicts on planted failures',
    f'{len(planted)} releases of data whose labels were shuffled or whose images were static, at '
    'the same N and ε: '
    + ', '.join(f'{called[level]} {level}' for level in LEVELS if called[level])
    + '.',
    '## Verdicts on real data',
    pages.table(
      ('verdict', 'releases', "accuracy, as a share of real images'"), _by_level(real, ceilings)
    ),
    *(_by_epsilon(by_epsilon['rows'], ceilings) if by_epsilon else ()),
    *(_gans(gans['rows']) if gans else ()),
    '## How the defaults were chosen',
    'Accuracy on held-out training images: by logistic regression, the mean of three releases; of '
    '20,000 images of MNIST one. Names with an underscore are constants of '
    '`models/moments/images/encoding` and `settings`. '
    '`./run.sh python -m experiments.own_data.choose --mnist_dir=FOLDER`.',
    pages.table(
      {
        'set': lambda r: r['set'], 'N': lambda r: f'{r["num_records"]:,}',
        'ε': lambda r: f'{r["epsilon"]:g}', 'setting': lambda r: f'`{r["setting"]}`',
        'value': lambda r: f'{r["value"]:g}', 'accuracy': lambda r: f'{r["accuracy"]:.3f}',
      },
      choice['rows'],
    ),
  )


def _gans(rows: list[dict[str, Any]]) -> tuple[str, ...]:
  kinds = {kind: [r for r in rows if r['kind'] == kind] for kind in (r['kind'] for r in rows)}

  def spread(name: str) -> Callable[[list[dict[str, Any]]], str]:
    def shown(own: list[dict[str, Any]]) -> str:
      values = [row[name] for row in own]
      return f'{min(values):.2f} to {max(values):.2f}'

    return shown

  return (
    '## Verdicts on GANs',
    f'{len(rows)} small GANs of the digits, with failures put in and without; '
    'accuracy as above. The verdict looks at samples and discriminator only '
    '(`models/gans/verdict`). *Good* runs have no noise, *private* ones ε = 8, which is little for '
    'so few images. `./run.sh python -m experiments.own_data.gan_verdicts --seeds=12`.',
    pages.table(
      {
        'run': lambda own: own[0]['kind'], 'runs': lambda own: str(len(own)),
        'verdicts': lambda own: ', '.join(
          f'{n} {level}' for level in LEVELS if (n := sum(r['level'] == level for r in own))
        ),
        'accuracy': spread('accuracy'), 'distinct': spread('distinct'), 'shape': spread('shape'),
        'certainty': spread('certainty'), 'noise in D': spread('noise_in_d'),
      },
      kinds.values(),
    ),
  )  # fmt: skip


def _by_epsilon(rows: list[dict[str, Any]], ceilings: dict[Any, Any]) -> tuple[str, ...]:
  return (
    '## GANs by ε alone',
    'Nothing chosen but ε, which is that of all stages together; moments alone get all of it. A '
    'GAN that refines moments has half of it for these; one from noise (`--generator=report`) has '
    'its samples labelled by a private classifier. "Moments, matched" are samples of a generator '
    'that learns from such a release alone (`--matching_steps`). Accuracy as above; FID, precision '
    'and coverage (Naeem et al. 2020) in scattering features, beside held-out images. Minutes on '
    'one core. `./run.sh python -m experiments.own_data.gans --mnist_dir=FOLDER`.',
    pages.table(
      {
        'set': lambda r: r['set'], 'N': lambda r: f'{r["num_records"]:,}',
        'ε': lambda r: f'{r["epsilon"]:g}', 'samples of': lambda r: r['kind'],
        'accuracy': lambda r: f'{r["accuracy"]:.3f}',
        'real': lambda r: f'{ceilings[r["set"], r["num_records"]]["real"]:.3f}',
        'FID': lambda r: f'{r["fid"]:.3f}', 'precision': lambda r: f'{r["precision"]:.2f}',
        'coverage': lambda r: f'{r["coverage"]:.2f}', 'minutes': lambda r: f'{r["minutes"]:.1f}',
      },
      sorted(rows, key=lambda r: (r['set'], r['num_records'], r['epsilon'])),
    ),
  )  # fmt: skip


def _levels(rows: Iterable[dict[str, Any]]) -> str:
  return ', '.join(dict.fromkeys(sorted((r['level'] for r in rows), key=LEVELS.index)))


def _by_level(rows: list[dict[str, Any]], ceilings: dict[Any, Any]) -> list[tuple[str, int, str]]:
  found = []
  for level in LEVELS:
    shares = [
      row['accuracy'] / ceilings[row['set'], row['num_records']]['real']
      for row in rows if row['level'] == level
    ]  # fmt: skip
    if shares:
      found.append((level, len(shares), f'{min(shares):.2f} to {max(shares):.2f}'))
  return found


def main() -> None:
  record, choice = (pages.read_json(path) for path in (RECORD, CHOICE))
  if record is None or choice is None:
    raise _validate.InputError(
      f'expected {RECORD} and {CHOICE}: make them with experiments.own_data.measure and choose'
    )
  pages.write(PAGE, page(record, choice, pages.read_json(GANS), pages.read_json(BY_EPSILON)))


if __name__ == '__main__':
  main()

"""Moments by the commands: ε alone is enough, the verdict is said, and nothing is spent in vain."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re

import numpy as np
import pytest

from dpgan_jax import DPGAN, load_dataset
from dpgan_jax._validate import InputError
from dpgan_jax.publishing import bundle, run_statement
from dpgan_jax.run.directory import RunDir
from tests.support.commands import Command


@pytest.fixture(scope='module')
def train():
  with contextlib.closing(Command('dpgan_jax.train')) as command:
    yield command


@pytest.fixture(scope='module')
def quickstart(train, tmp_path_factory):
  """What ./run.sh leaves, and what it said."""
  run = tmp_path_factory.mktemp('moments') / 'run'
  done = train('--flagfile=experiments/quickstart.flags', f'--run_dir={run}')
  assert done.status == 0, done.err
  return run, done.out


def test_the_quickstart_says_what_it_spent_and_what_samples_can_be_good_for(quickstart):
  run, said = quickstart
  assert 'Privacy: ε = 3.99' in said
  assert 'Samples: Good (green)' in said
  report = json.loads((run / 'report.json').read_text('utf-8'))
  assert report['verdict']['level'] == 'good'
  assert report['accounting']['discretisation'].startswith('its ε by the formula')
  assert set(report['mechanisms_beside']) == {'moments_means'}
  page = (run / 'report.md').read_text('utf-8')
  for sentence in ('## What the samples can be good for', 'both releases are made', 'σ of covar',
                   'in the proportions of the noisy counts', 'with a secret of 256 bits'):
    assert sentence in page
  for word in ('discriminator', 'generator of this run', 'q = B/N'):
    assert word not in page.split('## What may be published')[0].split('## Not covered')[0]


def test_a_classifier_learns_digits_from_its_samples(quickstart):
  """What the README and the flag file promise, about 93 %; a bad draw is 90."""
  from sklearn.linear_model import LogisticRegression

  test = load_dataset('digits', split='test')
  with np.load(quickstart[0] / 'samples.npz') as file:
    images, labels = file['x'], file['y']
  judge = LogisticRegression(max_iter=200).fit(images.reshape(len(images), -1) / 255, labels)
  assert judge.score(test.images.reshape(len(test), -1) / 255, test.labels) > 0.9


@pytest.mark.slow  # the next test releases, test_table_runs verifies
def test_what_is_released_of_it_can_be_checked_by_who_receives_it(quickstart, tmp_path):
  bundle.release(RunDir(quickstart[0]), tmp_path / 'out', num=300)
  assert 'computed again from the mechanism' in bundle.verify(tmp_path / 'out')
  card = (tmp_path / 'out' / 'MODEL_CARD.md').read_text('utf-8')
  assert 'a Gaussian for each class' in card
  assert '## How useful' in card
  model = DPGAN.load(tmp_path / 'out' / 'generator.safetensors')
  assert model.epsilon == pytest.approx(run_statement.build(RunDir(quickstart[0])).epsilon)
  assert model.sample(5, labels=np.array([3, 3, 1, 0, 9]))[1].tolist() == [3, 3, 1, 0, 9]


@pytest.mark.parametrize(
  'name',
  [*(pytest.param(n, marks=pytest.mark.slow) for n in (bundle.REPORT_MARKDOWN, bundle.MODEL_CARD)),
   bundle.USAGE],
)  # fmt: skip
def test_a_page_that_states_another_epsilon_is_found_out(quickstart, tmp_path, name):
  folder = tmp_path / 'out'
  bundle.release(RunDir(quickstart[0]), folder, num=30)
  page, manifest = folder / name, folder / bundle.MANIFEST
  before = page.read_bytes()
  page.write_text(re.sub(r'private with ε = \S+ and', 'private with ε = 0.5 and', before.decode()))
  assert page.read_bytes() != before
  old, new = (hashlib.sha256(content).hexdigest() for content in (before, page.read_bytes()))
  manifest.write_text(manifest.read_text().replace(old, new))
  with pytest.raises(InputError, match=rf'{name} states ε = 0\.5.*, report\.json 3\.99'):
    bundle.verify(folder)


@pytest.mark.slow  # test_table_runs has it of a table
def test_the_same_command_again_finds_it_finished(train, quickstart):
  before = (quickstart[0] / 'ledger.jsonl').read_bytes()
  samples = (quickstart[0] / 'samples.npz').read_bytes()
  done = train('--flagfile=experiments/quickstart.flags', f'--run_dir={quickstart[0]}')
  assert done.status == 0
  assert (quickstart[0] / 'ledger.jsonl').read_bytes() == before
  assert (quickstart[0] / 'samples.npz').read_bytes() == samples


@pytest.mark.slow  # test_table_runs refuses it of a table
def test_a_budget_that_buys_nothing_is_not_spent_unasked(train, tmp_path):
  asked = ('--dataset=digits', '--target_epsilon=0.05', f'--run_dir={tmp_path / "run"}')
  done = train(*asked)
  assert done.status == 2
  assert 'error: samples would be useless: 1440 records in 10 classes are few' in done.err
  assert train(*asked, '--method=gan').err == done.err  # whose settings would be chosen here
  assert not (tmp_path / 'run').exists()
  done = train(*asked, '--anyway')
  assert done.status == 0
  assert 'Samples: Useless (red): the classes do not stand out of the noise' in done.out


@pytest.mark.slow  # test_package has a plan from the command
def test_the_plan_is_shown_and_nothing_trained(train, tmp_path):
  done = train('--dataset=digits', '--target_epsilon=1', '--delta=1e-4', '--dry_run')
  assert done.status == 0
  assert 'method: moments' in done.out
  assert 'samples: good, as N, K and epsilon let expect' in done.out
  assert 'images are blurred, and with --matching_steps=3000 sharp' in done.out
  done = train('--dataset=digits', '--target_epsilon=1', '--matching_steps=9', '--dry_run')
  assert 'look better, and teach a classifier less' in done.out
  done = train('--dataset=digits', '--target_epsilon=30', '--matching_steps=9', '--dry_run')
  assert 'classifier less' not in done.out
  done = train('--dataset=digits', '--target_epsilon=1', '--latent_dim=3', '--dry_run')
  assert 'expected no latent_dim with method=moments' in done.err


def test_from_python_epsilon_alone_is_enough(tmp_path):
  digits = load_dataset('digits')
  model = DPGAN(target_epsilon=2.0, delta=1e-4)
  model.fit(digits.images, digits.labels, run_dir=tmp_path / 'run')
  assert 1.98 < model.epsilon <= 2.0
  images, labels = model.sample(10)
  assert images.shape == (10, 8, 8, 1)
  assert labels is not None

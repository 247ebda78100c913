"""Sweeps: the plan, what is refused, and that runs are made once each, whatever happens between."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import dp_accounting
import jax
import numpy as np
import pytest

from dpgan_jax import _cli, sweep
from dpgan_jax._validate import InputError
from dpgan_jax.budget.budget import Budget
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import curves, tasks
from dpgan_jax.evaluation.scores import Evaluation, Score
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.publishing import run_statement, verdicts
from dpgan_jax.run import plan, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.loop import Run
from dpgan_jax.search import sweeping

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = [
  '--dataset=digits', '--generator=compact', '--delta=1e-4', '--steps=4', '--batch_size=32',
  '--d_steps_per_g_step=1', '--num_samples=20', '--quick', '--num=200',
]  # fmt: skip


# --- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'expected'),
  [('2', [2.0]), ('0.5, 1,inf', [0.5, 1.0, float('inf')]), ('9,1e0', [9.0, 1.0])],
)
def test_epsilons_are_read(text, expected):
  assert sweeping.parse_epsilons(text) == expected


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (None, r'expected --epsilons=LIST'),
    ('', r'expected --epsilons=LIST'),
    ('1,,2', "got '' in '1,,2'"),
    ('1,two', "got 'two' in '1,two'"),
    ('1;2', "got '1;2'"),
    ('1,-2', r'expected each of epsilons > 0, got -2.0'),
    ('0', r'expected each of epsilons > 0, got 0.0'),
    ('nan', r'expected each of epsilons > 0, got nan'),
    ('1,2,1.0', r'expected epsilons that differ, got 1.0 twice'),
    ('inf,inf', r'got inf twice'),
  ],
)
def test_epsilons_that_will_not_do_are_refused(text, message):
  with pytest.raises(InputError, match=message) as caught:
    sweeping.parse_epsilons(text)
  assert '\n' not in str(caught.value)


def test_every_epsilon_comes_once_before_any_is_repeated():
  runs = sweeping.plan({'steps': 4, 'batch_size': 32}, [0.5, float('inf')], 2)
  assert [run.name for run in runs] == [
    'eps0.5/seed_0', 'epsinf/seed_0', 'eps0.5/seed_1', 'epsinf/seed_1',
  ]  # fmt: skip
  assert [run.config.seed for run in runs] == [0, 0, 1, 1]
  assert [run.config.target_epsilon for run in runs[:2]] == [0.5, float('inf')]
  assert {run.config.batch_size for run in runs} == {32}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('10', "got '10'"),
    ('10:', "got '10:'"),
    ('10:1e4', "got '10:1e4'"),
    ('10:5,', "got ''"),
    ('10:0', 'expected steps_at >= 1, got 0'),
    ('9:5', "expected each of steps_at to name an epsilon of the sweep, got '9:5'"),
    ('10:5, 10.0:6', "expected each of steps_at to name another epsilon, got '10.0:6'"),
  ],
)
def test_steps_at_that_will_not_do_are_refused(text, message):
  with pytest.raises(InputError, match=message):
    sweeping.parse_steps_at(text, [1.0, 10.0])


def test_steps_at_are_taken_in_the_place_of_the_settings():
  assert sweeping.parse_steps_at(None, [1.0]) == {}
  at = sweeping.parse_steps_at('10:9, inf:8', [1.0, 10.0, float('inf')])
  for settings in ({'steps': 4}, {'epochs': 2}):
    runs = sweeping.plan(settings, [1.0, 10.0, float('inf')], 1, at)
    assert [run.config.steps for run in runs] == [settings.get('steps'), 9, 8]
    assert [run.config.epochs for run in runs] == [settings.get('epochs'), None, None]


def test_a_sweep_in_parts_has_the_runs_of_the_whole():
  epsilons = [0.5, 2.0]
  parts = [
    *sweeping.plan({'steps': 4}, epsilons, 2),
    *sweeping.plan({'steps': 4}, epsilons, 1, {}, 2),
  ]
  assert parts == sweeping.plan({'steps': 4}, epsilons, 3)
  with pytest.raises(InputError, match='expected --seeds=N with --first_seed'):
    sweeping.plan({'steps': 4}, epsilons, None, {}, 2)
  with pytest.raises(InputError, match='expected first_seed >= 0, got -1'):
    sweeping.plan({'steps': 4}, epsilons, 2, {}, -1)


def test_without_seeds_keys_are_secret():
  (run,) = sweeping.plan({'steps': 4, 'seed': 1, 'target_epsilon': 4.0}, [2.0], None)
  assert run.config.target_epsilon == 2.0
  assert (run.name, run.config.seed) == ('eps2/secret_key', None)


def test_names_tell_epsilons_apart():
  values = [1.0, 1.0000001, 1e-7, 0.1 + 0.2, 0.3, 1e22, float('inf')]
  assert len({sweeping.short(v) for v in values}) == len(values)
  assert all(float(sweeping.short(v)) == v for v in values)


@pytest.mark.parametrize(
  ('settings', 'seeds', 'message'),
  [
    ({'steps': 4}, 0, 'expected seeds >= 1, got 0'),
    ({'method': 'gan'}, 1, r'expected steps \(or epochs\)'),
    ({'noise_multiplier': 1.0}, 1, r'expected steps \(or epochs\)'),  # for ε = ∞ only
    ({'steps': 4, 'batch_size': 0}, 1, 'expected batch_size >= 1'),
  ],
)
def test_plans_that_will_not_do_are_refused(settings, seeds, message):
  with pytest.raises(InputError, match=message):
    sweeping.plan(settings, [1.0, float('inf')], seeds)


# --- the command, in this process, with cheap runs ------------------------------------------------


@pytest.fixture
def main(monkeypatch, tmp_path, own_flags):
  """Runs the command; training is one `init`, its ledger and its files, and scores are given.

  `main.began` lists what was trained and evaluated, `main.fail` makes a run of that ε fail.
  """
  began: list[str] = []
  state = types.SimpleNamespace(began=began, fail=None, interrupt=None)

  def make_budget(config: TrainConfig, num_examples: int, beside: object = None) -> Budget:
    assert not beside
    sigma = 0.0 if config.target_epsilon == float('inf') else 2 / (config.target_epsilon or 1)
    return Budget(DPMechanism.create(
      num_examples=num_examples, batch_size=config.batch_size, l2_clip_norm=1.0,
      noise_multiplier=sigma, steps=config.steps or 1, delta=config.delta,
    ))  # fmt: skip

  def train(config: TrainConfig, dataset: datasets.ImageDataset, run_dir: pathlib.Path, **how):
    state.how = how
    began.append(f'train {run_dir.parent.name}/{run_dir.name}')
    opened = Run.open(
      run_dir, config.to_dict(), dataset, make=lambda: plan.make(config, dataset.spec),
      read=plan.read, progress=False,
    )  # fmt: skip
    with opened as (planned, run):
      gan = planned.gan
      run.ledger.charge(gan.mechanism.steps)
    if config.target_epsilon == state.interrupt:
      raise KeyboardInterrupt
    if config.target_epsilon == state.fail:
      raise InputError('the budget of these steps is out of reach')
    model = GANSynthesizer(gan, _init(gan, config.seed), gan.mechanism.steps)
    return trainer.Trained(model, run.directory)

  def write(run: RunDir):
    run.report_json.write_text('{}')
    return types.SimpleNamespace(summary=lambda: 'report')

  def evaluate(images, labels, train, test, settings, *, store, progress):
    del labels, test, settings, progress
    began.append('evaluate')
    assert store.folder == tmp_path / 'sweep' / 'evaluation_scores'
    fields = {'best': 'high', 'reads': ('train',), 'n': len(images), 'reference': 0.75}
    value = float(images.mean()) / 255
    names = ('tstr_cnn', 'fid', 'precision', 'recall', 'density', 'coverage')
    return Evaluation(
      scores=tuple(Score(name=n, value=value, **fields) for n in names), skipped={}
    )

  def epsilon(event, *, delta, neighboring_relation):
    """A tale that adds up; what is spent together is tested with the table."""
    del delta, neighboring_relation
    events = event.events if isinstance(event, dp_accounting.ComposedDpEvent) else [event]
    if any(isinstance(e, dp_accounting.NonPrivateDpEvent) for e in events):
      return float('inf')
    return sum(e.count / e.event.noise_multiplier for e in events)

  def sample(self, num, *, labels=None, key):
    del labels
    seed = [int(np.asarray(jax.random.key_data(key)).sum()), self.spec.num_classes]
    images = np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 1))
    return images.astype(np.uint8), np.arange(num) % 10

  monkeypatch.setattr(GANSynthesizer, 'sample', sample)
  monkeypatch.setattr(plan, 'make_budget', make_budget)
  monkeypatch.setattr(accounting, 'epsilon', epsilon)
  monkeypatch.setattr(trainer, 'train', train)
  monkeypatch.setattr(run_statement, 'write', write)
  monkeypatch.setattr(tasks, 'evaluate', evaluate)
  monkeypatch.setattr(curves, 'evaluation', lambda found, path: None)
  sweep.define_flags()

  def run(*arguments: str) -> None:
    began.clear()
    for name in own_flags:
      own_flags[name].unparse()
    own_flags(['sweep', f'--sweep_dir={tmp_path / "sweep"}', *SETTINGS, *arguments])
    sweep.main()

  run.state = state  # type: ignore[attr-defined]
  return run


_generators: dict = {}


def _init(gan, seed: int | None):
  """A generator of a seed; one compilation for all tests."""
  if not _generators:
    _generators['init'] = jax.jit(lambda key: gan.init(key).g_average)
  return _generators['init'](jax.random.key(100 if seed is None else seed))


def table(folder: pathlib.Path) -> dict:
  return json.loads((folder / 'sweep.json').read_text())


def test_a_sweep_makes_each_run_once(main, tmp_path, capsys):
  folder = tmp_path / 'sweep'
  main('--epsilons=1,inf', '--seeds=2')
  assert main.state.began == [
    'train eps1/seed_0', 'evaluate', 'train epsinf/seed_0', 'evaluate',
    'train eps1/seed_1', 'evaluate', 'train epsinf/seed_1', 'evaluate',
  ]  # fmt: skip
  out = capsys.readouterr().out
  assert 'run 1 of 4: eps1/seed_0, time left for all: not known yet' in out
  assert 'run 4 of 4: epsinf/seed_1, time left for all: ' in out
  assert 'no privacy: this run' in out
  for name in ('sweep.md', 'samples.png', 'tstr.png', 'fid.png'):
    assert (folder / name).is_file(), name
  first = (folder / 'sweep.json').read_bytes()

  main('--epsilons=1,inf', '--seeds=2')  # all is there
  assert main.state.began == []
  assert (folder / 'sweep.json').read_bytes() == first
  assert 'epsinf/seed_1 was finished already' in capsys.readouterr().out

  (folder / 'eps1' / 'seed_1' / 'generator.safetensors').unlink()  # killed before it was kept
  (folder / 'epsinf' / 'seed_0' / 'evaluation.json').write_text('{"about"')
  main('--epsilons=1,inf', '--seeds=2')
  assert main.state.began == ['evaluate', 'train eps1/seed_1']
  assert (folder / 'sweep.json').read_bytes() == first

  main('--epsilons=1,inf', '--seeds=2', '--eval_seed=1')  # another evaluation of the same runs
  assert main.state.began == ['evaluate'] * 4

  # More of the same sweep, of a secret key, on other devices.
  main('--epsilons=2', '--noevaluate', '--devices=2', '--data_on=host')
  assert main.state.began == ['train eps2/secret_key']
  assert main.state.how == {'devices': 2, 'data_on': 'host'}
  record = table(folder)
  assert [r['run'] for r in record['runs']][2] == 'eps2/secret_key'
  assert record['spent_together']['private_runs'] == 3


def test_a_flag_file_of_train_will_do_and_what_is_not_used_of_it_is_said(main, tmp_path, capsys):
  of_a_run = ['--run_dir=runs/x', '--target_epsilon=4', '--seed=3']
  main(*of_a_run, '--epsilons=1', '--noevaluate')
  assert main.state.began == ['train eps1/secret_key']
  out = capsys.readouterr().out
  assert 'gets its own: --run_dir=runs/x, --target_epsilon=4.0, --seed=3\n' in out
  config = json.loads((tmp_path / 'sweep/eps1/secret_key/config.json').read_bytes())['config']
  assert (config['target_epsilon'], config['seed']) == (1.0, None)
  main('--epsilons=1', '--noevaluate')  # the same sweep
  assert main.state.began == []
  assert 'not used' not in capsys.readouterr().out


@pytest.mark.parametrize('name', ['quickstart', 'tables_quickstart', 'series_quickstart',
                                  'mnist_eps1', 'digits_gan'])  # fmt: skip
def test_a_sweep_has_all_flags_of_the_recipes_of_train(name, own_flags):
  sweep.define_flags()
  _cli.parse(['sweep', f'--recipe={name}', '--epsilons=1'])


def test_a_gan_by_epsilon_alone_has_settings_of_its_own_at_each_epsilon(main, tmp_path):
  """As `train` settles them; a setting of the command line stays."""
  few = ['--steps=none', '--method=gan', '--generator=compact', '--latent_dim=64', '--noevaluate']
  main(*few, '--epsilons=1,400')
  found = [json.loads((tmp_path / f'sweep/eps{e}/secret_key/config.json').read_bytes())['config']
           for e in ('1', '400')]  # fmt: skip
  assert [c['steps'] for c in found] == [500, 8000]
  assert {(c['batch_size'], c['discriminator']) for c in found} == {(32, 'compact')}
  main(*few, '--epsilons=1,400')
  assert main.state.began == []


@pytest.mark.slow
def test_a_run_that_fails_does_not_lose_the_others(main, tmp_path):
  main.state.fail = 1.0
  with pytest.raises(InputError, match=r'1 of 3 runs failed: eps1/.*: the budget of these') as e:
    main('--epsilons=1,2,inf')
  assert str(tmp_path) not in str(e.value)
  record = table(tmp_path / 'sweep')
  assert [r['finished'] for r in record['runs']] == [False, True, True]
  assert record['runs'][0]['reason'] == 'the budget of these steps is out of reach'
  # What it had charged was spent, whatever came of it.
  assert record['spent_together']['private_runs'] == 2
  assert [g['target_epsilon'] for g in record['by_epsilon']] == [2.0, 'inf']
  assert 'not finished: the budget' in (tmp_path / 'sweep' / 'sweep.md').read_text()
  main.state.fail = None
  main('--epsilons=1,2,inf')
  assert main.state.began == ['train eps1/secret_key', 'evaluate']


@pytest.mark.slow  # the test of each run once does too
def test_an_interruption_ends_the_sweep_and_the_next_call_continues(main, tmp_path):
  main.state.interrupt = 2.0
  with pytest.raises(KeyboardInterrupt):
    main('--epsilons=1,2,inf')
  assert main.state.began == ['train eps1/secret_key', 'evaluate', 'train eps2/secret_key']
  main.state.interrupt = None
  main('--epsilons=1,2,inf')
  assert main.state.began[0] == 'train eps2/secret_key'
  assert main.state.began[2] == 'train epsinf/secret_key'
  assert all(r['finished'] for r in table(tmp_path / 'sweep')['runs'])


def test_a_directory_of_other_settings_or_data_is_refused(main, tmp_path, monkeypatch):
  main('--epsilons=1', '--noevaluate')
  with pytest.raises(InputError, match=r'sweep.*: batch_size is 32 there and 48 now;') as caught:
    main('--epsilons=2', '--batch_size=48', '--noevaluate')
  assert '--sweep_dir' in str(caught.value)
  assert 'run_dir' not in str(caught.value)
  load = datasets.load_dataset

  def other(*args, **kwargs):
    dataset = load(*args, **kwargs)
    return dataclasses.replace(dataset, images=np.roll(dataset.images, 1, axis=0))

  monkeypatch.setattr(datasets, 'load_dataset', other)
  with pytest.raises(InputError, match='data_fingerprint is '):
    main('--epsilons=1', '--noevaluate')
  assert main.state.began == []


def test_no_fingerprint_of_the_data_is_in_what_may_be_published(main, tmp_path):
  main('--epsilons=1', '--noevaluate')
  fingerprint = datasets.load_dataset('digits').fingerprint()
  folder = tmp_path / 'sweep'
  rows = verdicts.of_files(holds=True, seed_fixed=False)
  private = {row['file'] for row in rows if row['publish'] == verdicts.NO}
  assert fingerprint in (folder / 'fingerprint.json').read_text()
  for path in folder.rglob('*'):
    if path.is_file() and fingerprint[:12].encode() in path.read_bytes():
      assert path.name in private, path
  for name in ('config.json', 'sweep.json', 'sweep.md'):
    assert fingerprint[:12] not in (folder / name).read_text()


def test_a_sweep_killed_at_its_start_is_begun_again_and_a_lost_fingerprint_is_not(main, tmp_path):
  fingerprint = tmp_path / 'sweep' / 'fingerprint.json'
  main('--epsilons=1', '--noevaluate')
  kept = fingerprint.read_bytes()
  fingerprint.unlink()
  with pytest.raises(InputError, match=r'fingerprint\.json is missing or damaged'):
    main('--epsilons=1', '--noevaluate')
  fingerprint.write_text('{')
  with pytest.raises(InputError, match=r'fingerprint\.json is missing or damaged'):
    main('--epsilons=1', '--noevaluate')
  assert main.state.began == []
  shutil.rmtree(tmp_path / 'sweep' / 'eps1')
  fingerprint.unlink()  # as after a kill between the two files: no run has begun
  main('--epsilons=1', '--noevaluate')
  assert main.state.began == ['train eps1/secret_key']
  assert fingerprint.read_bytes() == kept


def test_a_run_of_other_settings_in_the_place_of_one_is_refused(main, tmp_path):
  """Someone has put another run there: it is not taken for the planned one."""
  main('--epsilons=1', '--noevaluate')
  run = RunDir.open(tmp_path / 'sweep' / 'eps1' / 'secret_key', create=False)
  saved = run.load_config()
  saved['config']['d_learning_rate'] = 0.5
  run.save_config(saved)
  with pytest.raises(InputError, match=r'd_learning_rate is 0\.5 there'):
    main('--epsilons=1', '--noevaluate')
  assert main.state.began == []


@pytest.mark.parametrize('wrong', ['--epsilons=', '--epsilons=1,1', '--epsilons=0', '--seeds=0'])
def test_wrong_flags_leave_nothing_behind(main, tmp_path, wrong):
  with pytest.raises(InputError):
    main('--epsilons=1', wrong)
  assert list(tmp_path.iterdir()) == []


def test_a_directory_of_one_run_or_of_something_else_is_refused(main, tmp_path):
  folder = tmp_path / 'sweep'
  folder.mkdir()
  (folder / 'thesis.tex').write_text('')
  with pytest.raises(InputError, match=r'sweep.*not empty'):
    main('--epsilons=1')
  (folder / 'thesis.tex').unlink()
  RunDir(folder).save_config({'config': {}})
  with pytest.raises(InputError, match='is that of one run'):
    main('--epsilons=1')


# --- the command as a process ---------------------------------------------------------------------


def command(folder: pathlib.Path, *flags: str) -> list[str]:
  own = ['--epsilons=4,inf', '--seeds=1', '--cnn_epochs=1', '--reports_per_snapshot=1']
  return [sys.executable, '-m', 'dpgan_jax.sweep', f'--sweep_dir={folder}', *SETTINGS, *own, *flags]


MOMENTS = (
  'eps4/seed_0/config.json', 'eps4/seed_0/ledger.jsonl', 'eps4/seed_0/samples.npz',
  'eps4/seed_0/generator.safetensors', 'evaluation_scores/secondary-*.json',
  'eps4/seed_0/evaluation.json', 'epsinf/seed_0/metrics.jsonl', 'samples.png',
)  # fmt: skip
"""Files whose appearance is followed by a kill."""


@pytest.mark.slow
def test_killed_anywhere_and_run_again_it_ends_in_the_same_state(tmp_path):
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  done = subprocess.run(command(whole), cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  for moment in MOMENTS:
    assert not list(killed.glob(moment)), moment  # the kills come one after the other
    process = subprocess.Popen(
      command(killed), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(killed.glob(moment)) and process.poll() is None:
      time.sleep(0.005)
    assert process.poll() is None, moment
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
  done = subprocess.run(command(killed), cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert 'eps4/seed_0 was finished already' in done.stdout
  for name in ('sweep.json', 'samples.png', 'steps_eps4.png', 'tstr.png', 'sweep.md'):
    assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
  for run in ('eps4/seed_0', 'epsinf/seed_0'):
    for name in ('generator.safetensors', 'evaluation.json', 'metrics.jsonl'):
      assert (killed / run / name).read_bytes() == (whole / run / name).read_bytes(), name


@pytest.mark.slow
def test_one_line_for_a_mistake(tmp_path):
  done = subprocess.run(
    command(tmp_path / 'sweep', '--epsilons=1,two'), cwd=ROOT, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.splitlines() == [
    "error: expected epsilons to be numbers > 0 (or inf) between commas, got 'two' in '1,two'"
  ]
  assert not (tmp_path / 'sweep').exists()

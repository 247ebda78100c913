"""The study page: every number on it comes from the records, and what has none is named."""

from __future__ import annotations

import json
import pathlib
import re

import jax
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.budget.budget import STAGE
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file, loop
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.metrics import MetricsWriter
from dpgan_jax.run.plan import GANPlan
from experiments.study_2020 import make_study as page
from experiments.study_2020 import study_records as records

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]

def score(value: float, reference: float | None = None) -> dict:
  return {'value': value, 'reference': reference}


def run(name: str, fids: dict[int, float], **settings) -> dict:
  """A record of 15,000 steps, 500 to an epoch, with these FIDs over steps."""
  config = {'loss': 'bce', 'd_steps_per_g_step': 1, 'n_d_threshold': None, 'seed': None}
  return {
    'name': name, 'settings': {**config, **settings}, 'finished': True, 'epsilon': 1.5,
    'steps': 15_000, 'steps_planned': 15_000, 'steps_per_epoch': 500.0,
    'evaluation': {'amount': 'full', 'scores': {'fid': score(12.25, 0.5)}},
    'over_steps': [
      {'step': step, 'epsilon': 1.0, 'scores': {'fid': score(fid, 0.5)}}
      for step, fid in fids.items()
    ],
    'metrics': [
      {'step': 500 * i, 'n_d': 1.0, 'd_real_accuracy': 0.5 - i / 100, 'd_fake_accuracy': 0.99}
      for i in range(1, 4)
    ],
    'pictures': {'steps': f'{name}_steps.png'},
  }  # fmt: skip


def group(epsilon, tstr: list[float], secondary: list[float]) -> dict:
  def of(values, reference):
    return {
      'values': values, 'mean': sum(values) / len(values), 'reference': reference,
      'standard_deviation': 0.01 if len(values) > 1 else None, 'reads_private_data': True,
    }  # fmt: skip

  scores = {'tstr_cnn': of(tstr, 0.99), 'secondary_accuracy': of(secondary, None)}
  return {'target_epsilon': epsilon, 'runs': len(tstr), 'steps': [40], 'scores': scores}


SWEEP = {
  'by_epsilon': [
    group(1.0, [0.7, 0.72], [0.98, 0.97]),
    group(2.0, [0.8], [0.96]),
    group(9.0, [0.9], [0.97]),
    group('inf', [0.95], [0.8]),
  ],
  'settings': {'generator': 'report', 'discriminator': 'compact', 'g_mixture': 3},
  'spent_together': {'statement': 'Together they spend this much.'},
  'pictures': ['samples.png', 'tstr.png'],
}
CLASSIFIER = {
  'accuracy_mean': 95.443, 'accuracy_standard_deviation': 0.326, 'epsilon': 1.179,
  'accuracies': [1, 2, 3], 'config': {'model': 'tutorial_cnn', 'features': 'pixels'},
}  # fmt: skip


def make(tmp_path: pathlib.Path, study) -> tuple[str, list[str]]:
  missing = page.make(study, tmp_path / 'STUDY.md', tmp_path / 'study')
  return (tmp_path / 'STUDY.md').read_text(), missing


def test_an_empty_study_says_what_is_not_measured(tmp_path):
  text, missing = make(tmp_path, page.Study(None, {}, []))
  assert 'the sweep over ε (dpgan_jax.sweep)' in missing
  assert any(what.startswith('dense_5to1: ') for what in missing)
  assert any('the open problem' in what for what in missing)
  assert all(f'- {what}' in text for what in missing)
  assert text.count('not measured') == 6  # one in every row of the findings


def test_findings_and_figures_of_a_sweep(tmp_path):
  text, missing = make(tmp_path, page.Study(SWEEP, {}, [CLASSIFIER]))
  assert '95.44 ± 0.33 % at ε = 1.179 (tutorial_cnn on pixels, 3 seeds)' in text
  found = '0.71 at ε = 1, 0.9 at ε = 9; rises 2 times and falls 0 times from one ε to the next'
  assert f'{found}; 0.95 without privacy' in text
  assert '0.975 at ε = 1, 0.97 at ε = 9; rises 1 times and falls 1 times' in text
  assert '| 1 | 2 | 40 | 0.71 ± 0.01 | 0.975 ± 0.01 |' in text
  assert '| ∞ | 1 | 40 | 0.95 | 0.8 |' in text
  assert '| real |  |  | 0.99 | – |' in text
  assert 'Networks: report (G) and compact (D); samples of G as averaged at 3 of its' in text
  assert 'Together they spend this much.' in text
  assert '![samples.png](sweep/samples.png)' in text
  assert '![tstr.png](sweep/tstr.png)' in text
  assert 'the sweep over ε (dpgan_jax.sweep)' not in missing


def test_the_open_problem_is_measured_and_its_cure_compared(tmp_path):
  runs = {
    'report_eps1.5': run('report_eps1.5', {2500: 60.0, 5000: 40.0, 10_000: 50.0, 15_000: 80.0}),
    'report_eps1.5_nd10': run(
      'report_eps1.5_nd10', {5000: 30.0, 15_000: 20.0}, d_steps_per_g_step=10
    ),
    'report_eps0.3': run('report_eps0.3', {5000: 90.0, 15_000: 99.0}, target_epsilon=0.3),
  }
  runs['report_eps1.5']['noise_in_d'] = 1.25
  runs['report_eps1.5']['settings']['target_epsilon'] = 1.5
  runs['report_eps1.5_nd10']['settings']['target_epsilon'] = 1.5
  runs['report_eps0.3']['noise_in_d'] = 3.786
  both = 'report_eps1.5_balanced', 'report_eps1.5_balanced_as_trained'  # one D, two generators
  for name in both:
    runs[name] = run(name, {5000: 9.0, 15_000: 7.0}, target_epsilon=1.5, fake_gradient='clipped')
  text, missing = make(tmp_path, page.Study(None, runs, []))
  course = 'FID best at epoch 10 (40), 80 at the end (epoch 30): 2.00 times as far'
  cured = 'With d_steps_per_g_step = 10 instead of 1: FID best at epoch 30 (20), which is the end'
  worse = 'With target_epsilon = 0.3 instead of 1.5: FID best at epoch 10 (90), 99 at the end'
  assert f'| {course}. {cured}: better to the last. {worse}' in text
  assert (
    "| report_eps1.5 | the report's settings | 1.25 | 60 | 40 | 50 | 80 | 40 (10) | 80 | 2.00 |"
    in text
  )
  assert '| report_eps0.3 | target_epsilon = 0.3 instead of 1.5 | 3.79 | – | 90 |' in text
  assert (
    'With noise in D above 3, 0 of 1 runs end more than 1.5 times as far as at their best; with '
    'less, 1 of 1.'
  ) in text
  changed = 'd_steps_per_g_step = 10 instead of 1'
  assert f'| report_eps1.5_nd10 | {changed} | – | – | 30 | – | 20 | 20 (30) | 20 | 1.00 |' in text
  assert '| report_eps1.5 | 500 | 1 | 0.49 | 0.99 | – |' in text
  assert text.count('FID best at epoch 30 (7), which is the end') == 1  # in words once
  assert '| report_eps1.5_balanced | 500 | 1 | 0.49 | 0.99 | – |' in text
  assert '| report_eps1.5_balanced_as_trained | 500 |' not in text
  assert '| report_eps1.5 | 1,500 | 1 | 0.47 | 0.99 | – |' in text
  assert 'In report_eps1.5 D never recognised fewer than 0.99 of the fakes' in text
  assert (tmp_path / 'study' / 'problem_fid.png').is_file()
  assert '(study/runs/report_eps1.5_nd10_steps.png)' in text
  assert '| report_eps1.5 | the same at ε = 1.5 (figure 6.3) | 1.5 | bce | 1 | 12.25 (real' in text
  assert not any('open problem' in what for what in missing)


def test_a_run_that_is_better_to_the_last(tmp_path):
  text, _ = make(
    tmp_path, page.Study(None, {'report_eps9': run('report_eps9', {500: 9.0, 15_000: 3.0})}, [])
  )
  assert 'FID best at epoch 30 (3), which is the end: better to the last' in text


def test_unfinished_and_unevaluated_runs_are_told_of(tmp_path):
  half = {**run('hinge', {}), 'finished': False, 'steps': 700}
  half['evaluation'] = {'amount': None, 'scores': {}}
  adaptive = run('conditional', {}, n_d_threshold=0.6)
  adaptive['evaluation'] = {**adaptive['evaluation'], 'amount': 'quick'}
  runs = {'hinge': half, 'conditional': adaptive, 'report_eps9': run('report_eps9', {})}
  text, missing = make(tmp_path, page.Study(None, runs, []))
  assert '(**700 of 15,000 steps**)' in text
  assert 'evaluation of hinge' in missing
  assert '| bce | adaptive |' in text
  assert 'their scores do not compare' in text


# --- records -------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
  """A run without privacy, of 200 steps, with a snapshot, metrics and an evaluation."""
  m = DPMechanism.create(
    num_examples=1440, batch_size=32, l2_clip_norm=1.0, noise_multiplier=0.0, steps=200, delta=1e-4
  )
  config = TrainConfig(
    dataset='digits', target_epsilon=float('inf'), steps=200, batch_size=32, delta=1e-4, seed=7,
    generator='compact',
  )  # fmt: skip
  directory = RunDir.open(tmp_path / 'hinge', create=True)
  names = tuple(map(str, range(10)))
  spec = Spec(num_records=1440, shape=(8, 8, 1), class_names=names, name='digits')
  gan = GAN(config, m, spec)
  directory.save_config(
    {'format': loop.FORMAT, **GANPlan(gan).to_record(), 'data': spec.to_record(), 'environment': {}}
  )
  Ledger.open(
    directory.ledger, stages={STAGE: m}, data_fingerprint='of data', identity=directory.identity()
  ).charge(200, STAGE)
  with MetricsWriter(directory.path, resume_step=None) as writer:
    for step in range(1, 201):
      writer.write(step, {'d_real_accuracy': 0.5, 'g_loss': 1.0})
  generator = jax.jit(lambda key: gan.init(key).g_average)(jax.random.key(0))
  generator_file.save(GANSynthesizer(gan, generator, 4), directory.snapshot(4))
  scores = [{'name': 'fid', 'value': 3.5, 'reference': 0.25, 'n': 9}]
  (directory.path / 'evaluation.json').write_text(
    json.dumps({'about': {'amount': 'full'}, 'scores': scores})
  )
  return directory


def test_a_run_becomes_a_record_without_its_seed(run_dir, tmp_path):
  (file,) = records.collect_run(run_dir.path, tmp_path / 'study')
  record = json.loads(file.read_text())
  assert file.name == 'hinge.json'
  assert record['settings']['seed'] is None
  assert record['seed_fixed'] is True
  assert (record['epsilon'], record['finished'], record['steps_planned']) == ('inf', False, 200)
  assert record['evaluation']['scores'] == {'fid': {'value': 3.5, 'reference': 0.25}}
  assert record['noise_in_d'] == 0.0  # without privacy there is none
  assert len(record['metrics']) <= 60
  assert record['metrics'][-1] == {'step': 200, 'd_real_accuracy': 0.5}
  assert (tmp_path / 'study' / 'runs' / record['pictures']['steps']).is_file()
  assert str(tmp_path) not in file.read_text()


def test_generators_as_trained_have_a_record_of_their_own(run_dir, tmp_path):
  """It is what the same run without an average would have: other scores, other pictures."""
  kept = run_dir.snapshots / 'step_00000004.safetensors'
  (run_dir.snapshots / 'as_trained').mkdir()
  (run_dir.snapshots / 'as_trained' / kept.name).write_bytes(kept.read_bytes())
  fid = {'name': 'fid', 'value': 9.0, 'reference': None}
  steps = [{'step': 4, 'epsilon': 'inf', 'scores': [fid]}]
  (run_dir.path / 'evaluation_steps_as_trained.json').write_text(json.dumps({'steps': steps}))
  averaged, trained = records.collect_run(run_dir.path, tmp_path / 'study')
  assert (averaged.name, trained.name) == ('hinge.json', 'hinge_as_trained.json')
  one, other = (json.loads(file.read_text()) for file in (averaged, trained))
  assert (one['over_steps'], other['over_steps'][0]['scores']['fid']['value']) == ([], 9.0)
  assert other['settings'] == {**one['settings'], 'g_ema_decay': 0.0}
  assert other['settings'] != one['settings']
  assert other['evaluation']['scores'] == {}
  assert (tmp_path / 'study' / 'runs' / other['pictures']['steps']).is_file()


def test_runs_of_private_data_are_refused(run_dir, tmp_path):
  saved = run_dir.load_config()
  saved['config']['dataset'] = 'npz'
  run_dir.save_config(saved)
  with pytest.raises(InputError, match=r'public data set .* is of npz'):
    records.collect_run(run_dir.path, tmp_path / 'study')
  assert not (tmp_path / 'study').exists()


def test_the_command_makes_the_page_of_what_is_there(tmp_path, own_flags, run_dir, capsys):
  page.define_flags()
  own_flags(['make_study', f'--results={tmp_path / "results"}', f'--runs={run_dir.path}'])
  page.main()
  text = (tmp_path / 'results' / 'STUDY.md').read_text()
  assert '| hinge | chapter 7: hinge loss' in text
  assert 'not measured yet: the sweep over ε' in capsys.readouterr().out
  own_flags(['make_study', f'--runs={run_dir.path},{run_dir.path}'])
  with pytest.raises(InputError, match='different names'):
    page.main()


def test_the_committed_page_is_that_of_the_committed_records(tmp_path):
  """Nobody has edited it by hand, and nobody has forgotten to make it again."""
  results = ROOT / 'experiments' / 'results'
  if not (results / 'STUDY.md').is_file():
    pytest.skip('no page is committed yet')
  study = page.Study.read(results)
  page.make(study, tmp_path / 'STUDY.md', tmp_path / 'study')
  assert (tmp_path / 'STUDY.md').read_text() == (results / 'STUDY.md').read_text()


def test_the_readme_says_what_the_records_say():
  table = (ROOT / 'experiments/study_2020/README.md').read_text('utf-8')
  runs = page.Study.read(ROOT / 'experiments/results').runs
  said = 0
  for names, _, _, reached in re.findall(r'^\| (`.*) \| (.*) \| (.*) \| (.*) \|$', table, re.M):
    values = [] if ' ' in reached.replace(', ', '') else reached.split(', ')  # else words
    for name, value in zip(re.findall(r'`(\w+)`', names), values, strict=False):
      fid = runs[name]['evaluation']['scores']['fid']['value']
      assert float(value) == float(f'{fid:.3g}'), name
      said += 1
  assert said > 8

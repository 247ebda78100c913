"""The statement says what the run directory says, everything it must, and nothing private."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import getpass
import importlib.metadata
import json
import math
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import dp_accounting
import jax
import pytest
from dp_accounting import pld
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.compilation_cache import compilation_cache

from dpgan_jax import _environment, _html
from dpgan_jax._validate import InputError
from dpgan_jax.budget import cross_check
from dpgan_jax.budget.budget import Budget
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import StepMetrics
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.publishing import page, run_statement
from dpgan_jax.run import loop, metrics, plan, stages, trainer
from dpgan_jax.run.directory import RunDir
from tests.support import commands, nets

SEED = 987654321
CONFIG = TrainConfig(
  dataset='digits',
  **nets.SMALLEST, noise_multiplier=4.0, steps=6, batch_size=256, steps_per_report=3,
  d_steps_per_g_step=2, num_samples=20, delta=1e-4,
)  # fmt: skip
ROOT = pathlib.Path(__file__).parents[2]
POINTS = run_statement._CURVE_POINTS
Q = math.floor(256 / 1440 * 2**30) / 2**30


@pytest.fixture(autouse=True)
def short_curve(monkeypatch: pytest.MonkeyPatch) -> None:
  """Every point of a curve costs a second; one test looks at a whole one."""
  monkeypatch.setattr(run_statement, '_CURVE_POINTS', 3)


# --- real runs ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
  """Lets runs of one program share its compilation, which is all the time that they take."""
  names = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in names.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def train(folder: pathlib.Path, config: TrainConfig) -> RunDir:
  trainer.train(config, datasets.load_dataset('digits'), folder, progress=False)
  return RunDir.open(folder, create=False)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, compiled_once) -> RunDir:
  """A run with keys from the operating system; tests write its report into a copy."""
  return train(tmp_path_factory.mktemp('runs') / 'finished', CONFIG)


@pytest.fixture(scope='module')
def seeded(tmp_path_factory, compiled_once) -> RunDir:
  return train(tmp_path_factory.mktemp('runs') / 'seeded', CONFIG.replace(seed=SEED))


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory, compiled_once) -> RunDir:
  """6 of 9 steps charged; the process ended with 3 in a checkpoint and the others under way."""
  folder = tmp_path_factory.mktemp('runs') / 'interrupted'

  class Interrupted(loop.Checkpoints):
    def save(self, step: int, *rest: Any) -> None:
      super().save(step, *rest)
      if step == 3:
        raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
    patch.setattr(loop, 'Checkpoints', Interrupted)
    train(folder, CONFIG.replace(steps=9))
  return RunDir.open(folder, create=False)


@pytest.fixture(scope='module')
def not_private(tmp_path_factory, compiled_once) -> RunDir:
  """Interrupted before its first step: even then it must not claim ε = 0."""
  folder = tmp_path_factory.mktemp('runs') / 'not_private'

  def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
    patch.setattr(stages, 'make_chunk', interrupt)
    train(folder, CONFIG.replace(noise_multiplier=None, target_epsilon=math.inf))
  return RunDir.open(folder, create=False)


def copied(run: RunDir, folder: pathlib.Path) -> RunDir:
  return RunDir(pathlib.Path(shutil.copytree(run.path, folder / run.path.name)))


planned = functools.cache(plan.make)


def paper_run(
  folder: pathlib.Path, charged: int = 4, num_examples: int = 1440, **changes: Any
) -> RunDir:
  """What a run leaves that is killed after its first charge, made without training."""
  config, names = CONFIG.replace(**changes), tuple(str(i) for i in range(10))
  spec = Spec(num_records=num_examples, shape=(8, 8, 1), class_names=names, name='digits')
  run = RunDir.open(folder / 'run', create=True)
  run.save_config(
    {
      'format': loop.FORMAT,
      'run_id': 'f00d',
      **planned(config, spec).to_record(),
      'data': spec.to_record(),
      'environment': _environment.environment(),
    }
  )
  ledger_of(run).charge(charged)
  return run


def ledger_of(run: RunDir) -> Ledger:
  """A ledger of what config.json says, made where there is none."""
  stages = plan.read(run.load_config(), run.config).budget.stages
  return Ledger.open(run.ledger, stages=stages, data_fingerprint='f00d', identity=run.identity())


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
  found = (p for p in sorted(folder.rglob('*')) if p.is_file())
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def read_strictly(path: pathlib.Path) -> dict[str, Any]:
  def refuse(token: str) -> None:
    raise AssertionError(f'{token} is not JSON')

  return json.loads(path.read_text(encoding='utf-8'), parse_constant=refuse)


def written(run: RunDir) -> str:
  """Every word that goes out."""
  return run.report_json.read_text('utf-8') + run.report_markdown.read_text('utf-8')


def publish(facts: dict[str, Any]) -> dict[str, str]:
  return {name: row['publish'] for row in facts['files'] for name in row['file'].split(', ')}


def direct_epsilon(steps: int, delta: float, relation=None, larger: int = 1) -> float:
  relation = relation or dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
  step = dp_accounting.TruncatedSubsampledGaussianDpEvent(
    dataset_size=1440 + larger,
    sampling_probability=Q,
    truncated_batch_size=352,
    noise_multiplier=4.0,
  )
  accountant = pld.PLDAccountant(relation)
  return accountant.compose(step, steps).get_epsilon(delta)


# --- what it says ---------------------------------------------------------------------------------


def test_a_finished_run(finished, tmp_path, monkeypatch):
  monkeypatch.setattr(run_statement, '_CURVE_POINTS', POINTS)
  run = copied(finished, tmp_path)
  before = files_of(run.path)
  statement = run_statement.write(run)
  after = files_of(run.path)
  new = {'report.json', 'report.md', 'report.html', 'epsilon_delta.png'}
  assert {name: after[name] for name in after if name not in new} == before
  assert after['epsilon_delta.png'].startswith(b'\x89PNG')

  facts = read_strictly(run.report_json)
  assert facts == statement.to_json()
  epsilon = direct_epsilon(6, 1e-4)
  assert facts['guarantee']['epsilon'] == pytest.approx(epsilon, rel=1e-6)
  curve = {point['delta']: point['epsilon'] for point in facts['guarantee']['curve']}
  assert len(curve) == 7
  assert curve[1e-4] == facts['guarantee']['epsilon']
  assert curve[1e-6] == pytest.approx(direct_epsilon(6, 1e-6), rel=1e-6)
  assert facts['progress'] == {
    'finished': True, 'steps_taken': 6, 'steps_charged': 6, 'steps_budgeted': 6,
    'epsilon_budgeted': facts['guarantee']['epsilon'],
  }  # fmt: skip
  mechanism = facts['mechanism']
  assert mechanism.items() >= run.load_config()['mechanism'].items()
  assert mechanism['divisor'] == mechanism['batch_size'] == 256
  assert mechanism['num_examples_is_public'] is True
  assert facts['accounting']['version'] == importlib.metadata.version('dp-accounting')
  second = facts['accounting']['second_opinion']
  assert 0.97 * epsilon < second['epsilon_at_least'] <= epsilon <= second['epsilon_at_most']
  assert facts['environment']['at_start'] == run.load_config()['environment']
  assert facts['guarantee']['condition'] is None
  assert facts['randomness']['seed_fixed'] is False

  said = show_epsilon(epsilon)
  sentence = f'with ε = {said} and δ = 0.0001 for the 6 steps charged'
  assert sentence in facts['statement']
  assert 'one record: one labelled image' in facts['statement']
  assert 'add_or_remove_one' in facts['statement']
  markdown = run.report_markdown.read_text('utf-8')
  assert markdown.startswith('# Privacy statement\n\n' + facts['statement'])
  wanted = [repr(Q), '2110.03620', 'Mironov', 'threefry', 'Not stated', 'N + 1']
  wanted += [f'at least {second["epsilon_at_least"]:.4g} (', f'{second["epsilon_at_most"]:.4g} (']
  wanted += ['one contribute zeros', '256 bits from the operating system']
  wanted += ['k records', 'uniform', 'epsilon_delta.png', *map(show_epsilon, curve.values())]
  for words in wanted:
    assert words in markdown, words
  lines = statement.summary().split('\n')
  assert 3 <= len(lines) <= 6
  assert said in lines[0]
  assert '0.0001' in lines[0]
  assert '6 of T = 6' in lines[1]


EPSILON = re.compile(r'(?<!\^)ε(?: of [^|]*\|| =| is) ([\d.e+-]+\d)')


def test_the_page_states_every_epsilon_of_the_statement_and_no_other(finished, tmp_path):
  run = copied(finished, tmp_path)
  statement = run_statement.write(run)
  said, pictures = _html.read((run.path / 'report.html').read_text('utf-8'))
  pairs = said.split('δ | ε |')[1].split('ε over steps')[0]
  curve = {repr(delta): show_epsilon(epsilon) for delta, epsilon in statement.curve}
  assert dict(re.findall(r'\| (\S+) \| (\S+) \|', pairs)) == curve
  found = set(EPSILON.findall(said))
  facts = read_strictly(run.report_json)
  second = facts['accounting']['second_opinion']
  assert found == {show_epsilon(statement.epsilon)}
  assert f'{second["epsilon_at_least"]:.4g}' in said
  course = re.findall(r'\| (\d+) \| ([\d.]+) \|', said.split('ε spent |')[1].split('Training')[0])
  assert [int(step) for step, _ in course] == [3, 6]
  assert float(course[0][1]) == pytest.approx(direct_epsilon(3, 1e-4), rel=1e-3)
  assert course[1][1] == show_epsilon(statement.epsilon)
  for sentence in (*facts['meaning'], facts['statement'], *facts['not_covered']):
    assert sentence in said
  # Samples, the curve over δ, and losses on fakes: all that is drawn, and none that is private.
  names = ('samples.png', run_statement.PICTURE)
  assert pictures[:2] == tuple((run.path / name).read_bytes() for name in names)
  assert len(pictures) == 3
  assert run.losses_png.read_bytes() not in pictures


def test_the_page_has_no_private_number_of_a_step(finished, monkeypatch, tmp_path):
  drawn = []
  monkeypatch.setattr(
    page._figures, 'loss_curves', lambda lines, path: drawn.extend(lines) or finished.losses_png
  )
  run_statement.write(copied(finished, tmp_path))
  assert drawn
  assert all(not set(line) & metrics.REAL_DATA_METRICS for line in drawn)


def test_what_somebody_chose_to_call_things_is_text(finished):
  planted = '<script>alert(1)</script>"\'><img src=x onerror=alert(2)> ![x](http://a.b/c.png)'
  said = run_statement.build(finished, tuning_note=planted)
  said = dataclasses.replace(said, config=said.config.replace(dataset='d"<b>'))
  made = run_statement.to_html(said, {run_statement.PICTURE: b'x', 'samples.png': b'y'})
  text = _html.read(made).text  # refuses every element and attribute that is none of ours
  assert planted in text
  assert '<script' not in made
  assert 'http' not in made.replace('http-equiv', '').replace('http://a.b', '')


def test_the_box_of_a_page_says_whether_it_may_be_published(finished, seeded, not_private):
  for run, colour, words in (
    (finished, 'green', 'This page may be published.'),
    (seeded, 'yellow', 'only if the seed of the run stays secret'),
    (not_private, 'red', 'Do not publish this page.'),
  ):
    made = run_statement.to_html(run_statement.build(run), {run_statement.PICTURE: b'x'})
    assert f'class="box {colour}"' in made
    assert words in _html.read(made).text


def test_every_file_of_a_run_has_a_verdict(finished, tmp_path):
  run = copied(finished, tmp_path)
  run_statement.write(run)
  verdicts = publish(read_strictly(run.report_json))
  assert verdicts.pop('anything else') == 'no'
  left = {p.name + '/' * p.is_dir() for p in run.path.iterdir()}
  for name in left:
    assert [v for v in verdicts if fnmatch.fnmatch(name, v)], f'{name} has no verdict'
  private = {
    'checkpoints/', 'ledger.jsonl', 'metrics.jsonl', 'losses.png', 'tensorboard/', '.lock',
    'secret.json',
  }  # fmt: skip
  assert private <= left
  # What other commands leave beside a run.
  private |= {'evaluation*'}
  private |= {'audit.json', 'labeller/', 'label_cnn/', 'moments/', 'fingerprint.json', 'schema/'}
  assert {name for name, verdict in verdicts.items() if verdict == 'no'} == private


def test_what_reads_private_data_beside_the_step_is_said(finished):
  plain = run_statement.build(finished)
  said = dataclasses.replace(
    plain, config=plain.config.replace(n_d_threshold=0.6, gradient_penalty=10.0)
  )
  more = [line for line in said.caveats() if line not in plain.caveats()]
  assert len(more) == 2
  assert 'recognises' in more[0]
  assert 'gradient penalty' in more[1]


def test_every_number_of_a_step_is_either_covered_or_not(finished):
  facts = run_statement.build(finished).to_json()
  for key, wanted in (('covered', False), ('not_covered', True)):
    named = set(re.findall(r'\w+', ' '.join(facts[key]))) & set(StepMetrics._fields)
    assert named == {n for n in StepMetrics._fields if (n in metrics.REAL_DATA_METRICS) == wanted}


@pytest.mark.slow
def test_an_interrupted_run_states_what_is_charged(interrupted):
  before = files_of(interrupted.path)
  facts = run_statement.build(interrupted).to_json()
  assert files_of(interrupted.path) == before
  assert facts['progress'] == {
    'finished': False, 'steps_taken': 3, 'steps_charged': 6, 'steps_budgeted': 9,
    'epsilon_budgeted': pytest.approx(direct_epsilon(9, 1e-4), rel=1e-6),
  }  # fmt: skip
  assert facts['guarantee']['epsilon'] == pytest.approx(direct_epsilon(6, 1e-4), rel=1e-6)
  markdown = run_statement.build(interrupted).to_markdown()
  assert 'not finished: its latest checkpoint has taken 3 of T = 9 steps. 6 are charged' in markdown
  assert 'for the 6 steps charged' in facts['statement']


def test_a_fixed_seed_is_a_condition_and_its_value_is_not_told(seeded, tmp_path):
  run = copied(seeded, tmp_path)
  statement = run_statement.write(run)
  facts = read_strictly(run.report_json)
  words = 'reproducible, not private against those who know the seed'
  for text in (facts['statement'], facts['guarantee']['condition'], statement.summary()):
    assert words in text
  assert facts['randomness']['seed_fixed'] is True
  assert publish(facts)['samples.npz'] == 'only if the seed stays secret'
  assert publish(facts)['config.json'] == 'no'
  assert str(SEED) in run.config.read_text()
  assert str(SEED) not in written(run) + repr(statement) + statement.summary()
  assert 'seed' not in facts['settings']


def test_without_noise_there_is_no_guarantee_in_the_first_line(not_private, tmp_path):
  run = copied(not_private, tmp_path)
  statement = run_statement.write(run)
  facts = read_strictly(run.report_json)
  assert facts['guarantee']['epsilon'] == facts['progress']['epsilon_budgeted'] == 'inf'
  assert {point['epsilon'] for point in facts['guarantee']['curve']} == {'inf'}
  assert facts['guarantee']['holds'] is False
  assert facts['mechanism']['l2_clip_norm'] == 'inf'
  assert facts['covered'] == []
  assert facts['accounting']['second_opinion'] is None
  markdown = run.report_markdown.read_text('utf-8')
  for text in (facts['statement'], statement.summary(), markdown):
    assert 'NO PRIVACY GUARANTEE' in text.split('\n')[0]
  allowed = {name for name, verdict in publish(facts).items() if verdict == 'yes'}
  assert allowed == {'report.json', 'report.md', 'epsilon_delta.png', 'config.json'}


def test_noise_without_a_finite_epsilon_is_no_guarantee_either(tmp_path):
  statement = dataclasses.replace(run_statement.build(paper_run(tmp_path)), epsilon=math.inf)
  assert statement.to_json()['statement'].startswith('NO PRIVACY GUARANTEE: noise of σ = 4.0')
  assert statement.to_markdown().startswith('# NO PRIVACY GUARANTEE')
  assert publish(statement.to_json())['samples.npz'] == 'no'


# --- what it must not say -------------------------------------------------------------------------


@pytest.mark.parametrize('which', ['finished', 'seeded', 'interrupted', 'not_private'])
def test_nothing_private_goes_out(which, request, tmp_path):
  run = copied(request.getfixturevalue(which), tmp_path)
  run_statement.write(run)
  text = written(run) + run.path.joinpath('epsilon_delta.png').read_bytes().decode('latin-1')
  fingerprint = datasets.load_dataset('digits').fingerprint()
  assert fingerprint in run.ledger.read_text()
  state = trainer.restore_model(run.path)  # the run is what it claims to be
  assert state.model.steps >= 0
  secret = json.loads(run.secret.read_text())['secret']
  words = [secret[:16], fingerprint[:8], str(tmp_path), str(ROOT), '/tmp']
  words.append(os.path.expanduser('~') + '/')
  words += [socket.gethostname() + '.', f'{getpass.getuser()}/', str(os.getpid()) + '\n']
  real_values = []
  for record in metrics.read_metrics(run.metrics):
    real = [record[name] for name in StepMetrics._fields if name in metrics.REAL_DATA_METRICS]
    real_values += [f'{value:.6g}' for value in real if value is not None]
  # A share like 0.2 is in many a version's number; those of six digits are in nothing by chance.
  told_apart = [value for value in real_values if len(value.lstrip('-0.')) >= 6]
  assert told_apart or not real_values
  words += told_apart
  for line in run.ledger.read_text().splitlines():
    words.append(json.loads(line)['hash'])
  for word in words:
    assert word not in text, word
  assert not re.search(r'20\d\d-\d\d-\d\d|\d\d:\d\d', text.split('\x89PNG')[0])


def test_the_environment_goes_out_by_name_only(tmp_path):
  run = paper_run(tmp_path)
  saved = run.load_config()
  saved['environment'] |= {'hostname': 'ward7.example', 'cwd': '/home/lovelace', 'jax': '0.0.1'}
  run.save_config(saved)
  run.ledger.unlink()
  ledger_of(run).charge(4)  # that of this run
  run_statement.write(run)
  assert not re.search('ward7|lovelace|hostname|cwd', written(run))
  assert read_strictly(run.report_json)['environment']['at_start']['jax'] == '0.0.1'


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(finished, tmp_path):
  run = copied(finished, tmp_path)
  run_statement.write(run)
  first = files_of(run.path)
  run_statement.write(run)
  assert files_of(run.path) == first
  other = copied(finished, tmp_path / 'elsewhere')
  run_statement.write(other)
  assert files_of(other.path) == first


# --- facts follow the run -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (
      {'noise_multiplier': 2.0, 'batch_size': 64, 'truncated_batch_size': 90, 'num_examples': 1500},
      (
        '| σ, noise relative to C | 2.0 |',
        '| B, expected batch, and divisor of the noisy sum | 64 |',
        '| cap on a batch | 90 |',
        '| N, number of records (public here) | 1500 |',
      ),
    ),
    ({'l2_clip_norm': 0.25}, "| C, clip norm of one record's gradient | 0.25 |"),
    ({'delta': 3e-6}, '| δ | 3e-06 |'),
    ({'delta': 1e-3}, 'is not below 1/N'),
    ({'steps': 50}, 'has taken 0 of T = 50 steps. 4 are charged'),
    ({'charged': 5}, 'for the 5 steps charged'),
    ({'neighboring_relation': 'replace_one'}, 'same size that differ in one record (replace_one'),
    ({'neighboring_relation': 'replace_special'}, 'a blank that contributes nothing'),
    ({'generator': 'report', 'discriminator': 'report'}, 'samples have no labels'),
    ({'seed': SEED}, 'neither know nor can guess it'),
  ],
)
@pytest.mark.filterwarnings('ignore:delta=')
def test_a_change_of_the_run_changes_the_statement(tmp_path, change, expected):
  usual, changed = (
    run_statement.build(paper_run(tmp_path / name, **settings))
    for name, settings in (('usual', {}), ('changed', change))
  )
  for words in (expected,) if isinstance(expected, str) else expected:
    assert words not in usual.to_markdown()
    assert words in changed.to_markdown()
  without_effect = {'l2_clip_norm', 'steps', 'generator', 'seed'}
  assert (usual.epsilon == changed.epsilon) == bool(change.keys() & without_effect)
  for statement in (usual, changed):
    m = statement.mechanism
    assert statement.epsilon == m.epsilon(statement.steps_charged)
    assert dict(statement.curve)[m.delta] == statement.epsilon


@pytest.mark.parametrize(
  ('relation', 'larger'), [('ADD_OR_REMOVE_ONE', 1), ('REPLACE_ONE', 0), ('REPLACE_SPECIAL', 0)]
)
def test_epsilon_is_of_the_relation_that_is_named(tmp_path, relation, larger):
  statement = run_statement.build(paper_run(tmp_path, neighboring_relation=relation.lower()))
  direct = direct_epsilon(4, 1e-4, dp_accounting.NeighboringRelation[relation], larger)
  assert statement.epsilon == pytest.approx(direct, rel=1e-6)


@given(st.floats(1e-9, 1e9))
def test_epsilon_is_shown_rounded_up(epsilon):
  shown = float(show_epsilon(epsilon))
  assert epsilon <= shown <= epsilon * 1.001


def test_a_line_that_is_being_charged_is_neither_counted_nor_touched(tmp_path):
  run = paper_run(tmp_path)
  whole = run.ledger.read_bytes()
  run.ledger.write_bytes(whole + b'{"stage": "dp_sgd", "up_to_st')
  assert run_statement.write(run).steps_charged == 4
  assert run.ledger.read_bytes() == whole + b'{"stage": "dp_sgd", "up_to_st'


def test_a_run_before_its_first_charge_has_spent_nothing(tmp_path):
  run = paper_run(tmp_path)
  run.ledger.unlink()
  statement = run_statement.write(run)
  assert (statement.steps_charged, statement.epsilon) == (0, 0.0)
  assert statement.epsilon_budgeted > 0
  read_strictly(run.report_json)


def test_what_is_said_to_be_the_least_is_attained_where_batches_are_cut(tmp_path):
  """Of three records one is kept: the accountant's event costs more than any two data sets do."""
  run = paper_run(
    tmp_path, 1, 2, noise_multiplier=2.0, batch_size=2, truncated_batch_size=1, steps=1
  )
  statement = run_statement.build(run)
  event = statement.mechanism.event()
  (of_event,) = cross_check.bounds(event, [1e-4])
  (attained,) = cross_check.bounds(event, [1e-4], attained=True)
  assert statement.second_opinion is not None
  assert statement.second_opinion.lower == attained.lower
  assert statement.second_opinion.upper == pytest.approx(of_event.upper, rel=1e-3)
  said = statement.to_json()['accounting']['second_opinion']
  assert said['epsilon_at_least'] <= attained.lower < of_event.lower <= statement.epsilon
  assert f'is at least {attained.lower:.3g}' in statement.second_opinion_sentence()
  assert f'{of_event.lower:.3g}' not in statement.second_opinion_sentence()


@pytest.mark.parametrize('wrong', ['charged', 'budgeted'])
def test_an_epsilon_that_a_second_computation_contradicts_is_not_reported(
  tmp_path, monkeypatch, wrong
):
  """An accountant that takes the noise for a tenth larger than it is; in one number of the two."""
  run, steps = paper_run(tmp_path), {'charged': 4, 'budgeted': 6}[wrong]
  right = Budget.epsilon

  def epsilon(self: Budget, count: int | None = None, delta: float | None = None) -> float:
    m = self.mechanism
    claims = Budget(dataclasses.replace(m, noise_multiplier=1.1 * m.noise_multiplier))
    return right(claims if (count or m.steps) == steps else self, count, delta)

  monkeypatch.setattr(Budget, 'epsilon', epsilon)
  one_line(run, 'accounted epsilon=.* at delta=.* is contradicted by a second computation')
  monkeypatch.undo()
  assert run_statement.build(run).second_opinion is not None


# --- contradictions are refused -------------------------------------------------------------------


def one_line(run: RunDir, message: str) -> None:
  before = files_of(run.path)
  with pytest.raises(InputError, match=message) as caught:
    run_statement.write(run)
  assert '\n' not in str(caught.value)
  assert files_of(run.path) == before


def test_a_config_that_claims_more_noise_than_the_ledger_is_refused(tmp_path):
  run = paper_run(tmp_path)
  saved = run.load_config()
  saved['mechanism']['noise_multiplier'] = 8.0
  run.save_config(saved)
  one_line(run, f'{run.ledger} records another mechanism: noise_multiplier is 4.0 there and 8.0')


@pytest.mark.parametrize('part', ['config', 'mechanism', 'data', 'environment'])
def test_a_config_that_lacks_a_part_is_refused(tmp_path, part):
  run = paper_run(tmp_path)
  saved = run.load_config()
  for damaged in (None, [1], {'x': 1}):
    if part == 'environment' and damaged == {'x': 1}:
      continue  # nothing is lacking
    run.save_config({**saved, part: damaged})
    one_line(run, 'is not the record of a run|unknown')
  run.save_config({name: value for name, value in saved.items() if name != part})
  one_line(run, 'is not the record of a run')


def test_a_damaged_ledger_is_refused(tmp_path):
  run = paper_run(tmp_path)
  whole = run.ledger.read_bytes()
  for damaged in (whole.replace(b'"up_to_step": 4', b'"up_to_step": 1'), b'[]\n', b'\xff\n', b''):
    run.ledger.write_bytes(damaged)
    one_line(run, f'{run.ledger} is (empty or )?damaged')


def test_a_ledger_that_lost_lines_is_refused(interrupted, tmp_path):
  run = copied(interrupted, tmp_path)
  first = run.ledger.read_bytes().split(b'\n')[0] + b'\n'
  run.ledger.write_bytes(first)
  one_line(run, f'{run.ledger} charges 0 steps but a checkpoint has taken 3')
  run.ledger.unlink()
  one_line(run, 'missing but a checkpoint has taken 3 steps')


# --- tuning ---------------------------------------------------------------------------------------


@pytest.mark.slow  # the next test keeps one
def test_the_tuning_note_is_kept_replaced_and_taken_back(tmp_path):
  run = paper_run(tmp_path)

  def note_after(**given: str) -> str | None:
    run_statement.write(run, **given)
    tuning = read_strictly(run.report_json)['tuning']
    assert tuning['stated'] == (tuning['note'] is not None)
    assert ('Not stated' in run.report_markdown.read_text('utf-8')) != tuning['stated']
    if tuning['note']:
      assert f'> {tuning["note"]}\n' in run.report_markdown.read_text('utf-8')
    return tuning['note']

  assert note_after() is None
  assert note_after(tuning_note='Chosen on\npublic "MNIST".') == 'Chosen on public "MNIST".'
  kept = run.report_markdown.read_bytes()
  assert note_after() == 'Chosen on public "MNIST".'
  assert run.report_markdown.read_bytes() == kept
  assert note_after(tuning_note='Other') == 'Other'
  assert note_after(tuning_note='') is None
  assert note_after() is None


@pytest.mark.parametrize(
  'content',
  [*(pytest.param(c, marks=pytest.mark.slow) for c in ('[]', '{}')),
   '', '{"tuning": {"note": 3}}'],
)  # fmt: skip
def test_a_note_is_not_lost_with_a_report_that_cannot_be_read(tmp_path, content):
  run = paper_run(tmp_path)
  run.report_json.write_text(content)
  one_line(run, 'expected .*report.json to be a report')
  run_statement.write(run, tuning_note='again')
  assert read_strictly(run.report_json)['tuning']['note'] == 'again'


def test_a_note_that_is_no_text_is_refused(tmp_path):
  with pytest.raises(InputError, match='UTF-8'):
    run_statement.build(paper_run(tmp_path), tuning_note='caf\udce9')


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def command() -> Iterator[commands.Command]:
  running = commands.Command('dpgan_jax.report')
  yield running
  running.close()


@pytest.mark.slow
def test_the_command(command, tmp_path):
  run = paper_run(tmp_path, generator='compact', discriminator='compact')
  # `train` prints this too, and has no such flag.
  hint = 'say it with `python -m dpgan_jax.report --run_dir=... --tuning_note="..."`'
  assert hint in run_statement.build(run).summary()
  done = command(f'--run_dir={run.path}', '--tuning_note=Chosen on MNIST.')
  assert done.status == 0, done.err
  assert done.out == f'{run_statement.build(run).summary()}\nReport: {run.report_markdown}\n'
  assert read_strictly(run.report_json)['tuning']['note'] == 'Chosen on MNIST.'


@pytest.mark.parametrize(
  'flag',
  [pytest.param('', marks=pytest.mark.slow), '--run_dir={}',
   pytest.param('--run_dir={}/absent', marks=pytest.mark.slow)],
)  # fmt: skip
def test_what_is_no_run_is_one_line_and_status_2(command, tmp_path, flag):
  done = command(*filter(None, [flag.format(tmp_path)]))
  assert done.status == 2
  assert done.err.startswith('error: expected ')
  assert done.err.count('\n') == 1
  assert 'run_dir' in done.err
  assert list(tmp_path.iterdir()) == []

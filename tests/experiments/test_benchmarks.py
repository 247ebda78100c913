"""The speed benchmark without what it measures: networks, protocol, arithmetic, tables. Nothing is
timed here, and no other library's environment is needed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'benchmarks'
ECHO = """
from experiments.benchmarks import protocol
class Program:
  note = 'a note'
  def __init__(self, job): self.job, self.weight = job, 1.0
  def prepare(self): print('a library that prints')
  def run(self, steps):
    self.weight -= self.job.learning_rate / self.job.batch
    if self.job.batch == 13: raise MemoryError('too much\\nand more')
    return steps
  def parameters(self): return {'w': protocol.np.array([self.weight])}
protocol.serve(protocol.Session(Program, lambda: {'versions': {}}, lambda: 1.0))
"""


def load(name):
  return importlib.import_module(f'experiments.benchmarks.{name}')


def test_networks_have_the_sizes_they_are_known_by():
  nets = load('nets')
  sizes = {name: nets.count_parameters(net) for name, net in nets.NETS.items()}
  assert sizes == {'tutorial_cnn': 26_010, 'report_d': 25_713, 'large_d': 1_724_289}


def test_flops_are_those_counted_by_hand():
  nets = load('nets')
  conv1, conv2, dense1, dense2 = 14 * 14 * 64 * 16, 5 * 5 * 256 * 32, 512 * 32, 32 * 10
  expected = 2 * (2 * conv1 + 3 * (conv2 + dense1 + dense2))
  assert nets.flops_per_example(nets.NETS['tutorial_cnn']) == expected


@pytest.mark.parametrize('ours', [True, False])
@pytest.mark.parametrize('name', ['tutorial_cnn', 'report_d', 'large_d'])
def test_the_flax_networks_have_the_canonical_parameters(name, ours):
  nets, worker = load('nets'), load('worker_jax')
  net = nets.NETS[name]
  images, labels = nets.make_data(2)
  variables = jax.eval_shape(worker.Model(net, ours).init, jax.random.key(0), images, labels)
  found = {
    f'{layer}/{kind}': leaf.shape
    for layer, leaves in variables['params'].items()
    for kind, leaf in leaves.items()
  }
  assert found == {key: value.shape for key, value in nets.init_params(net).items()}


@pytest.mark.slow
def test_report_d_is_the_discriminator_of_the_package():
  nets, worker = load('nets'), load('worker_jax')
  models = importlib.import_module('dpgan_jax.networks.discriminators')
  theirs = models.make_discriminator('report', nets.IMAGE, nets.CLASSES)
  images, labels = nets.make_data(3)
  params = theirs.init(jax.random.key(0), images, labels)
  names = {'Conv_0': 'conv1', 'Conv_1': 'conv2', 'Dense_1': 'dense1', 'Dense_0': 'dense2'}
  by_layer = {'params': {names[key]: value for key, value in params['params'].items()}}
  ours = worker.Model(nets.NETS['report_d'], ours=True)
  np.testing.assert_allclose(
    ours.apply(by_layer, images, labels), theirs.apply(params, images, labels), rtol=1e-5
  )


@pytest.mark.slow  # test_clipping compares with formed gradients
def test_all_contenders_in_jax_compute_the_same_clipped_sum():
  """And some examples are clipped by it, and some are not."""
  worker, protocol, check = load('worker_jax'), load('protocol'), load('check')

  def clipped_sum(mode, clip):
    job = protocol.Job('report_d', mode, batch=6, clip=clip).for_check()
    program = worker.Program(job)
    before = program.parameters()
    assert program.run(1) == 1
    return {key: before[key] - value for key, value in program.parameters().items()}

  clip = check.CLIP['report_d']
  reference = clipped_sum('ours_vmap_scan', clip)
  for mode in ('ours_ghost_scan', 'jax_privacy_jit', 'optax_jit'):
    assert check.distance(clipped_sum(mode, clip), reference) < check.TOLERANCE
  unclipped = clipped_sum('ours_nonprivate_scan', clip)
  assert check.distance(clipped_sum('jax_privacy_jit', 1e6), unclipped) < check.TOLERANCE
  assert check.distance(reference, unclipped) > 0.01
  tight = clipped_sum('ours_vmap_scan', clip / 2)
  assert check.distance({k: 2 * v for k, v in tight.items()}, reference) > 0.01


def test_a_worker_answers_and_survives_failures(tmp_path):
  client = load('client')
  script = tmp_path / 'echo.py'
  script.write_text(ECHO, encoding='utf-8')
  with client.Worker(sys.executable, script) as worker:
    with pytest.raises(client.WorkerError, match='nothing was built'):
      worker.ask('time', steps=1)
    built = worker.ask('build', net='report_d', mode='any', batch=4)
    assert built['note'] == 'a note'
    assert worker.ask('time', steps=3)['steps'] == 3
    assert worker.ask('memory')['bytes'] > 2**20
    out = tmp_path / 'sum.npz'
    worker.ask('check', net='report_d', mode='any', batch=4, out=str(out))
    assert np.load(out)['w'] == 1.0
    worker.ask('build', net='report_d', mode='any', batch=13)
    with pytest.raises(client.WorkerError, match=r'MemoryError: too much$'):
      worker.ask('time', steps=1)
    with pytest.raises(client.WorkerError, match='unknown command'):
      worker.ask('nonsense')


def test_a_worker_that_dies_or_hangs_is_reported(tmp_path):
  client = load('client')
  script = tmp_path / 'dies.py'
  script.write_text('import sys; sys.exit("no such library")', encoding='utf-8')
  died = pytest.raises(client.WorkerError, match='died: no such library')
  with client.Worker(sys.executable, script) as worker, died:
    worker.ask('describe')
  script.write_text('import time; time.sleep(60)', encoding='utf-8')
  late = pytest.raises(client.WorkerError, match='more than 0 s')
  with client.Worker(sys.executable, script) as worker, late:
    worker.ask('describe', timeout=0.1)


def test_a_missing_environment_is_a_line_of_the_table(tmp_path):
  client, install_peers = load('client'), load('install_peers')
  contender = load('contenders').CONTENDERS['opacus_ghost']
  with pytest.raises(client.WorkerError, match='not installed: run'):
    client.start(contender, tmp_path, 'cpu')
  install_peers.failure_file(tmp_path, 'torch').write_text('ERROR: no wheel\n', encoding='utf-8')
  with pytest.raises(client.WorkerError, match=r'not installed: ERROR: no wheel$'):
    client.start(contender, tmp_path, 'cpu')


def test_contenders_are_selected_by_name_family_and_environment():
  contenders = load('contenders')
  assert [c.name for c in contenders.select(['opacus', 'ours_ghost'])] == [
    'opacus_hooks',
    'opacus_ghost',
    'ours_ghost',
  ]
  assert len(contenders.select(['tensorflow'])) == 5
  with pytest.raises(ValueError, match='unknown contender'):
    contenders.select(['nobody'])


def test_what_does_not_fit_is_not_tried():
  contenders, nets = load('contenders'), load('nets')
  net, limit = nets.NETS['large_d'], 12 * 2**30
  hooks = contenders.CONTENDERS['opacus_hooks']
  assert contenders.too_large(hooks, net, 512, limit) is None
  assert 'about 20 GiB' in contenders.too_large(hooks, net, 1024, limit)
  assert contenders.too_large(contenders.CONTENDERS['opacus_ghost'], net, 10**6, limit) is None


def measured(rounds_by_contender, net='report_d', batch=120):
  results = load('results')
  rows = [
    results.Result(net, batch, name, rounds=rounds, peak_bytes=2**30)
    for name, rounds in rounds_by_contender.items()
  ]
  return results.Results(
    {
      'cpu': 'a processor', 'cores': 2, 'memory_gib': 8, 'system': 'a system', 'device': 'cpu',
      'peak_gflops': 100.0, 'rounds': 3, 'turn_seconds': 0.5, 'slow_seconds': 1.0,
      'slow_rounds': 3, 'longest_step': 10.0, 'sessions': 1, 'load_before': '0',
      'load_after': '0', 'command': 'c',
      'environments': {'jax': {'versions': {'jax': '1'}, 'threads': 2}},
    },
    rows,
  )  # fmt: skip


def test_ratios_are_taken_round_by_round():
  # Everything slows down twofold in the second round, which no ratio may show.
  found = measured({'ours_ghost': [1.0, 2.0, 1.0], 'ours_nonprivate': [2.0, 4.0, 2.0]})
  above, below = (found.get('report_d', 120, n) for n in ('ours_nonprivate', 'ours_ghost'))
  assert found.ratio(above, below) == (2.0, 2.0, 2.0)


def test_targets_say_met_not_met_and_not_measured():
  targets = load('targets')
  rounds = {
    'ours_ghost': [0.010], 'ours_nonprivate': [0.008], 'tfp_tape': [1.0],
    'opacus_hooks': [0.04], 'opacus_ghost': [0.03],
  }  # fmt: skip
  lines = {o.text: o for o in targets.outcomes(measured(rounds))}
  assert lines['our private step ÷ our non-private step, report_d'].verdict == 'not met'
  assert lines['TF-Privacy under a tape ÷ ours, report_d'].verdict == 'met'
  opacus = lines["Opacus's best mode ÷ ours, report_d"]
  assert opacus.verdict == 'not measured'  # the other batch sizes are missing
  assert 'B 120: 3.00' in opacus.measured
  assert lines["jax-privacy's best mode ÷ ours, report_d"].verdict == 'not measured'


def test_what_the_lines_ask_for_is_known():
  needed = load('targets').families_needed
  assert 'tfp_tape' in needed('report_d', 120)
  assert 'tfp_tape' not in needed('report_d', 256)
  assert needed('large_d', 1024) == {'torch_nonprivate', 'ours_ghost'}
  assert needed('large_d', 512) == {'ours_ghost', 'ours_nonprivate'}


def test_the_memory_line():
  targets = load('targets')
  found = measured({'ours_ghost': [1.0], 'ours_nonprivate': [1.0]}, 'large_d', 512)
  assert targets.memory_outcome(found).verdict == 'met'
  found.results[0].peak_bytes *= 2
  assert targets.memory_outcome(found).verdict == 'not met'


def test_the_report_and_its_json(tmp_path):
  tables, results, nets = load('tables'), load('results'), load('nets')
  found = measured({'ours_ghost': [0.01, 0.01], 'ours_vmap': []})
  found.results[1].failure = 'not installed: for a reason'
  text = tables.markdown(found)
  row = next(
    line
    for line in text.splitlines()
    if line.startswith('| dpgan_jax, ghost (auto) | 10.0 | 1.00 (')
  )
  share = 100 * nets.flops_per_example(nets.NETS['report_d']) * 120 / 0.01 / 1e9 / 100
  assert f'| {share:.0f} % |' in row
  assert '| dpgan_jax, vmap | not installed: for a reason |' in text
  tables_in_text = [line for line in text.splitlines() if line.startswith('|')]
  assert all(line.endswith('|') for line in tables_in_text)
  found.save(tmp_path / 'speed.json')
  assert results.Results.load(tmp_path / 'speed.json') == found
  assert json.loads((tmp_path / 'speed.json').read_text())['results'][0]['rounds'] == [0.01, 0.01]


def test_numbers_have_three_digits():
  number = load('turns').number
  assert [number(v) for v in (0, 1234.5, 12.345, 1.2345, 0.01234)] == [
    '0', '1,234', '12.3', '1.23', '0.0123',
  ]  # fmt: skip
  assert math.isclose(load('turns').spread([1.0, 2.0, 3.0]).median, 2.0)


@pytest.mark.slow
def test_commands_explain_themselves():
  for module in ('speed', 'install_peers'):
    done = subprocess.run(
      [sys.executable, '-m', f'experiments.benchmarks.{module}', '--help'], capture_output=True,
      text=True, check=True, cwd=BENCHMARKS.parents[1],
    )  # fmt: skip
    assert 'usage' in done.stdout


def whole_steps(private, ordinary, equal, net='gan_report', batch=240):
  return measured(
    {'gan_private': private, 'gan_ordinary': ordinary, 'gan_ordinary_equal': equal}, net, batch
  )


def test_the_line_of_a_whole_step_is_about_the_ordinary_gan_of_b_examples():
  targets = load('targets')
  found = whole_steps([1.3, 2.6], [1.0, 2.0], [1.2, 2.4])
  lines = {o.text: o for o in targets.whole_step_outcomes(found)}
  asked = lines['a whole DPGAN step ÷ the same without privacy, gan_report']
  assert (asked.verdict, asked.measured[:11]) == ('not met', 'B 240: 1.30')
  equal = lines[
    'a whole DPGAN step ÷ the same without privacy on as many real examples, gan_report'
  ]
  assert (equal.verdict, equal.measured[:11]) == ('–', 'B 240: 1.08')
  found = whole_steps([1.1, 2.2], [1.0, 2.0], [1.2, 2.4])
  assert targets.whole_step_outcomes(found)[0].verdict == 'met'
  other = lines['a whole DPGAN step ÷ the same without privacy, gan_revisited']
  assert other.verdict == 'not measured'


def test_whole_steps_have_a_section_of_their_own():
  found = whole_steps([0.013], [0.010], [0.012])
  found.results[0].note = '328 real'
  lines = load('tables').markdown(found).splitlines()
  assert any(line.startswith('| private (328 real) | 13.0 | 1.00 (') for line in lines)
  assert any(line.startswith('| not private | 10.0 | 1.30 (') for line in lines)
  overview = lines[lines.index('## Overview') : lines.index('## Details')]
  assert not any('gan_' in line for line in overview)


@pytest.mark.slow
def test_gans_are_those_of_the_flag_files_and_ways_differ_in_real_examples_only():
  gans, worker = load('contenders'), load('worker_gan')
  for gan in gans.GANS.values():
    config = worker.settings(gan, gan.batch)
    real = {way.mode: worker.build(config, way.mode) for way in gans.WAYS.values()}
    slots = real['private'][0].mechanism.truncated_batch_size
    assert {mode: count for mode, (_, count) in real.items()} == {
      'private': slots, 'ordinary': gan.batch, 'ordinary_equal': slots,
    }  # fmt: skip
    assert slots > gan.batch
    sizes = {(g.fake_batch_size, g.g_batch_size) for g, _ in real.values()}
    assert len(sizes) == 1
  assert worker.settings(gans.GANS['gan_report'], 24).fake_batch_size == 12
  with pytest.raises(ValueError, match='has batch_size 240, not 7'):
    worker.settings(dataclasses.replace(gans.GANS['gan_report'], batch=7), 7)
  with pytest.raises(ValueError, match='unknown mode'):
    worker.build(worker.settings(gans.GANS['gan_report'], 24), 'nonsense')


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['private', 'ordinary'])
def test_a_whole_step_gives_back_a_state_like_the_one_it_took(mode):
  """Traced only. The flags train D with SGD, which an ordinary GAN has to do as well."""
  gans, worker, ordinary = load('contenders'), load('worker_gan'), load('ordinary_gan')
  gan, _ = worker.build(worker.settings(gans.GANS['gan_report'], 24), mode)
  state = jax.eval_shape(gan.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((ordinary.MNIST.num_records, *ordinary.MNIST.shape), np.uint8)
  labels = jax.ShapeDtypeStruct((ordinary.MNIST.num_records,), np.int32)
  after, _ = jax.eval_shape(gan.step, state, images, labels)
  assert after == state


@pytest.mark.slow
def test_whole_steps_move_both_networks():
  worker, protocol = load('worker_gan'), load('protocol')
  for mode in ('private', 'ordinary'):
    program = worker.Program(protocol.Job('gan_report', mode, batch=24, chunk=2))
    program.prepare()
    before = program.parameters()
    assert program.run(3) == 4
    after = program.parameters()
    assert all(np.isfinite(value).all() for value in after.values())
    assert any((after[k] != before[k]).any() for k in after if k.startswith('[0]'))
    assert any((after[k] != before[k]).any() for k in after if k.startswith('[1]'))


def harness(monkeypatch, out, *arguments, machine=None):
  """A harness that measures nothing, and the combinations that it was to measure."""
  speed, asked = load('speed'), []
  arguments = speed._parse(
    ['--nets', 'report_d', '--gans', '--contenders', 'ours_ghost', '--out', str(out), *arguments]
  )
  found = speed.Harness(arguments, load('contenders').select(arguments.contenders))

  def combination(net, batch):
    asked.append((net, batch))
    return [load('results').Result(net, batch, c.name, [0.01]) for c in found._taking_part(net)]

  here = {**measured({}).machine, 'rounds': arguments.rounds, **(machine or {})}
  monkeypatch.setattr(found, '_combination', combination)
  monkeypatch.setattr(found, '_machine', lambda: here)
  return found, asked


def test_a_run_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
  out = tmp_path / 'speed'
  first, asked = harness(monkeypatch, out, '--batches', '16', '32')
  first.run()
  assert asked == [('report_d', 16), ('report_d', 32)]
  second, asked = harness(monkeypatch, out, '--batches', '16', '64')
  results = second.run()
  assert asked == [('report_d', 64)]
  assert results.combinations() == [('report_d', 16), ('report_d', 32), ('report_d', 64)]
  assert results.machine['sessions'] == 2
  tables, stored = load('tables'), load('results').Results.load(out.with_suffix('.json'))
  assert out.with_suffix('.md').read_text(encoding='utf-8') == tables.markdown(stored)
  # A contender that was not there makes the whole combination run again, side by side.
  third, asked = harness(monkeypatch, out, '--batches', '16', '--contenders', 'ours_ghost', 'optax')
  assert [r.contender for r in third.run().of('report_d', 16)] == [
    'ours_ghost', 'optax_scan', 'optax_jit',
  ]  # fmt: skip
  assert asked == [('report_d', 16)]


def test_a_run_goes_on_only_on_the_same_machine_with_the_same_settings(monkeypatch, tmp_path):
  out = tmp_path / 'speed'
  harness(monkeypatch, out, '--batches', '16')[0].run()
  for changed in ({'machine': {'cpu': 'another'}}, {'machine': {'rounds': 99}}):
    other, asked = harness(monkeypatch, out, '--batches', '16', '32', **changed)
    with pytest.raises(SystemExit, match=f'differ in {next(iter(changed["machine"]))}:'):
      other.run()
    assert not asked
  fresh, asked = harness(monkeypatch, out, '--batches', '32', '--fresh', machine={'cpu': 'another'})
  assert fresh.run().combinations() == [('report_d', 32)]


def test_a_run_ends_when_its_time_is_up(monkeypatch, tmp_path):
  found, asked = harness(monkeypatch, tmp_path / 'speed', '--batches', '16', '--minutes', '-1')
  assert found.run().combinations() == []
  assert asked == []


def test_steps_foretold_to_take_too_long_are_not_tried(monkeypatch, tmp_path):
  contenders, results = load('contenders'), load('results')
  found, _ = harness(monkeypatch, tmp_path / 'speed', '--longest_step', '10')
  slow = contenders.CONTENDERS['tfp_fast']
  earlier = results.Result('report_d', 120, 'tfp_fast', [2.0, 2.0])
  found.results.results = [earlier]
  asked = results.Result('report_d', 600, 'tfp_fast')
  assert found._hopeless(slow, asked) is None  # 10 s
  asked.batch = 1024
  assert found._hopeless(slow, asked) == 'skipped: 2.0 s at B = 120 foretell 17 s a step'
  earlier.rounds, earlier.failure = [], 'stopped: took more than 120 s'
  assert found._hopeless(slow, asked) == 'skipped: B = 120 was too much already'
  earlier.failure = 'failed: for a reason of its own'
  assert found._hopeless(slow, asked) is None
  ours = results.Result('report_d', 120, 'ours_ghost', [9.0])
  found.results.results.append(ours)  # a target asks for it, however long it takes
  asked_of_ours = results.Result('report_d', 1024, 'ours_ghost')
  assert found._hopeless(contenders.CONTENDERS['ours_ghost'], asked_of_ours) is None
  asked.batch = 60  # a larger batch foretells nothing
  earlier.failure = 'stopped: took more than 120 s'
  assert found._hopeless(slow, asked) is None


def test_results_hold_no_paths_of_the_machine():
  without_paths = load('machine').without_paths
  text = "died: No such file '/some/where/else.py', line 3; see /tmp/x/y.log: 5 GFLOP/s"
  assert without_paths(text) == "died: No such file 'else.py', line 3; see y.log: 5 GFLOP/s"
  assert without_paths('./run.sh python a/b.py --out c/d') == './run.sh python a/b.py --out c/d'


COMMITTED = BENCHMARKS.parent / 'results'


@pytest.mark.parametrize('name', ['speed', 'profile'])
def test_committed_pages_are_made_from_their_json(name):
  path = COMMITTED / f'{name}.json'
  if not path.exists():
    pytest.skip(f'no {path.name} is committed')
  if name == 'speed':
    text = load('tables').markdown(load('results').Results.load(path))
  else:
    text = load('profile_step').markdown(json.loads(path.read_text(encoding='utf-8')))
  assert path.with_suffix('.md').read_text(encoding='utf-8') == text
  for written in (text, path.read_text(encoding='utf-8')):
    assert load('machine').without_paths(written) == written
  assert 'cores' in text


@pytest.mark.slow
def test_a_profile_is_of_programs_that_each_do_more():
  """Traced only; what XLA counts for them is no business of this test."""
  profile, nets, protocol = load('profile_step'), load('nets'), load('protocol')
  job = protocol.Job('report_d', 'profile', batch=6)
  worker = load('worker_jax')
  params = worker.initial(nets.NETS['report_d'])
  programs = profile.parts(job, params)
  assert set(programs) == {*profile.PRIVATE, *profile.ORDINARY}
  images, labels = nets.make_data(20)
  sizes = []
  for name in profile.PRIVATE:
    step, state = programs[name]
    program = worker.steps_in_loop(dataclasses.replace(job, examples=20), step, 1)
    carry = (params, state, jax.random.key(0))
    assert jax.tree.map(np.shape, jax.eval_shape(program, carry, images, labels)[0]) == (
      jax.tree.map(np.shape, params)
    )
    sizes.append(str(jax.make_jaxpr(program)(carry, images, labels)).count('\n'))
  assert sizes == sorted(sizes)


def test_the_parts_of_a_profile_add_up():
  profile = load('profile_step')
  names = ['batch', 'losses', 'ordinary', 'norms', 'sum', 'step']
  programs = {
    name: {'flops': 1e6 * k, 'bytes': 2**20 * k, 'rounds': [0.001 * k, 0.002 * k]}
    for k, name in enumerate(names, 1)
  }
  found = {'net': 'report_d', 'batch': 120, 'programs': programs}
  lines = profile.table(found, 100.0).splitlines()
  cells = {line.split('|')[1].strip(): line.split('|')[2:-1] for line in lines[2:]}
  assert [c.strip() for c in cells['**private step**'][1:4]] == ['100 %', '6.00', '6.00']
  # From losses to norms there are two programs' worth of everything.
  assert cells["backward pass and every example's norm"][0].strip() == '3.00 (2.20–3.80)'
  assert cells["backward pass and every example's norm"][1].strip() == '33 %'
  assert cells['noise'][2].strip() == '1.00'

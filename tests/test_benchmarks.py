"""The speed benchmark without what it measures: networks, protocol, arithmetic, tables. Nothing is
timed here, and no other library's environment is needed."""

from __future__ import annotations

import importlib
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / 'experiments' / 'benchmarks'
ECHO = """
import sys
sys.path.insert(0, sys.argv[1])
import protocol
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


@pytest.fixture(scope='module', autouse=True)
def _import_path():
  sys.path.insert(0, str(BENCHMARKS))
  yield
  sys.path.remove(str(BENCHMARKS))


def load(name):
  return importlib.import_module(name)


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


def test_report_d_is_the_discriminator_of_the_package():
  nets, worker = load('nets'), load('worker_jax')
  models = importlib.import_module('dpgan_jax.models')
  theirs = models.make_discriminator('report', nets.IMAGE, nets.CLASSES)
  images, labels = nets.make_data(3)
  params = theirs.init(jax.random.key(0), images, labels)
  names = {'Conv_0': 'conv1', 'Conv_1': 'conv2', 'Dense_1': 'dense1', 'Dense_0': 'dense2'}
  by_layer = {'params': {names[key]: value for key, value in params['params'].items()}}
  ours = worker.Model(nets.NETS['report_d'], ours=True)
  np.testing.assert_allclose(
    ours.apply(by_layer, images, labels), theirs.apply(params, images, labels), rtol=1e-5
  )


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
  script.write_text(ECHO.replace('sys.argv[1]', repr(str(BENCHMARKS))), encoding='utf-8')
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
      'peak_gflops': 100.0, 'rounds': 3, 'load_before': '0', 'load_after': '0', 'command': 'c',
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
  number = load('results').number
  assert [number(v) for v in (0, 1234.5, 12.345, 1.2345, 0.01234)] == [
    '0', '1,234', '12.3', '1.23', '0.0123',
  ]  # fmt: skip
  assert math.isclose(load('results').spread([1.0, 2.0, 3.0]).median, 2.0)


def test_both_commands_explain_themselves():
  for script in ('speed.py', 'install_peers.py'):
    done = subprocess.run(
      [sys.executable, str(BENCHMARKS / script), '--help'], capture_output=True, text=True,
      check=True,
    )  # fmt: skip
    assert 'usage' in done.stdout

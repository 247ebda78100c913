"""A run is the same run on any number of devices and processes, and may change them on the way."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from dpgan_jax import _devices, _jax_settings, _state_leaves
from dpgan_jax._validate import InputError
from dpgan_jax.networks import layers
from dpgan_jax.privacy import sharding
from dpgan_jax.run import loop, stages
from dpgan_jax.run.loop import Run
from dpgan_jax.run.stages import make_chunk
from experiments.benchmarks import compiled
from experiments.trust import device_checks
from tests.support import gans

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason='needs 8 devices')
STEPS = 12


def train(path, devices, steps=None, data_on='device'):
  """A classifier's run in its directory; `steps`: ends there as if it was killed."""
  classifier = device_checks.classifier(STEPS, steps_per_report=2, seed=3)
  stage = stages.ClassifierStage(classifier, device_checks.data(), data_on=data_on)

  class Stopped(Exception):
    pass

  write = stage.write

  def stop(step, *rest):
    if steps is not None and step > steps:
      raise Stopped
    write(step, *rest)

  stage.write = stop
  with Run.open(
    path, classifier.config.to_dict(), device_checks.data(), make=lambda: classifier,
    read=lambda *_: classifier, progress=False, devices=devices,
  ) as (_, run):  # fmt: skip
    try:
      return run.carry_out(stage), run.ledger.charged_steps(stage.name)
    except Stopped:
      return None


def lines(path):
  return [json.loads(line) for line in (path / 'metrics.jsonl').read_text('utf-8').splitlines()]


def alike(path, state, other, expected):
  """The same batches, noise and ε; parameters but for the order of additions."""
  exact = ('step', 'epsilon', 'realised_batch')
  for a, b in zip(lines(path), lines(other), strict=True):
    assert [a[name] for name in exact] == [b[name] for name in exact]
  for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
    np.testing.assert_allclose(a, b, 0, 1e-5)
  assert _state_leaves.state_digest(state.batch_key) == _state_leaves.state_digest(
    expected.batch_key
  )


@pytest.fixture(scope='module')
def of_one(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'one'
  return path, train(path, 1)[0]


@pytest.mark.parametrize(
  'devices', [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)), 8]
)
def test_a_run_on_many_is_that_on_one(of_one, devices, tmp_path):
  state, charged = train(tmp_path / 'many', devices)
  assert charged == STEPS
  assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(state))
  alike(tmp_path / 'many', state, *of_one)


@pytest.mark.slow  # the two processes go on with a run of one device
def test_a_run_goes_on_on_another_number(of_one, tmp_path):
  """From 8 to 1, with data on the host, to 2: one run, charged once; the record says what on."""
  run = tmp_path / 'run'
  assert train(run, 8, steps=4) is None
  assert train(run, 1, steps=8, data_on='host') is None
  state, charged = train(run, 2)
  assert charged == STEPS
  alike(run, state, *of_one)
  with loop.Checkpoints(run / 'checkpoints') as checkpoints:
    used = [checkpoints.restore(step, state)[2].get('devices', 1) for step in (8, 10, 12)]
  assert used == [1, 2, 2]
  assert json.loads((run / 'config.json').read_bytes())['environment']['devices_used'] == 8


def test_a_private_gan_on_eight_devices():
  _gan_on_eight({})


@pytest.mark.slow
@pytest.mark.parametrize(
  'settings',
  [
    {'gradient_penalty': 1.0}, {'generator': 'report', 'discriminator': 'report'},
    {'fake_gradient': 'plain', 'fake_batch_size': 7, 'microbatch_size': 3},
    {'n_d_threshold': 0.6, 'g_batch_size': 5},
    {'generator': 'report', 'discriminator': 'scattering'},
  ],
)  # fmt: skip
def test_every_way_of_the_gan_on_eight_devices(settings):
  """Fewer steps: where a rounding turns a unit of a large network off, runs part slowly."""
  _gan_on_eight(settings, steps=20)


def _gan_on_eight(settings, steps=100):
  """Half as many steps of G: fakes that are made together (batch norm) or shared out."""
  gan, found = gans.make_gan(**settings), []
  for mesh in (None, sharding.mesh_of(8)):
    gan_on = _On(gan, mesh)
    state, data = sharding.replicate((gans.init(gan, jax.random.key(0)), gans.make_dataset()), mesh)
    found.append(sharding.gather(make_chunk(gan_on, steps)(state, *data), mesh))
  (one, history), (eight, history_of_eight) = found
  np.testing.assert_array_equal(history.realised_batch, history_of_eight.realised_batch)
  np.testing.assert_array_equal(history.n_d, history_of_eight.n_d)
  for a, b in zip(jax.tree.leaves(one.d_params), jax.tree.leaves(eight.d_params), strict=True):
    np.testing.assert_allclose(a, b, 0, 1e-4)
  # Adam divides by roots of second moments: where a gradient is near zero, roundings count more.
  for a, b in zip(jax.tree.leaves(one.g), jax.tree.leaves(eight.g), strict=True):
    np.testing.assert_allclose(a, b, 0, 2e-3)


class _On:
  def __init__(self, gan, mesh):
    self.step, self.mechanism, self.mesh = gan.step, gan.mechanism, mesh


def test_the_collectives_of_a_step_are_the_sums_of_clipped_gradients():
  """Of D once and a few scalars; nothing of the size of a batch or of the data."""
  stage = stages.ClassifierStage(device_checks.classifier(), device_checks.data())
  stage.mesh = sharding.mesh_of(8)
  state = jax.eval_shape(stage.init, jax.random.key(0))
  text = stage.chunk(3).lower(state, *stage.data()).compile().as_text()
  parameters = 4 * layers.count_parameters(state.params)
  found = compiled.collectives(text)
  assert set(found) == {'all-reduce'}
  assert parameters <= found['all-reduce'] <= parameters + 16


def test_collectives_and_transfers_are_seen():
  text = """
  %a = f32[3,4]{1,0} all-reduce(f32[3,4] %x), replica_groups={}
  %b = (f32[5]{0}, bf16[2]{0}) all-reduce-start(%y, %z)
  %c = u8[7]{0} all-gather(u8[1] %w), dimensions={0}
  %d = token[] outfeed(f32[] %v, token[] %t)
  %e = f32[3]{0} add(f32[3] %all-reduce.1, f32[3] %q)
  """
  assert compiled.collectives(text) == {'all-reduce': 4 * 12 + 20 + 4, 'all-gather': 7}
  assert compiled.host_transfers(text) == ['outfeed']


# --- processes ------------------------------------------------------------------------------------

SCRIPT = """
import sys
from dpgan_jax import _devices, _state_leaves
_devices.start(sys.argv[2], 2, int(sys.argv[3]))
from tests.run import test_devices
state, charged = test_devices.train(sys.argv[1], _devices.count_of(None))
print(charged, _state_leaves.state_digest(state), _devices.is_owner())
"""


def two_processes(path) -> list[subprocess.CompletedProcess[str]]:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    place = f'127.0.0.1:{free.getsockname()[1]}'
  environment = {
    **os.environ, 'JAX_NUM_CPU_DEVICES': '2', 'JAX_PLATFORMS': 'cpu',
    'JAX_NUMPY_RANK_PROMOTION': 'raise', 'TMPDIR': str(path.parent),
    'PYTHONPATH': str(pathlib.Path(__file__).resolve().parents[2]),
  }  # fmt: skip
  started = [
    subprocess.Popen(
      [sys.executable, '-c', SCRIPT, str(path), place, str(process)], env=environment, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    for process in (0, 1)
  ]  # fmt: skip
  done = []
  try:
    for each in started:
      out, err = each.communicate(timeout=300)
      done.append(subprocess.CompletedProcess(each.args, each.returncode, out, err))
  finally:
    for each in started:
      each.kill()
  return done


def test_two_processes_are_one_run(of_one, tmp_path):
  """A run begun on one device goes on in two processes of two devices each."""
  run = tmp_path / 'run'
  assert train(run, 1, steps=4) is None
  first, second = two_processes(run)
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  # Before it, what gloo tells of its connections.
  (charged, digest, owner), other = (p.stdout.splitlines()[-1].split() for p in (first, second))
  assert (charged, owner) == (str(STEPS), 'True')
  assert other == [charged, digest, 'False']  # the same bits everywhere
  with loop.Checkpoints(run / 'checkpoints') as checkpoints:
    abstract = jax.eval_shape(device_checks.classifier().init, jax.random.key(0))
    step, state, about = checkpoints.restore_latest(abstract)
  assert (step, about['devices']) == (STEPS, 4)
  assert _state_leaves.state_digest(state) == digest
  alike(run, state, *of_one)
  assert list(tmp_path.iterdir()) == [run]  # the copy of the second process is gone


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (('host:1', None, None), 'num_processes'),
    (('host:1', 2, 2), 'process_id'),
    ((None, 2, 0), 'expected coordinator=HOST:PORT'),
    (('auto', 2, 0), 'expected coordinator=HOST:PORT'),
  ],
)
def test_processes_that_are_not_told_enough(given, said):
  with pytest.raises(InputError, match=said):
    _devices.start(*given)


def test_how_many_devices():
  assert _devices.count_of(None) == 1
  assert _devices.count_of('all') == jax.device_count()
  assert _devices.count_of('3') == 3
  for wrong in ('0', '-1', 'some', '1000'):
    with pytest.raises(InputError, match='devices'):
      _devices.count_of(wrong)


def test_the_number_of_virtual_devices_is_no_setting_of_a_run(monkeypatch):
  flag = '--xla_force_host_platform_device_count=8'
  monkeypatch.setenv('XLA_FLAGS', f'--xla_a=1 {flag}  --xla_b=2')
  assert _jax_settings.read()['XLA_FLAGS'] == '--xla_a=1 --xla_b=2'
  monkeypatch.setenv('XLA_FLAGS', flag)
  assert _jax_settings.read()['XLA_FLAGS'] is None
  monkeypatch.setenv('XLA_FLAGS', '--xla_a=1  --xla_b=2 ')
  assert _jax_settings.read()['XLA_FLAGS'] == '--xla_a=1  --xla_b=2 '

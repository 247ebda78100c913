"""The benchmarks of stalls and of compile time without what they measure: arithmetic and tables."""

from __future__ import annotations

import importlib
import threading
import types

import pytest

from dpgan_jax import _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.run import stages


@pytest.fixture
def stalls():
  return importlib.import_module('experiments.benchmarks.stalls')


@pytest.fixture
def compile_time():
  return importlib.import_module('experiments.benchmarks.compile_time')


def test_idle_is_from_the_end_of_a_chunk_to_the_next_dispatch(stalls):
  """The third was dispatched before the second had ended."""
  assert list(stalls.idle([0.0, 3.0, 4.0], [1.0, 5.0, 9.0])) == [2.0, 0.0]


TIMES = ([0.0, 40.0, 60.0, 67.0, 72.0], [10.0, 55.0, 65.0, 71.0, 80.0], [4, 4, 4, 4, 2])


def test_summary_leaves_out_the_chunks_that_compile(stalls):
  """Dispatched at, ended at, steps: 5, 2 and 1 s without work in the 25 s after the second."""
  assert stalls.summary(*TIMES) == {
    'chunks': 3, 'steps': 10, 'seconds': 25.0, 'steps_per_second': 0.4,
    'idle_ms_median': 2000.0, 'idle_ms_max': 5000.0, 'idle_share': 0.32,
  }  # fmt: skip
  with pytest.raises(_validate.InputError, match='at least 4 chunks, got 3'):
    stalls.summary(*(times[:3] for times in TIMES))


def test_watched_chunks_end_when_the_device_is_done(stalls, monkeypatch):
  """A chunk whose metrics come later: its end is then, and not when the call returned."""
  done = threading.Event()
  now = iter([1.0, 7.0])
  fakes = types.SimpleNamespace(
    monotonic=lambda: next(now), block_until_ready=lambda _: done.wait(10)
  )
  monkeypatch.setattr(stalls, 'time', fakes)
  monkeypatch.setattr(stalls, 'jax', fakes)
  watch = stalls.Watch()
  chunk = watch.make_chunk(lambda gan, length: lambda state: (state + length, 'history'))(None, 5)
  assert chunk(0) == (5, 'history')
  assert (watch.dispatched, watch.lengths) == ([1.0], [5])
  done.set()
  assert watch.ended() == [7.0]


def test_cases_of_stalls_are_settings_and_the_trainer_can_be_watched(stalls):
  for changes in stalls.CASES.values():
    TrainConfig(noise_multiplier=1.0, steps=9, **changes)
  assert callable(stages.make_chunk)


def test_table_of_stalls(stalls):
  assert stalls.table({'all': stalls.summary(*TIMES)}).splitlines()[2] == (
    '| all | 3 | 0.4 | 2000.00 | 5000.00 | 32.00 |'
  )


def test_table_of_compile_time_says_whether_it_is_met(compile_time):
  case = {'cold': {'chunk': 9.0, 'sample grid': 5.0}, 'warm': {'chunk': 1.0, 'sample grid': 0.5}}
  slow = {'cold': {'chunk': 61.0}, 'warm': {'chunk': 1.0}}
  lines = compile_time.table({'digits_gan': case, 'eps1': slow, 'eps2': case}).splitlines()
  assert lines[2] == '| digits_gan | 9.0 | 14.0 | 1.5 | 15: met |'
  assert lines[3] == '| eps1 | 61.0 | 61.0 | 1.0 | 60: not met |'
  assert lines[4] == '| eps2 | 9.0 | 14.0 | 1.5 | – |'


def test_compile_time_is_of_the_programs_of_training(compile_time):
  """Small ones, compiled for real; every file that is measured exists."""
  config = TrainConfig(
    dataset='digits', noise_multiplier=1.0, steps=12, batch_size=24, generator='compact',
    steps_per_report=3, d_steps_per_g_step=2,
  )  # fmt: skip
  found = compile_time.measure(config)
  assert list(found) == [
    'memory estimate', 'first state', 'chunk', 'copy of the state', 'sample grid',
  ]  # fmt: skip
  assert found['chunk'] > 0
  assert all(compile_time.flag_file(name).is_file() for name in compile_time.WANTED)

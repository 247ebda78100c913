"""The record of a run: what a resumed run leaves, strict JSON, TensorBoard, the progress line."""

from __future__ import annotations

import io
import json
import math
import pathlib
import sys
import time

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from tensorboardX import proto

from dpgan_jax import _progress
from dpgan_jax._validate import InputError
from dpgan_jax.run import metrics


def scalars_of(step: int) -> dict[str, float]:
  rng = np.random.default_rng(step)
  return {'epsilon': float(np.log1p(step)), 'd_loss_fake': np.float32(rng.normal()), 'batch': step}


def record(directory: pathlib.Path, steps: range, resume_step: int | None) -> bytes:
  with metrics.MetricsWriter(directory, resume_step=resume_step) as writer:
    for step in steps:
      writer.write(step, scalars_of(step), clock={'steps_per_second': time.perf_counter()})
  return writer.path.read_bytes()


@hypothesis.settings(max_examples=25)
@hypothesis.given(
  last=st.integers(1, 12), written=st.integers(0, 12), cut=st.integers(0, 200), data=st.data()
)
def test_a_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(
  last: int,
  written: int,
  cut: int,
  data: st.DataObject,
  tmp_path_factory: pytest.TempPathFactory,
) -> None:
  whole = record(tmp_path_factory.mktemp('whole'), range(1, last + 1), None)
  directory = tmp_path_factory.mktemp('killed')
  written = min(written, last)
  before = record(directory, range(1, written + 1), None)
  # The checkpoint is never ahead of the record, and the crash cuts bytes only after it.
  resume_step = data.draw(st.none() | st.integers(0, written))
  durable = sum(len(line) for line in before.splitlines(keepends=True)[: resume_step or 0])
  (directory / 'metrics.jsonl').write_bytes(before[: max(durable, len(before) - cut)])
  assert record(directory, range((resume_step or 0) + 1, last + 1), resume_step) == whole


def test_starting_anew_drops_the_old_record(tmp_path: pathlib.Path) -> None:
  record(tmp_path, range(1, 5), None)
  assert record(tmp_path, range(1, 2), None).count(b'\n') == 1


def test_dropping_lines_is_atomic(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  before = record(tmp_path, range(1, 5), None)

  def full(*_: object) -> None:
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.replace', full)
  with pytest.raises(OSError, match='No space'):
    metrics.MetricsWriter(tmp_path, resume_step=2)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert sorted(p.name for p in tmp_path.iterdir()) == ['metrics.jsonl', 'tensorboard']


def test_every_line_is_strict_json_and_on_the_disk_at_once(tmp_path: pathlib.Path) -> None:
  with metrics.MetricsWriter(tmp_path, resume_step=None) as writer:
    writer.write(
      1,
      {
        'nan': math.nan,
        'inf': math.inf,
        'minus_inf': np.float32(-np.inf),
        'third': jnp.float32(1) / 3,
        'half': jnp.asarray(0.5, jnp.bfloat16),
        'count': jnp.asarray([7]),
      },
      clock={'seconds': 1.25},
    )

    def refuse(constant: str) -> None:
      raise AssertionError(constant)

    line = writer.path.read_text()  # before close
    record = json.loads(line, parse_constant=refuse)
    assert len(record.pop('hash')) == 16
    assert record == {
      'step': 1,
      'nan': None,
      'inf': None,
      'minus_inf': None,
      'third': float(np.float32(1) / np.float32(3)),
      'half': 0.5,
      'count': 7,
    }
    for name in ('step', 'hash'):
      with pytest.raises(ValueError, match='reserved'):
        writer.write(2, {name: 3})


def test_read_metrics_of_a_live_and_of_a_spoilt_file(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'metrics.jsonl'
  with pytest.raises(InputError, match='found none'):
    metrics.read_metrics(path)
  record(tmp_path, range(1, 4), None)
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"step": 4, "eps')
  assert [r['step'] for r in metrics.read_metrics(path)] == [1, 2, 3]
  path.write_bytes(whole + b'{"step": 4}')  # its end is missing: a digit may be, too
  assert [r['step'] for r in metrics.read_metrics(path)] == [1, 2, 3]
  path.write_bytes(whole + b'\0' * 500)  # what a power loss can leave
  assert [r['step'] for r in metrics.read_metrics(path)] == [1, 2, 3]
  path.write_bytes(b'spoilt\n' + whole)
  for read in (
    lambda: metrics.read_metrics(path),
    lambda: metrics.MetricsWriter(tmp_path, resume_step=2),
  ):
    with pytest.raises(InputError, match=r'line 1 .*metrics\.jsonl.*spoilt') as info:
      read()
    assert '\n' not in str(info.value)
  assert path.read_bytes() == b'spoilt\n' + whole


def test_any_bit_that_changes_is_noticed(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'metrics.jsonl'
  whole = record(tmp_path, range(1, 4), None)
  lines = metrics.read_metrics(path)
  for index in range(len(whole)):
    changed = bytearray(whole)
    changed[index] ^= 1 << index % 8
    path.write_bytes(changed)
    if index < len(whole) - 1:
      with pytest.raises(InputError, match=r'line \d of .*metrics\.jsonl'):
        metrics.read_metrics(path)
    else:
      assert metrics.read_metrics(path) == lines[:2]  # as if it were half-written
  # Lines exchanged or left out are intact one by one.
  one, two, three = whole.splitlines(keepends=True)
  for order in ((two, one, three), (one, three, three), (two, three, three)):
    path.write_bytes(b''.join(order))
    with pytest.raises(InputError, match=r'metrics\.jsonl'):
      metrics.read_metrics(path)


def test_a_record_that_ends_too_early_is_refused_and_a_missing_one_is_said(
  tmp_path: pathlib.Path,
) -> None:
  whole = record(tmp_path, range(1, 5), None)
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(whole[: whole.index(b'\n') + 9])
  with pytest.raises(InputError, match=r'metrics\.jsonl ends at step 1 where .* after step 3'):
    metrics.MetricsWriter(tmp_path, resume_step=3)
  assert path.read_bytes() == whole[: whole.index(b'\n') + 9]
  path.unlink()
  with pytest.warns(RuntimeWarning, match=r'metrics\.jsonl is missing.*up to 3'):
    record(tmp_path, range(4, 5), 3)
  assert [line['step'] for line in metrics.read_metrics(path)] == [4]


def test_a_record_of_version_0_1_goes_on_as_it_was(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "epsilon": 0.5}\n')
  record(tmp_path, range(2, 4), 1)
  assert [line['step'] for line in metrics.read_metrics(path)] == [1, 2, 3]
  assert 'hash' not in path.read_text()


def events(directory: pathlib.Path) -> list[proto.event_pb2.Event]:
  found = []
  for path in sorted((directory / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:  # TFRecord: length (8), checksum (4), payload, checksum (4)
      size = int.from_bytes(data[:8], 'little')
      found.append(proto.event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def test_tensorboard_has_the_scalars_and_purges_on_resuming(tmp_path: pathlib.Path) -> None:
  record(tmp_path, range(1, 5), None)
  values = {
    (event.step, value.tag): value.simple_value
    for event in events(tmp_path)
    for value in event.summary.value
  }
  assert {tag for _, tag in values} == {'epsilon', 'd_loss_fake', 'batch', 'steps_per_second'}
  for step in range(1, 5):
    assert values[step, 'd_loss_fake'] == float(np.float32(scalars_of(step)['d_loss_fake']))
  for path in (tmp_path / 'tensorboard').iterdir():
    path.unlink()
  record(tmp_path, range(3, 5), 2)
  starts = [e.step for e in events(tmp_path) if e.HasField('session_log')]
  assert starts == [3]  # TensorBoard hides what older files say of step 3 and later


def test_real_data_metrics_name_what_reads_private_examples() -> None:
  private = {'d_loss_real', 'd_real_accuracy', 'clipped_fraction', 'realised_batch'}
  assert private <= metrics.REAL_DATA_METRICS
  assert not {'epsilon', 'd_loss_fake', 'g_loss', 'step'} & metrics.REAL_DATA_METRICS


# --- progress


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
  stream = Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  progress = _progress.TrainingProgress(total=100, initial=20, epsilon_budget=2.0, device='cpu x 2')
  progress.update(60, 1.2345, g_loss=0.5)
  progress.close()
  last = stream.getvalue().split('\r')[-1]
  assert 'cpu x 2' in last
  assert '60/100' in last
  assert 'ε=1.234 / 2' in last or 'ε=1.235 / 2' in last
  assert 'g_loss=0.5' in last


def test_progress_in_a_log_is_plain_lines_ten_seconds_apart(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  stream, clock = io.StringIO(), [1000.0]
  monkeypatch.setattr(sys, 'stderr', stream)
  monkeypatch.setattr(_progress.time, 'monotonic', lambda: clock[0])
  progress = _progress.TrainingProgress(total=300, initial=100, epsilon_budget=2.0, device='cpu')
  for step in range(101, 151):
    clock[0] += 0.5
    progress.update(step, 0.01 * step)
  progress.close()
  lines = stream.getvalue().splitlines()
  assert [line.split(',')[0] for line in lines] == [
    'step 120/300 (40 %)',
    'step 140/300 (46 %)',
    'step 150/300 (50 %)',
  ]
  assert lines[0] == 'step 120/300 (40 %), 2 steps/s, 01:30 left, ε=1.200 / 2, cpu'
  assert '\r' not in stream.getvalue()
  assert '\x1b' not in stream.getvalue()


def test_a_note_before_the_first_step_does_not_count_as_training(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  stream, clock = io.StringIO(), [1000.0]
  monkeypatch.setattr(sys, 'stderr', stream)
  monkeypatch.setattr(_progress.time, 'monotonic', lambda: clock[0])
  progress = _progress.TrainingProgress(total=100, initial=0, epsilon_budget=2.0, device='cpu')
  clock[0] += 50  # compiling
  progress.note('compiled 50 steps in 50.0 s')
  clock[0] += 25
  progress.update(50, 1.0)
  lines = stream.getvalue().splitlines()
  assert lines[0] == 'compiled 50 steps in 50.0 s'
  assert lines[1] == 'step 50/100 (50 %), 2 steps/s, 00:25 left, ε=1.000 / 2, cpu'


def test_a_note_on_a_terminal_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
  stream = Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  progress = _progress.TrainingProgress(total=10, initial=0, epsilon_budget=2.0, device='cpu')
  progress.note('compiled 5 steps in 0.1 s')
  progress.close()
  assert 'compiled 5 steps in 0.1 s\n' in stream.getvalue()


@pytest.mark.parametrize(
  ('epsilon', 'budget', 'shown'),
  [
    (math.inf, math.inf, 'no privacy'),
    (0.5, math.inf, 'ε=0.5000'),
    (0.5, 1.5, 'ε=0.5000 / 1.5'),
    (0.9985, 0.9985, 'ε=0.9985 / 0.9985'),  # and never more than there is
  ],
)
def test_progress_says_what_is_spent(
  epsilon: float, budget: float, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  progress = _progress.TrainingProgress(total=10, initial=0, epsilon_budget=budget, device='gpu')
  progress.update(10, epsilon)
  progress.close()
  progress.close()
  assert stream.getvalue().endswith(f', {shown}, gpu\n')
  assert stream.getvalue().count('\n') == 1


def test_progress_of_a_release_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  progress = _progress.TrainingProgress(total=1, initial=0, epsilon_budget=2.0, device='cpu')
  progress.update(1, 2.0)
  progress.close()
  assert stream.getvalue() == 'release made, ε=2.000 / 2, cpu\n'


def test_progress_of_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  _progress.TrainingProgress(total=10, initial=10, epsilon_budget=1.0, device='cpu').close()
  assert stream.getvalue() == ''

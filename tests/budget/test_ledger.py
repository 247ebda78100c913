"""dpgan_jax.budget.ledger: what may have been spent is on disk,
unaltered, before it is spent.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import dp_accounting
import hypothesis
import hypothesis.strategies as st
import pytest
from dp_accounting import pld

from dpgan_jax._validate import InputError
from dpgan_jax.budget import ledger as ledger_module
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.privacy.mechanism import BudgetError, DPMechanism

MECHANISM = DPMechanism.create(
  num_examples=200, batch_size=10, l2_clip_norm=1.0, noise_multiplier=6.0, steps=100, delta=1e-3
)
STAGES = {'dp_sgd': MECHANISM}


def start(path: pathlib.Path, stages=None, fingerprint: str = 'f00d') -> Ledger:
  return Ledger.open(path, stages=stages or STAGES, data_fingerprint=fingerprint)


def charged(path: pathlib.Path, *steps: int) -> bytes:
  """Makes a ledger with these charges; returns the file's content."""
  ledger = start(path)
  for step in steps:
    ledger.charge(step)
  return path.read_bytes()


def run(code: str, *arguments: str, **options) -> subprocess.Popen:
  """A process of its own with MECHANISM's ledger at hand, as `open_ledger(path)`."""
  prelude = f"""
    import sys
    from dpgan_jax.budget.ledger import Ledger
    from dpgan_jax.privacy.mechanism import DPMechanism
    mechanism = DPMechanism.from_dict({MECHANISM.to_dict()!r})
    def open_ledger(path):
      return Ledger.open(path, stages={{'dp_sgd': mechanism}}, data_fingerprint='f00d')
    """
  root = str(pathlib.Path(__file__).resolve().parents[2])
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(prelude) + textwrap.dedent(code), *arguments],
    stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': root}, **options,
  )  # fmt: skip


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
  return tmp_path / 'private' / 'ledger.jsonl'


class TestCharge:
  def test_counts_up_and_never_down(self, path):
    ledger = start(path)
    assert ledger.charged_steps() == 0
    for step, want in ((5, 5), (3, 5), (5, 5), (9, 9), (0, 9)):
      ledger.charge(step)
      assert ledger.charged_steps() == want
    assert len(path.read_bytes().splitlines()) == 3  # what is charged already writes nothing

  def test_is_durable_before_it_returns(self, path, monkeypatch):
    ledger = start(path)
    seen = []
    fsync = os.fsync

    def record(handle: int) -> None:
      assert os.fstat(handle).st_ino == path.stat().st_ino
      seen.append(path.read_bytes())  # by another handle: out of this process's buffers
      fsync(handle)

    monkeypatch.setattr(os, 'fsync', record)
    ledger.charge(7)
    assert len(seen) == 1
    assert json.loads(seen[0].splitlines()[-1])['up_to_step'] == 7
    assert path.read_bytes() == seen[0]

  def test_reopening_continues(self, path):
    charged(path, 4, 8)
    ledger = start(path)
    assert ledger.charged_steps() == 8
    ledger.charge(12)
    assert start(path).charged_steps() == 12

  def test_past_the_budget_is_refused_and_writes_nothing(self, path):
    ledger = start(path)
    ledger.charge(99)
    before = path.read_bytes()
    with pytest.raises(BudgetError, match=r'step 101 would exceed .* covers 100 steps') as caught:
      ledger.charge(101)
    assert f'epsilon {MECHANISM.epsilon():.4g} at delta 0.001' in str(caught.value)
    assert isinstance(caught.value, InputError)
    assert (path.read_bytes(), ledger.charged_steps()) == (before, 99)
    ledger.charge(100)
    with pytest.raises(BudgetError):
      start(path).charge(101)

  @pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left'), KeyboardInterrupt()])
  def test_a_disk_that_is_full_leaves_it_as_it_was(self, path, monkeypatch, error):
    ledger = start(path)
    ledger.charge(3)
    before = path.read_bytes()

    def fail(_: int) -> None:
      raise error

    with monkeypatch.context() as patch:
      patch.setattr(os, 'fsync', fail)
      with pytest.raises(type(error)):
        ledger.charge(6)
    assert (path.read_bytes(), ledger.charged_steps()) == (before, 3)
    ledger.charge(6)
    assert start(path).charged_steps() == 6

  def test_a_write_cut_short_leaves_it_as_it_was(self, path):
    # The kernel takes ten bytes of the line and refuses the rest: a limit on the size of files.
    before = charged(path, 3)
    code = """
      import os, resource
      path = sys.argv[1]
      ledger = open_ledger(path)
      limit = os.path.getsize(path) + 10
      resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
      try:
        ledger.charge(6)
      except OSError as error:
        print(error.errno, os.path.getsize(path), ledger.charged_steps())
      resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
      ledger.charge(7)
    """
    process = run(code, str(path))
    assert process.communicate()[0].split() == [str(errno.EFBIG), str(len(before)), '3']
    assert process.returncode == 0
    assert start(path).charged_steps() == 7

  def test_what_another_process_wrote_stops_it(self, path):
    ledger = start(path)
    ledger.charge(3)
    start(path).charge(6)  # no lock was held
    before = path.read_bytes()
    with pytest.raises(InputError, match='another process has written to it'):
      ledger.charge(7)
    assert (path.read_bytes(), ledger.charged_steps()) == (before, 3)
    path.unlink()
    with pytest.raises(FileNotFoundError):
      ledger.charge(7)
    assert not path.exists()

  def test_survives_kill_9(self, path):
    code = """
      ledger = open_ledger(sys.argv[1])
      for step in range(1, 101):
        ledger.charge(step)
        print(step, flush=True)  # the step is taken
        if step == 100:
          sys.stdin.read()
    """
    for kill_at in (7, 23, 60):
      process = run(code, str(path), stdin=subprocess.PIPE)
      taken = 0
      while taken < kill_at:
        taken = int(process.stdout.readline())
      process.send_signal(signal.SIGKILL)
      process.wait()
      # Through the same file object: what `readline` has read ahead is in its buffer.
      taken = max([taken, *map(int, process.stdout.read().split())])
      process.communicate()
      assert taken <= start(path).charged_steps() <= taken + 1
      path.unlink()


class TestDamage:
  def refused(self, path: pathlib.Path, *words: str, stages=None, fingerprint='f00d') -> None:
    content = path.read_bytes()
    with pytest.raises(InputError) as caught:
      start(path, stages, fingerprint)
    for word in (str(path), *words):
      assert word in str(caught.value)
    assert '\n' not in str(caught.value)
    assert path.read_bytes() == content

  def test_a_torn_last_line_is_dropped(self, path):
    whole = charged(path, 4, 8)
    kept = whole[: whole.rindex(b'\n', 0, -1) + 1]
    for cut in range(len(kept), len(whole) - 1):
      path.write_bytes(whole[:cut])
      ledger = start(path)
      assert ledger.charged_steps() == 4
      assert path.read_bytes() == kept
    ledger.charge(9)
    assert start(path).charged_steps() == 9

  def test_a_last_line_without_its_end_counts_and_gets_it(self, path):
    whole = charged(path, 4, 8)
    path.write_bytes(whole[:-1])
    ledger = start(path)
    assert ledger.charged_steps() == 8
    assert path.read_bytes() == whole
    ledger.charge(9)
    assert start(path).charged_steps() == 9

  def test_a_last_line_that_ends_in_another_byte_is_refused(self, path):
    # Dropped as torn, it would leave a ledger that charges less than was spent.
    whole = charged(path, 4, 8)
    for byte in range(256):
      path.write_bytes(whole[:-1] + bytes([byte]))
      if byte != ord('\n'):
        self.refused(path, 'damaged at line 3')
    path.write_bytes(whole)
    assert start(path).charged_steps() == 8

  @hypothesis.given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
  @hypothesis.settings(max_examples=300)
  def test_any_changed_byte_of_an_earlier_line_is_refused(self, tmp_path_factory, place, byte):
    path = tmp_path_factory.getbasetemp() / 'changed.jsonl'
    if not path.exists():
      path.with_suffix('.intact').write_bytes(charged(path, 4, 8, 12))
    content = bytearray(path.with_suffix('.intact').read_bytes())
    earlier = content.rindex(b'\n', 0, -1) + 1
    index = int(place * earlier)
    hypothesis.assume(content[index] != byte)
    content[index] = byte
    path.write_bytes(content)
    self.refused(path, 'damaged at line')

  def test_a_changed_last_line_is_refused(self, path):
    content = charged(path, 4, 8)
    path.write_bytes(content.replace(b'"up_to_step": 8', b'"up_to_step": 5'))
    self.refused(path, 'damaged at line 3', 'restore')

  def test_other_spelling_of_the_same_values_is_refused(self, path):
    # The hash covers the values; a byte that changes none of them is damage nevertheless.
    content = charged(path, 4)
    path.write_bytes(content.replace(b': ', b':\t', 1))
    self.refused(path, 'damaged at line 1')

  def test_lines_removed_exchanged_or_repeated_are_refused(self, path):
    lines = charged(path, 4, 8, 12).splitlines(keepends=True)
    for order in ((0, 2, 3), (0, 2, 1, 3), (0, 1, 1, 2, 3), (1, 2, 3), (0, 0)):
      path.write_bytes(b''.join(lines[i] for i in order))
      self.refused(path, 'damaged at line')

  @pytest.mark.parametrize('content', [b'', b'{', b'\n', b'[]\n', b'{}\n', b'\xff\n', b'null\n'])
  def test_other_files_are_refused(self, path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    self.refused(path, 'damaged')

  @pytest.mark.parametrize(
    'record',
    [
      {'stage': 'dp_sgd', 'up_to_step': 101},
      {'stage': 'dp_sgd', 'up_to_step': 10**12},  # whose ε would be computed
      {'stage': 'dp_sgd', 'up_to_step': -1},
      {'stage': 'dp_sgd', 'up_to_step': '7'},
      {'stage': 'dp_sgd', 'up_to_step': 7.5},
      {'stage': 'other', 'up_to_step': 7},
      {'stage': ['dp_sgd'], 'up_to_step': 7},
      {'up_to_step': 7},
      {'stage': 'dp_sgd'},
    ],
    ids=str,
  )
  def test_a_line_that_no_run_writes_is_refused_though_its_hash_is_right(self, path, record):
    content = charged(path, 5)
    line, _ = ledger_module._seal(record, json.loads(content.splitlines()[-1])['hash'])
    path.write_bytes(content + line.encode())
    with pytest.raises(InputError, match=str(path)):
      Ledger.read(path, stages=STAGES)

  @pytest.mark.parametrize('stages', [7, ['dp_sgd'], {'dp_sgd': 7}], ids=str)
  def test_a_beginning_that_no_run_writes_is_refused(self, path, stages):
    path.parent.mkdir()
    path.write_text(ledger_module._seal({'format': 1, 'stages': stages}, '')[0])
    with pytest.raises(InputError, match='another mechanism'):
      Ledger.read(path, stages=STAGES)

  def test_lost_lines_are_found_by_what_a_checkpoint_has_taken(self, path):
    content = charged(path, 4, 8)
    path.write_bytes(content[: content.rindex(b'\n', 0, -1) + 1])
    ledger = start(path)  # a whole ledger, as far as it can tell
    ledger.require_covers(4)
    with pytest.raises(InputError, match='charges 4 steps but a checkpoint has taken 8'):
      ledger.require_covers(8)

  @pytest.mark.parametrize(
    ('changes', 'words'),
    [
      ({'noise_multiplier': 5.0}, ('noise_multiplier', '6.0', '5.0')),
      ({'l2_clip_norm': 2.0}, ('l2_clip_norm', '1.0', '2.0')),
      ({'steps': 101}, ('steps', '100', '101')),
      ({'delta': 1e-4}, ('delta', '0.001', '0.0001')),
      ({'truncated_batch_size': 40}, ('truncated_batch_size', '40')),
      ({'neighboring_relation': 'replace_one'}, ('add_or_remove_one', 'replace_one')),
    ],
  )
  def test_another_mechanism_is_refused(self, path, changes, words):
    charged(path, 4)
    self.refused(path, *words, stages={'dp_sgd': dataclasses.replace(MECHANISM, **changes)})

  def test_another_data_set_is_refused(self, path):
    charged(path, 4)
    larger = DPMechanism.create(
      num_examples=201, batch_size=10, l2_clip_norm=1.0, noise_multiplier=6.0, steps=100, delta=1e-3
    )
    self.refused(path, 'num_examples is 200 there and 201 now', stages={'dp_sgd': larger})
    self.refused(path, 'the data set has the same size but other contents', fingerprint='beef')

  def test_other_stages_are_refused(self, path):
    charged(path, 4)
    two = {'dp_sgd': MECHANISM, 'other': MECHANISM}
    self.refused(path, "['dp_sgd'] there and ['dp_sgd', 'other'] now", stages=two)


class TestRead:
  def test_says_what_open_says_without_the_data(self, path):
    charged(path, 4, 8)
    ledger = Ledger.read(path, stages=STAGES)
    assert (ledger.charged_steps(), ledger.epsilon()) == (8, start(path).epsilon())
    with pytest.raises(ValueError, match='cannot charge'):
      ledger.charge(9)
    assert start(path).charged_steps() == 8

  def test_leaves_a_line_that_is_being_written(self, path):
    whole = charged(path, 4, 8)
    for cut in range(whole.rindex(b'\n', 0, -1) + 1, len(whole) + 1):
      path.write_bytes(whole[:cut])
      ledger = Ledger.read(path, stages=STAGES)
      assert ledger.charged_steps() == (4 if cut < len(whole) - 1 else 8)
      assert path.read_bytes() == whole[:cut]

  def test_refuses_what_open_refuses(self, path):
    with pytest.raises(InputError, match=r'expected a ledger at .*ledger\.jsonl, found none'):
      Ledger.read(path, stages=STAGES)
    whole = charged(path, 4, 8)
    with pytest.raises(InputError, match=r'noise_multiplier is 6\.0 there and 5\.0 now'):
      Ledger.read(path, stages={'dp_sgd': dataclasses.replace(MECHANISM, noise_multiplier=5.0)})
    path.write_bytes(whole.replace(b'"up_to_step": 8', b'"up_to_step": 5'))
    with pytest.raises(InputError, match='damaged at line 3'):
      Ledger.read(path, stages=STAGES)


class TestStages:
  def test_compose(self, path):
    count = DPMechanism.create(
      num_examples=200, batch_size=20, l2_clip_norm=1.0, noise_multiplier=9.0, steps=5, delta=1e-3
    )
    ledger = start(path, {'dp_sgd': MECHANISM, 'count': count})
    assert ledger.epsilon() == 0.0
    ledger.charge(30)
    ledger.charge(5, 'count')
    with pytest.raises(BudgetError, match='covers 5 steps'):
      ledger.charge(6, 'count')
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(MECHANISM.event(30)).compose(count.event(5))
    want = accountant.get_epsilon(1e-3)
    again = start(path, {'dp_sgd': MECHANISM, 'count': count})
    assert (again.charged_steps(), again.charged_steps('count')) == (30, 5)
    assert again.epsilon() == ledger.epsilon() == pytest.approx(want, rel=1e-6)
    assert again.epsilon() > MECHANISM.epsilon(30)

  def test_one_stage_is_its_mechanism(self, path):
    ledger = start(path)
    ledger.charge(30)
    assert ledger.epsilon() == MECHANISM.epsilon(30)
    assert ledger.epsilon(delta=1e-2) == MECHANISM.epsilon(30, delta=1e-2)

  @pytest.mark.parametrize(
    ('stages', 'words'),
    [
      ({}, 'at least one stage'),
      ({'a': MECHANISM, 'b': dataclasses.replace(MECHANISM, delta=1e-4)}, 'one delta'),
      (
        {'a': MECHANISM, 'b': dataclasses.replace(MECHANISM, neighboring_relation='replace_one')},
        'one neighboring_relation',
      ),
    ],
  )
  def test_that_do_not_fit_are_refused(self, path, stages, words):
    with pytest.raises(InputError, match=words):
      Ledger.open(path, stages=stages, data_fingerprint='f00d')
    assert not path.exists()

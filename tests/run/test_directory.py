"""The run directory: what is refused, the lock between processes, the configuration of a run."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap

import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.run.directory import RunDir

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> RunDir:
  return RunDir.open(tmp_path / 'runs' / 'x', create=True)


def one_line(info: pytest.ExceptionInfo[InputError]) -> str:
  assert '\n' not in str(info.value)
  return str(info.value)


# --- open


def test_every_place_is_inside_and_named_as_promised(run: RunDir) -> None:
  names = {
    run.config: 'config.json',
    run.ledger: 'ledger.jsonl',
    run.metrics: 'metrics.jsonl',
    run.report_json: 'report.json',
    run.report_markdown: 'report.md',
    run.samples_png: 'samples.png',
    run.samples(): 'samples.npz',
    run.losses_png: 'losses.png',
    run.grids: 'grids',
    run.checkpoints: 'checkpoints',
  }
  assert {path.parent for path in names} == {run.path}
  assert [path.name for path in names] == list(names.values())


def test_a_new_run_an_empty_directory_and_an_old_run_open(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a' / 'b' / 'c'
  run = RunDir.open(path, create=True)
  assert path.is_dir()
  assert list(path.iterdir()) == []
  RunDir.open(str(path), create=True).save_config({'seed': 1})
  run.metrics.write_text('')
  for create in (True, False):
    assert RunDir.open(path, create=create) == run


def test_a_run_killed_before_its_config_was_written_opens(run: RunDir) -> None:
  with run.lock():
    pass
  (run.path / '.config.json.a1b2.tmp').write_text('{"se')
  RunDir.open(run.path, create=True)
  with pytest.raises(InputError, match=r'has no config\.json'):
    RunDir.open(run.path, create=False)


def test_what_is_no_run_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'file'
  file.write_text('mine')
  other = tmp_path / 'photos'
  other.mkdir()
  (other / 'cat.png').write_bytes(b'mine')
  for create in (True, False):
    for path in (file, file / 'inside', other):
      with pytest.raises(InputError, match='expected run_dir') as info:
        RunDir.open(path, create=create)
      assert str(path) in one_line(info)
  with pytest.raises(InputError, match='missing, which does not exist'):
    RunDir.open(tmp_path / 'missing', create=False)
  assert not (tmp_path / 'missing').exists()
  assert file.read_text() == 'mine'
  assert [path.name for path in other.iterdir()] == ['cat.png']


def test_where_nothing_can_be_written_is_refused() -> None:
  # Root may write anywhere: as root the check runs in a process that gave its rights away.
  parent = pathlib.Path(tempfile.mkdtemp())
  try:
    (parent / 'run').mkdir()
    (parent / 'private').mkdir(mode=0o700)
    for path, mode in ((parent / 'run', 0o555), (parent, 0o555)):
      path.chmod(mode)
    if os.getuid() != 0:
      (parent / 'private').chmod(0)
    code = """
      import os, pathlib, sys
      from dpgan_jax.run.directory import RunDir
      from dpgan_jax._validate import InputError
      if os.getuid() == 0:
        os.setuid(65534)
      for name in ('new', 'run', 'private/new', 'private'):
        try:
          RunDir.open(pathlib.Path(sys.argv[1]) / name, create=True)
        except InputError as error:
          print(error)
    """
    result = run_python(code, str(parent))
    lines = result.stdout.splitlines()
    assert len(lines) == 4, result
    for line, name in zip(lines, ('new', 'run', 'private/new', 'private'), strict=True):
      assert line.startswith('expected run_dir')
      assert str(parent / name) in line
      assert 'Permission denied' in line or line.endswith('which cannot')
  finally:
    parent.chmod(0o755)
    (parent / 'private').chmod(0o700)
    shutil.rmtree(parent)


# --- lock


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


_HOLDER = """
  import sys, time
  from dpgan_jax.run.directory import RunDir
  with RunDir.open(sys.argv[1], create=True).lock():
    print('held', flush=True)
    sys.stdin.read()
"""


def start_holder(run: RunDir) -> subprocess.Popen[str]:
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(_HOLDER), str(run.path)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  assert process.stdout.readline() == 'held\n'
  return process


def test_a_second_process_is_refused_with_the_first_ones_pid(run: RunDir) -> None:
  with start_holder(run) as process:
    with pytest.raises(InputError, match=f'process with id {process.pid};') as info, run.lock():
      pytest.fail('the lock was given twice')
    assert str(run.path) in one_line(info)
    process.communicate('')
  with run.lock():
    assert (run.path / '.lock').read_text() == f'{os.getpid()}\n'


def test_kill_9_leaves_no_stale_lock(run: RunDir) -> None:
  with start_holder(run) as process:
    process.send_signal(signal.SIGKILL)
    process.wait()
  with run.lock():
    pass


def test_the_lock_is_exclusive_within_a_process_and_free_after_an_error(run: RunDir) -> None:
  with run.lock():
    with pytest.raises(InputError, match=f'id {os.getpid()};'), run.lock():
      pytest.fail('the lock was given twice')
    # The refused attempt did not take the lock along when it closed its file.
    with pytest.raises(InputError, match='in use'), run.lock():
      pytest.fail('the lock was given twice')
  with pytest.raises(RuntimeError, match='training failed'), run.lock():
    raise RuntimeError('training failed')
  with run.lock():
    pass


# --- configuration


def test_config_survives_and_is_sorted_readable_json(run: RunDir) -> None:
  config = {'seed': 3, 'epsilon': 0.1 + 0.2, 'betas': (0.5, 0.9), 'data_dir': None, 'name': 'ε'}
  run.save_config(config)
  assert run.load_config() == config | {'betas': [0.5, 0.9]}
  text = run.config.read_text()
  assert list(json.loads(text)) == sorted([*config, 'sha256'])
  assert text.startswith('{\n  "betas": [\n')
  assert stat.S_IMODE(run.config.stat().st_mode) == 0o644
  with pytest.raises(ValueError, match='JSON'):
    run.save_config({'epsilon': float('inf')})
  assert run.load_config()['seed'] == 3


@pytest.mark.parametrize('content', [b'', b'{"seed": 1', b'[1, 2]', b'\xff\xfe\x00', b'\0' * 20])
def test_a_corrupt_config_is_one_line(content: bytes, run: RunDir) -> None:
  with pytest.raises(InputError, match=r'found no config\.json'):
    run.load_config()
  run.config.write_bytes(content)
  with pytest.raises(InputError, match=r'config\.json to be') as info:
    run.load_config()
  one_line(info)


def test_a_changed_config_is_refused(run: RunDir) -> None:
  """Any bit of it: what is read is what was written, or nothing is."""
  run.save_config({'mechanism': {'noise_multiplier': 1.25}, 'config': {'name': 'a b', 'ema': None}})
  content, written = run.config.read_bytes(), run.load_config()
  refused = []
  for index in range(len(content)):
    for bit in range(8):
      changed = bytearray(content)
      changed[index] ^= 1 << bit
      run.config.write_bytes(changed)
      try:
        assert run.load_config() == written  # white space
      except InputError as error:
        refused.append(str(error))
  assert len(refused) > 0.8 * 8 * len(content)
  assert all(str(run.config) in message and '\n' not in message for message in refused)
  record = json.loads(content)
  del record['sha256']
  run.config.write_text(json.dumps(record))  # as version 0.1 wrote it
  assert run.load_config() == written


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_full_disk_leaves_the_old_config_or_none(
  call: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  def full(*_: object) -> None:
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(os, call, full)
    with pytest.raises(OSError, match='No space left'):
      run.save_config({'seed': 1})
  assert list(run.path.iterdir()) == []
  run.save_config({'seed': 1})
  with monkeypatch.context() as patch:
    patch.setattr(os, call, full)
    with pytest.raises(OSError, match='No space left'):
      run.save_config({'seed': 2})
  assert run.load_config() == {'seed': 1}
  assert [path.name for path in run.path.iterdir()] == ['config.json']


def test_another_configuration_is_refused_with_every_difference(run: RunDir) -> None:
  now = {'batch_size': 256, 'seed': 1, 'name': 'a', 'ema': None, 'betas': (0.5, 0.9)}
  run.save_config({'batch_size': 128, 'seed': 1, 'name': 'b', 'old': 2, 'betas': (0.5, 0.9)})
  saved = run.load_config()
  with pytest.raises(InputError) as info:
    run.check_same_config(saved, now)
  assert one_line(info) == (
    f'run directory {run.path} belongs to another run: batch_size is 128 there and 256 now,'
    ' ema is absent there and null now, name is "b" there and "a" now,'
    ' old is 2 there and absent now; use another --run_dir or the same flags'
  )
  run.check_same_config(saved, saved)


def test_of_what_is_long_only_what_differs_is_said(run: RunDir) -> None:
  def data(count: int, *upper: int) -> dict:
    columns = [{'name': f'c{i}', 'upper': each} for i, each in enumerate(upper)]
    return {'data': {'num_records': count, 'schema': {'columns': columns, 'target': None}}}

  for now, said in (
    (data(6, 1, 2), 'data.num_records is 5 there and 6 now;'),
    (data(5, 1, 3), 'data.schema.columns.1.upper is 2 there and 3 now;'),
    (data(5, 1), r'columns.1.name is "c1" there and absent now, .*columns.1.upper'),
    (data(5, *range(30)), 'and 50 more;'),
  ):
    with pytest.raises(InputError, match=f'another run: .*{said}'):
      run.check_same_config(data(5, 1, 2), now)

"""What a user sees when a command, a process of its own, goes wrong: one line and a status."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dpgan_jax import _cli, _flag_files, _log, _progress, _validate, train
from dpgan_jax.models.config import TrainConfig
from tests.support import commands

COMMAND = """
from __future__ import annotations

import dataclasses
import time

from absl import flags

from dpgan_jax import _cli, _interrupts, _settings, _validate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  count: int = _settings.field(3, 'How many.', group='amount', common=True, minimum=1)
  cap: int | None = _settings.field(None, 'At most.', group='amount', minimum=1)
  rate: float = _settings.field(0.5, 'How fast.', group='speed', above=0)
  end: float | None = _settings.field(
    None, 'How fast at last.', group='speed', common=True, above=0, maximum=float('inf')
  )
  name: str = _settings.field('x', 'What it is called.')
  kind: str = _settings.field('npz', 'Of file.', choices=('npz', 'png'))
  loud: bool = _settings.field(False, 'Say more.')
  parts: tuple[str, ...] | None = _settings.field(None, 'Only these.', choices=('a', 'b'))

  __post_init__ = _settings.check


def main():
{body}


_cli.define_flags(Settings)
_cli.run(main, interrupted='Run it again.')
"""


@pytest.fixture
def script(tmp_path):
  """Writes a command whose `main` is the body given, and returns how to start it."""

  def write(body: str) -> list[str]:
    path = tmp_path / 'command.py'
    path.write_text(COMMAND.format(body=textwrap.indent(body, '  ')), encoding='utf-8')
    return [sys.executable, str(path)]

  return write


@pytest.fixture(autouse=True)
def package_on_the_path(monkeypatch, request):
  monkeypatch.setenv('PYTHONPATH', str(request.config.rootpath))


@pytest.fixture(scope='module')
def forked() -> Iterator[Callable[..., tuple[int, str, str]]]:
  """Like `outcome`, of a script, without the second in which each process imports the same."""
  running = commands.Command('tests.support.run_file', 'dpgan_jax._cli', 'jax')
  yield lambda command, *arguments: running(command[-1], *arguments)
  running.close()


def outcome(command: list[str], *arguments: str) -> tuple[int, str, str]:
  done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
  return done.returncode, done.stdout, done.stderr


SHOW = '''\
given, usual = vars(_cli.config_from_flags(Settings)), vars(Settings())
print({name: value for name, value in given.items() if value != usual[name]})
'''


def test_flags_become_settings(script, forked, tmp_path):
  """With their types; a flag file may have comments, and the command line wins."""
  flagfile = tmp_path / 'f.flags'
  flagfile.write_text('# what it is for\n--count=9\n\n--name=y\n--rate=2\n')
  status, out, err = forked(script(SHOW), f'--flagfile={flagfile}', '--end=inf', '--name=5')
  assert (status, err) == (0, '')
  assert out == "{'count': 9, 'rate': 2.0, 'end': inf, 'name': '5'}\n"


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--cuont=3'], "error: Unknown command line flag 'cuont'. Did you mean: count ?"),
    (['--count=1.5'], "error: flag --count=1.5: invalid literal for int()"),
    (['--rate=fast'], 'error: flag --rate=fast: could not convert string to float'),
    (['--flagfile=nowhere.flags'], 'error: flag file nowhere.flags does not exist'),
    (['-flagfile', '/dev/zero'], 'error: flag file /dev/zero is no regular file'),
    (['count=3'], "error: expected flags only (--name=value), got 'count=3'"),
    # Whether or not the command looks at them.
    (['--count=0'], 'error: expected count >= 1, got 0'),
    (['--kind=jpg'], "error: expected kind to be one of npz, png; got 'jpg'"),
    (['--parts=a,c'], "error: expected parts to be one of a, b; got 'c'"),
  ],
  ids=str,
)
def test_wrong_flags_are_one_line_and_status_2(script, forked, arguments, message):
  status, out, err = forked(script("print('main')"), *arguments)
  assert (status, out) == (2, '')
  assert err.startswith(message)
  assert err.count('\n') == 1


def test_a_flag_of_a_very_long_name_is_unknown_like_any_other():
  with pytest.raises(_validate.InputError, match='unknown flag'):
    _cli.parse(['command', f'--{"x" * 2000}=1'])


class TestFlagFiles:
  """Whatever is in them, they are read in bounded time or refused in one line."""

  def refused(self, path, *words):
    with pytest.raises(_validate.InputError) as caught:
      _cli.parse(['command', f'--flagfile={path}'])
    for word in (str(path), *words):
      assert word in str(caught.value)

  def test_what_is_no_text_or_too_long(self, tmp_path):
    (tmp_path / 'bytes').write_bytes(b'--x=\xff\xfe')
    self.refused(tmp_path / 'bytes', 'UTF-8')
    (tmp_path / 'long').write_bytes(b'#' * (_flag_files._MOST_BYTES + 1))
    self.refused(tmp_path / 'long', 'at most')
    self.refused(tmp_path, 'no regular file')
    self.refused('~nobody_of_this_name/x', 'does not exist')

  def test_files_that_include_each_other_by_ever_other_names(self, tmp_path):
    """Twelve spellings of one name escape absl's check for circles: 12! readings."""
    path = tmp_path / 'a'
    path.write_text(''.join(f'--flagfile={tmp_path}/{"./" * n}a\n' for n in range(12)))
    with pytest.raises(_validate.InputError, match='at most 50 flag files'):
      _cli.parse(['command', f'--flagfile={path}'])

  def test_nested_files_are_read(self, script, forked, tmp_path):
    (tmp_path / 'inner').write_text('--count=9\n')
    (tmp_path / 'outer').write_text(f'--flagfile={tmp_path}/inner\n--name=y\n')
    status, out, err = forked(script(SHOW), '--flagfile', str(tmp_path / 'outer'))
    assert (status, err) == (0, '')
    assert out == "{'count': 9, 'name': 'y'}\n"


ASCII = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


class TestEnvironment:
  """Terminals without letters, other locales and time zones, paths with spaces and umlauts."""

  @pytest.mark.parametrize(
    ('environment', 'shown'),
    [
      ({'PYTHONIOENCODING': 'ascii'}, 'epsilon >= 1 \\u306e Zoom'),
      ({'PYTHONIOENCODING': 'cp1252'}, 'epsilon >= 1 \\u306e Zoom'),
      ({'PYTHONIOENCODING': 'utf-8'}, 'ε ≥ 1 の Zoom'),
      ({'TZ': 'Pacific/Kiritimati', **ASCII}, 'epsilon >= 1 \\u306e Zoom'),
    ],
    ids=str,
  )
  @pytest.mark.slow  # cosmetic
  def test_a_terminal_without_a_letter_shows_it_in_others(
    self, script, monkeypatch, environment, shown
  ):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    body = "print('ε ≥ 1 の Zoom')\nraise _validate.InputError('ε ≥ 1 の Zoom')"
    status, out, err = outcome(script(body))
    assert (status, out, err) == (2, f'{shown}\n', f'error: {shown}\n')

  @pytest.mark.slow
  def test_help_too(self, monkeypatch):
    for name, value in ASCII.items():
      monkeypatch.setenv(name, value)
    status, out, err = outcome([sys.executable, '-m', 'dpgan_jax.train'], '--help')
    assert 'Privacy budget epsilon; inf trains' in ' '.join(out.split())
    assert (status, err) == (0, '')

  def test_flag_files_are_utf_8_everywhere(self, script, tmp_path, monkeypatch):
    for name, value in ASCII.items():
      monkeypatch.setenv(name, value)
    (tmp_path / 'größe mit Raum').write_text('# ε\n--name=köln\n', encoding='utf-8')
    body = "assert flags.FLAGS.name == 'k\\u00f6ln'\nprint('read')"
    status, out, err = outcome(script(body), f'--flagfile={tmp_path}/größe mit Raum')
    assert (status, out, err) == (0, 'read\n', '')

  @pytest.mark.slow  # cosmetic
  def test_home_is_short_in_every_flag(self, script, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.flags').write_text('--name=~/eps2\n')
    for arguments in (['--name=~/eps2'], ['--flagfile=~/a.flags'], ['--flagfile', '~/a.flags']):
      _, out, err = outcome(script(SHOW), *arguments)
      assert out == f"{{'name': '{tmp_path}/eps2'}}\n", err
    _, out, _ = outcome(script(SHOW), '--name=~nobody_of_this_name/x')
    assert out == "{'name': '~nobody_of_this_name/x'}\n"

  def test_arguments_after_two_dashes_are_no_flags(self, script, forked):
    status, _, err = forked(script(SHOW), '--', '--flagfile=nowhere')
    assert (status, err.count('\n')) == (2, 1)
    assert "expected flags only (--name=value), got '--flagfile=nowhere'" in err


def test_help_shows_the_few_flags_that_matter_and_helpfull_all(script, forked):
  """By groups, with range, choices and default; asking for help is no failure."""
  status, few, err = forked(script(SHOW), '--help')
  assert (status, err) == (0, '')
  assert 'Amount:\n  --count: How many. (a whole number >= 1; default: 3)\n' in few
  assert 'Speed:\n  --end: How fast at last. (> 0)\n' in few
  assert '--cap' not in few
  assert few.endswith('--helpfull shows 6 more flags.\n')
  status, full, err = forked(script(SHOW), '--helpfull')
  assert (status, err) == (0, '')
  assert 'default: 3)\n  --cap: At most. (a whole number >= 1)\n\nSpeed:\n  --rate: ' in full
  assert '--kind: Of file. (npz, png; default: npz)\n' in full
  assert '--[no]loud: Say more. (default: false)\n' in full
  assert 'Absl:\n' in full


@pytest.mark.parametrize(
  ('body', 'status', 'message'),
  [
    (
      "_validate.positive('rate', -1.0)",
      2,
      'error: expected rate > 0, got -1.0\n',
    ),
    (
      "open('missing/file', 'w')",
      1,
      "error: [Errno 2] No such file or directory: 'missing/file'\n",
    ),
    (r"raise OSError(5, 'bad\n\x1b[2Jdisk')", 1, 'error: [Errno 5] bad\\n\\x1b[2Jdisk\n'),
    ("raise MemoryError('Unable to allocate 9 EiB')", 1,
     'error: not enough memory: Unable to allocate 9 EiB\n'),
    ('raise KeyboardInterrupt', 130, 'error: interrupted. Run it again.\n'),
  ],
  ids=['bad input', 'file system', 'control characters', 'memory', 'Ctrl-C'],
)  # fmt: skip
def test_expected_failures_are_one_line(script, forked, body, status, message):
  assert forked(script(body)) == (status, '', message)


class TestLogFile:
  def test_has_all_that_is_shown_and_progress_in_lines(self, script, forked, tmp_path):
    body = """\
from dpgan_jax import _progress
print('out')
progress = _progress.TrainingProgress(10, 0, 1.0, 'cpu')
progress.update(5, 0.5)
progress.close()
_progress.WorkProgress().update('features', 0.5)
raise _validate.InputError('expected more')"""
    log = tmp_path / 'log.txt'
    for arguments in ([], ['--quiet']):
      status, out, err = forked(script(body), f'--log_file={log}', *arguments)
      assert (status, out) == (2, 'out\n')
    assert err == 'error: expected more\n'  # when quiet
    lines = log.read_text('utf-8').splitlines()
    assert all(re.match(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ', line) for line in lines)
    half = len(lines) // 2
    for shown in ([line[20:] for line in lines[:half]], [line[20:] for line in lines[half:]]):
      assert shown[0].startswith('dpgan_jax ')
      assert 'command.py --log_file=' in shown[0]
      assert shown[1] == 'out'
      assert shown[2].startswith('step 5/10 (50 %), ')
      assert shown[2].endswith(', ε=0.5000 / 1, cpu')
      assert shown[3].startswith(' 50% features')
      assert shown[4:] == ['error: expected more']

  def test_of_a_terminal_has_lines_in_the_place_of_a_bar(self, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    monkeypatch.setattr(_log, '_file', None)  # and is given back
    _log.keep(str(tmp_path / 'log.txt'), 'about')
    progress = _progress.TrainingProgress(10, 0, 1.0, 'cpu')
    progress.update(5, 0.5)
    progress.close()
    work = _progress.WorkProgress()
    for share in (0.1, 0.2):
      work.update('features', share)
    work.close()
    lines = [line[20:] for line in (tmp_path / 'log.txt').read_text('utf-8').splitlines()]
    assert lines[0] == 'about'
    assert '5/10' in lines[1]  # the bar as it stands in the end
    assert lines[2].startswith('step 5/10 (50 %)')
    assert lines[3].startswith(' 10% features')
    assert lines[4].startswith('100% done')
    assert len(lines) == 5
    assert '\r' in terminal.getvalue()

  def test_that_cannot_be_written_is_bad_input(self, script, forked, tmp_path):
    status, out, err = forked(script('print(1)'), f'--log_file={tmp_path}/nowhere/log.txt')
    assert (status, out) == (2, '')
    assert 'expected log_file to be a file' in err
    assert err.count('\n') == 1


@pytest.mark.parametrize('arguments', [['--help'], pytest.param([], marks=pytest.mark.slow)])
def test_who_has_read_enough_is_no_failure_to_tell_of(script, arguments):
  """`dpgan-jax train --help | head` closes the pipe early."""
  reading, writing = os.pipe()
  os.close(reading)
  command = [*script('print(1)'), *arguments]
  done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
  os.close(writing)
  assert (done.returncode, done.stderr) == (141, '')


def test_a_bug_keeps_its_traceback(script):
  status, _, err = outcome(script('[][0]'))
  assert status == 1
  assert 'Traceback (most recent call last)' in err
  assert 'IndexError: list index out of range' in err


@pytest.mark.parametrize(
  ('number', 'status', 'message'),
  [
    pytest.param(
      signal.SIGTERM, 143, 'error: terminated. Run it again.\n', marks=pytest.mark.slow
    ),
    (signal.SIGINT, 130, 'error: interrupted. Run it again.\n'),
  ],
)
def test_signals_end_cleanly_with_a_hint(script, number, status, message):
  """The `finally` blocks of `main` run: a checkpoint being written is completed or removed."""
  body = """\
try:
  print('ready', flush=True)
  time.sleep(600)
finally:
  print('cleaned up', flush=True)
"""
  process = subprocess.Popen(
    script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  assert process.stdout is not None
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  out, err = process.communicate()
  assert (process.returncode, out, err) == (status, 'cleaned up\n', message)


def test_every_field_of_a_run_has_a_flag_of_its_type_and_help(own_flags):
  _cli.define_flags(TrainConfig)
  given = {
    field.name: {int: '3', float: '0.5', str: 'x'}[
      {'int': int, 'float': float, 'str': str}[str(field.type).removesuffix(' | None')]
    ]
    for field in dataclasses.fields(TrainConfig)
  }
  own_flags(['command', *(f'--{name}={value}' for name, value in given.items())])
  for field in dataclasses.fields(TrainConfig):
    flag = own_flags[field.name]
    assert (flag.default, flag.help) == (field.default, field.metadata['help'])
    assert str(flag.value) == given[field.name]
    assert type(flag.value).__name__ == str(field.type).removesuffix(' | None')


@pytest.fixture
def parsed(own_flags):
  """Parses a command line of `dpgan_jax.train`; returns the values of its flags by name."""
  train.define_flags()

  def parse(*arguments: str) -> dict[str, Any]:
    own_flags.unparse_flags()
    _cli.parse(['train', *arguments])
    return {name: own_flags[name].value for name in own_flags}

  return parse


def test_flags_of_a_run_become_its_settings(parsed):
  parsed('--target_epsilon=inf', '--epochs=3', '--generator=report_conditional')
  assert _cli.config_from_flags(TrainConfig) == TrainConfig(
    target_epsilon=math.inf, epochs=3.0, generator='report_conditional'
  )


def test_what_a_flag_file_gave_can_be_taken_back_where_nothing_may_stand(parsed, tmp_path):
  file = tmp_path / 'run.flags'
  file.write_text('--label_share=0.3\n--steps=7\n--batch_size=5\n')
  found = parsed(f'--flagfile={file}', '--label_share=none', '--steps=none')
  assert (found['label_share'], found['steps'], found['batch_size']) == (None, None, 5)
  with pytest.raises(_validate.InputError, match='batch_size=none'):
    parsed('--batch_size=none')


class TestWhichFlagWins:
  """The command line over files wherever it names them; among files, what stands later."""

  @pytest.fixture
  def files(self, tmp_path):
    (tmp_path / 'inner').write_text('--steps=2\n--batch_size=2\n')
    inner = f'--flagfile={tmp_path}/inner'
    (tmp_path / 'before').write_text(f'--steps=1\n{inner}\n')
    (tmp_path / 'after').write_text(f'{inner}\n--steps=1\n')
    return tmp_path

  @pytest.mark.parametrize(
    'arguments',
    [
      ['--steps=9', '--flagfile={}/inner'],
      ['--flagfile={}/inner', '--steps=9'],
      ['--steps', '9', '--flagfile', '{}/inner'],
      ['--flagfile={}/before', '--steps=9', '--flagfile={}/after'],
    ],
  )
  def test_the_command_line(self, parsed, files, arguments):
    found = parsed(*(argument.format(files) for argument in arguments))
    assert (found['steps'], found['batch_size']) == (9, 2)

  @pytest.mark.parametrize(
    ('names', 'steps'),
    [(['before'], 2), (['after'], 1), (['before', 'after'], 1), (['after', 'before'], 2)],
  )
  def test_what_stands_later_in_files(self, parsed, files, names, steps):
    assert parsed(*(f'--flagfile={files}/{name}' for name in names))['steps'] == steps


class TestWhereFlagFilesAre:
  """Here, or else in the checkout that the package is imported from."""

  NAME = 'experiments/eps2.flags'

  def test_found_from_any_directory(self, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parsed(f'--flagfile={self.NAME}')
    assert (found['target_epsilon'], found['dataset']) == (2.0, 'mnist')  # the latter: included

  def test_those_here_come_first(self, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments').mkdir()
    (tmp_path / self.NAME).write_text('--target_epsilon=3\n')
    found = parsed(f'--flagfile={self.NAME}')
    assert (found['target_epsilon'], found['dataset']) == (3.0, 'digits')

  def test_one_that_is_nowhere_is_named_with_both_places(self, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(_validate.InputError) as caught:
      parsed('--flagfile=experiments/eps3.flags')
    checkout = pathlib.Path(__file__).parents[1]
    assert str(caught.value) == (
      f'flag file experiments/eps3.flags does not exist, neither in {tmp_path} nor in {checkout}'
    )
    with pytest.raises(_validate.InputError, match=r'/eps3\.flags does not exist$'):
      parsed(f'--flagfile={tmp_path}/eps3.flags')


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.4, '0 s'),
    (59.6, '1 min 0 s'),
    (95.0, '1 min 35 s'),
    (3600.0, '1 h 0 min'),
    (7384.0, '2 h 3 min'),
    (math.inf, 'unknown'),
    (math.nan, 'unknown'),
  ],
)
def test_duration(seconds, text):
  assert _progress.duration(seconds) == text


SWALLOWED = """
import gc
def callback(phase, info):
  if phase == 'start':
    print('ready', flush=True)
    time.sleep(600)  # the signal arrives here, where its exception is dropped
gc.callbacks.append(callback)
gc.collect()
gc.callbacks.remove(callback)
time.sleep(600)
"""


@pytest.mark.parametrize(('number', 'status'), [
  (signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_signal_whose_exception_is_dropped_still_ends_the_command(script, number, status):
  pipe = subprocess.PIPE
  process = subprocess.Popen(script(SWALLOWED), stdout=pipe, stderr=pipe, text=True)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  _, err = process.communicate()
  assert process.returncode == status
  assert err.endswith('Run it again.\n')
  assert 'ignored' not in err  # what Python says of an exception that it drops


COMPUTING = """
import hashlib, threading
def say():
  time.sleep(0.5)  # by then the main thread is within the library
  print('ready', flush=True)
threading.Thread(target=say).start()
hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)
"""


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (
      "_interrupts.working_on('steps 1 to 3')\n",
      'Ctrl-C: stops after steps 1 to 3, which cannot be cut short\n',
    ),
    pytest.param(
      '', 'Ctrl-C: stops after a computation, which cannot be cut short\n',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_what_holds_up_a_signal_is_said_at_once(script, body, message):
  """A library computes for seconds, and Python hears nothing meanwhile."""
  body += COMPUTING
  pipe = subprocess.PIPE
  process = subprocess.Popen(script(body), stdout=pipe, stderr=pipe, text=True)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  try:
    assert process.stderr.readline() == message
    assert process.poll() is None
  finally:
    process.kill()
    process.communicate()


def test_what_was_interrupted_is_named(script):
  body = "_interrupts.working_on('steps 1 to 3')\nraise KeyboardInterrupt"
  expected = 'error: interrupted at steps 1 to 3. Run it again.\n'
  assert outcome(script(body)) == (130, '', expected)


ENDLESS = """
import jax
import jax.numpy as jnp
from dpgan_jax.run import loop
long = jax.jit(lambda x: jax.lax.fori_loop(0, 10**9, lambda _, x: jnp.tanh(x @ x), x))
ended = long(jnp.ones((300, 300)))
print('ready', flush=True)
loop._wait_interruptibly(ended, time.monotonic())
"""


@pytest.mark.slow  # the tests above interrupt, too
def test_steps_that_a_device_is_at_do_not_hold_up_the_end(script):
  """JAX waits for them when the interpreter ends: here, for days."""
  pipe = subprocess.PIPE
  process = subprocess.Popen(script(ENDLESS), stdout=pipe, stderr=pipe, text=True)
  try:
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert (process.returncode, err) == (130, 'error: interrupted. Run it again.\n')

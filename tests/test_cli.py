"""What a user sees when a command, a process of its own, goes wrong: one line and a status."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import textwrap

import pytest
from absl import flags

from dpgan_jax import _cli, _progress, _validate
from dpgan_jax.models.config import TrainConfig

COMMAND = """
from __future__ import annotations

import dataclasses
import time

from absl import flags

from dpgan_jax import _cli, _validate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  count: int = dataclasses.field(default=3, metadata={{'help': 'How many.'}})
  cap: int | None = dataclasses.field(default=None, metadata={{'help': 'At most.'}})
  rate: float = dataclasses.field(default=0.5, metadata={{'help': 'How fast.'}})
  end: float | None = dataclasses.field(default=None, metadata={{'help': 'How fast at last.'}})
  name: str = dataclasses.field(default='x', metadata={{'help': 'What it is called.'}})


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


def outcome(command: list[str], *arguments: str) -> tuple[int, str, str]:
  done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
  return done.returncode, done.stdout, done.stderr


SHOW = 'print(_cli.config_from_flags(Settings))'


def test_flags_become_settings(script, tmp_path):
  """With their types; a flag file may have comments, and later flags win."""
  flagfile = tmp_path / 'f.flags'
  flagfile.write_text('# what it is for\n--count=9\n\n--name=y\n--rate=2\n')
  status, out, err = outcome(script(SHOW), f'--flagfile={flagfile}', '--end=inf', '--name=5')
  assert (status, err) == (0, '')
  assert out == "Settings(count=9, cap=None, rate=2.0, end=inf, name='5')\n"


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--cuont=3'], "error: Unknown command line flag 'cuont'. Did you mean: count ?"),
    (['--count=1.5'], "error: flag --count=1.5: invalid literal for int()"),
    (['--rate=fast'], 'error: flag --rate=fast: could not convert string to float'),
    (['--flagfile=nowhere.flags'], 'error: flag file nowhere.flags does not exist'),
    (['-flagfile', '/dev/zero'], 'error: flag file /dev/zero is no regular file'),
    (['count=3'], "error: expected flags only (--name=value), got 'count=3'"),
  ],
  ids=str,
)
def test_wrong_flags_are_one_line_and_status_2(script, arguments, message):
  status, out, err = outcome(script(SHOW), *arguments)
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
    (tmp_path / 'long').write_bytes(b'#' * (_cli._MAX_FLAG_FILE_BYTES + 1))
    self.refused(tmp_path / 'long', 'at most')
    self.refused(tmp_path, 'no regular file')
    self.refused('~nobody_of_this_name/x', 'does not exist')

  def test_files_that_include_each_other_by_ever_other_names(self, tmp_path):
    """Twelve spellings of one name escape absl's check for circles: 12! readings."""
    path = tmp_path / 'a'
    path.write_text(''.join(f'--flagfile={tmp_path}/{"./" * n}a\n' for n in range(12)))
    with pytest.raises(_validate.InputError, match='at most 50 flag files'):
      _cli.parse(['command', f'--flagfile={path}'])

  def test_nested_files_are_read(self, script, tmp_path):
    (tmp_path / 'inner').write_text('--count=9\n')
    (tmp_path / 'outer').write_text(f'--flagfile={tmp_path}/inner\n--name=y\n')
    status, out, err = outcome(script(SHOW), '--flagfile', str(tmp_path / 'outer'))
    assert (status, err) == (0, '')
    assert out == "Settings(count=9, cap=None, rate=0.5, end=None, name='y')\n"


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
  def test_a_terminal_without_a_letter_shows_it_in_others(
    self, script, monkeypatch, environment, shown
  ):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    body = "print('ε ≥ 1 の Zoom')\nraise _validate.InputError('ε ≥ 1 の Zoom')"
    status, out, err = outcome(script(body))
    assert (status, out, err) == (2, f'{shown}\n', f'error: {shown}\n')

  def test_help_too(self, monkeypatch):
    for name, value in ASCII.items():
      monkeypatch.setenv(name, value)
    _, out, err = outcome([sys.executable, '-m', 'dpgan_jax.train'], '--help')
    assert 'Privacy budget epsilon; inf trains' in ' '.join(out.split())
    assert err == ''

  def test_flag_files_are_utf_8_everywhere(self, script, tmp_path, monkeypatch):
    for name, value in ASCII.items():
      monkeypatch.setenv(name, value)
    (tmp_path / 'größe mit Raum').write_text('# ε\n--name=köln\n', encoding='utf-8')
    body = "assert flags.FLAGS.name == 'k\\u00f6ln'\nprint('read')"
    status, out, err = outcome(script(body), f'--flagfile={tmp_path}/größe mit Raum')
    assert (status, out, err) == (0, 'read\n', '')

  def test_home_is_short_in_every_flag(self, script, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.flags').write_text('--name=~/eps2\n')
    for arguments in (['--name=~/eps2'], ['--flagfile=~/a.flags'], ['--flagfile', '~/a.flags']):
      _, out, err = outcome(script(SHOW), *arguments)
      assert f"name='{tmp_path}/eps2'" in out, err
    _, out, _ = outcome(script(SHOW), '--name=~nobody_of_this_name/x')
    assert "name='~nobody_of_this_name/x'" in out

  def test_arguments_after_two_dashes_are_no_flags(self, script):
    status, _, err = outcome(script(SHOW), '--', '--flagfile=nowhere')
    assert (status, err.count('\n')) == (2, 1)
    assert "expected flags only (--name=value), got '--flagfile=nowhere'" in err


def test_help_lists_the_settings(script):
  _, out, err = outcome(script(SHOW), '--help')
  assert '--count: How many.' in out
  assert '--end: How fast at last.' in out
  assert err == ''


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
def test_expected_failures_are_one_line(script, body, status, message):
  assert outcome(script(body)) == (status, '', message)


def test_a_bug_keeps_its_traceback(script):
  status, _, err = outcome(script('[][0]'))
  assert status == 1
  assert 'Traceback (most recent call last)' in err
  assert 'IndexError: list index out of range' in err


@pytest.mark.parametrize(
  ('number', 'status', 'message'),
  [
    (signal.SIGTERM, 143, 'error: terminated. Run it again.\n'),
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


@pytest.fixture
def fresh_flags(monkeypatch):
  """Absl's flags are global; a test defines its own and leaves the others alone."""
  values = flags.FlagValues()
  for kind in ('integer', 'float', 'string'):
    define = getattr(flags, f'DEFINE_{kind}')
    monkeypatch.setattr(
      flags,
      f'DEFINE_{kind}',
      lambda name, default, text, define=define: define(name, default, text, flag_values=values),
    )
  monkeypatch.setattr(flags, 'FLAGS', values)
  return values


def test_every_field_of_a_run_has_a_flag_of_its_type_and_help(fresh_flags):
  _cli.define_flags(TrainConfig)
  given = {
    field.name: {int: '3', float: '0.5', str: 'x'}[
      {'int': int, 'float': float, 'str': str}[str(field.type).removesuffix(' | None')]
    ]
    for field in dataclasses.fields(TrainConfig)
  }
  fresh_flags(['command', *(f'--{name}={value}' for name, value in given.items())])
  for field in dataclasses.fields(TrainConfig):
    flag = fresh_flags[field.name]
    assert (flag.default, flag.help) == (field.default, field.metadata['help'])
    assert str(flag.value) == given[field.name]
    assert type(flag.value).__name__ == str(field.type).removesuffix(' | None')


def test_flags_of_a_run_become_its_settings(fresh_flags):
  _cli.define_flags(TrainConfig)
  fresh_flags(['train', '--target_epsilon=inf', '--epochs=3', '--generator=report_conditional'])
  assert _cli.config_from_flags(TrainConfig) == TrainConfig(
    target_epsilon=math.inf, epochs=3.0, generator='report_conditional'
  )


def test_what_a_flag_file_gave_can_be_taken_back_where_nothing_may_stand(fresh_flags, tmp_path):
  _cli.define_flags(TrainConfig)
  file = tmp_path / 'run.flags'
  file.write_text('--label_share=0.3\n--steps=7\n--batch_size=5\n')
  fresh_flags(['train', f'--flagfile={file}', '--label_share=none', '--steps=none'])
  assert (fresh_flags.label_share, fresh_flags.steps, fresh_flags.batch_size) == (None, None, 5)
  with pytest.raises(flags.IllegalFlagValueError, match='batch_size=none'):
    fresh_flags(['train', '--batch_size=none'])


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


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_whose_exception_is_dropped_still_ends_the_command(script, number, status):
  pipe = subprocess.PIPE
  process = subprocess.Popen(script(SWALLOWED), stdout=pipe, stderr=pipe, text=True)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  _, err = process.communicate()
  assert process.returncode == status
  assert err.endswith('Run it again.\n')

"""What others found is run again, and told right from wrong."""

from __future__ import annotations

import json
import types

import pytest

from dpgan_jax._validate import InputError
from experiments.trust import strangers

REFUSAL = 'Traceback ...\ndpgan_jax._validate.InputError: expected {}\n'

# Case ↦ (what it printed when it was found, what it prints where all is well).
OUTPUTS = {
  'bf16_scan': ('optax ok\nours TypeError The input carry component c', 'optax ok\nours ok'),
  'complex_leaves': (
    "norms [0.] sum {'w': Array([0., 0.], dtype=float32)}\n"
    'noise std on the REAL leaf 0.70801395 float32',
    "norms [5.] sum {'w': Array([0.+0.6j, 0.+0.8j], dtype=complex64)}\n"
    'noise std on the REAL leaf 1.0013 float32',
  ),
  'long_sequence': (
    'auto norm 1500.9329 of 1500.9330431434976 ; length of clipped sum 1.0\n'
    'ghost norm 2122.640380859375 of 1500.9330431434976 ; length of clipped sum 0.7071065902709961',
    'auto norm 1500.9329 of 1500.9330431434976 ; length of clipped sum 1.0\n'
    'ghost norm 1500.94 of 1500.9330431434976 ; length of clipped sum 0.9999987',
  ),
  'multi_steps': (
    'use_grad_mean True k micro: update mean 0.99 std of noise 0.2506 => noise/signal 0.2509\n'
    'use_grad_mean False k micro: update mean 7.99 std of noise 0.2506 => noise/signal 0.03133\n'
    'one big batch of the same 0.99985814 0.031329118 0.031333562',
    'use_grad_mean True k micro: update mean 0.99 std of noise 0.0313 => noise/signal 0.03133\n'
    'use_grad_mean False k micro: update mean 0.99 std of noise 0.0313 => noise/signal 0.03133\n'
    'one big batch of the same 0.99985814 0.031329118 0.031333562',
  ),
  'narrow_ids': (
    'vmap norm [4.8989797] sum over rows 0..5 24.0\n'
    'auto norm [1.3010426e-18] sum over rows 0..5 0.0\n'
    'ghost norm [1.3010426e-18] sum over rows 0..5 0.0\n'
    'vmap take clip V=300: norm [2.828427] rows with gradient [ 50 250]\n'
    'auto take clip V=300: norm [4.] rows with gradient [43]\n'
    'int8, V=128: OverflowError Python integer 128 out of bounds for int8',
    'vmap norm [4.8989797] sum over rows 0..5 24.0\n'
    'auto norm [4.8989797] sum over rows 0..5 24.0\n'
    'ghost norm [4.89898] sum over rows 0..5 24.0\n'
    'vmap take clip V=300: norm [2.828427] rows with gradient [ 50 250]\n'
    'auto take clip V=300: norm [2.828427] rows with gradient [ 50 250]\n',
  ),
  'one_key_twice': (
    'membership guessed from the noise alone: 1.0',
    'membership guessed from the noise alone: 0.908',
  ),
  'rgb16_png': ('(2, 4, 4, 3) uint8 max 0', '(2, 4, 4, 3) uint8 max 1'),
  'token_table_memory': (
    'auto 3680.932945251465 MiB\nghost 6.008148193359375 MiB\nvmap 2503.034507751465 MiB',
    'auto 6.1 MiB\nghost 6.008148193359375 MiB\nvmap 2503.034507751465 MiB',
  ),
  'x64_mixed': ('float64\nTypeError scan body function carry', 'float64\nfloat32\n'),
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(n, marks=[] if n in ('bf16_scan', 'rgb16_png') else [pytest.mark.slow])
    for n in strangers.CASES
  ],
)
def test_tells_right_from_wrong(name):
  before, after = OUTPUTS[name]
  assert strangers.judge(name, 0, before) == strangers.WRONG
  assert strangers.judge(name, 0, after) == strangers.RIGHT
  assert strangers.judge(name, 0, '') == strangers.WRONG
  assert strangers.judge(name, 1, after) == strangers.WRONG  # it did not come to its end


@pytest.mark.parametrize(
  ('name', 'said', 'verdict'),
  [
    ('complex_leaves', 'real gradients, got complex64', strangers.REFUSED),
    ('complex_leaves', 'one number of examples', strangers.WRONG),  # of something else
    ('multi_steps', 'no optax.MultiSteps around noise_sum', strangers.REFUSED),
    ('rgb16_png', 'a/0.png (RGB, more than 8 bits)', strangers.REFUSED),
    ('rgb16_png', '/tmp/16: no folder train/', strangers.WRONG),
    ('long_sequence', 'less', strangers.WRONG),  # nothing may be refused there
  ],
)
def test_a_refusal_has_to_name_what_it_refuses(name, said, verdict):
  assert strangers.judge(name, 1, f'x 1\n{REFUSAL.format(said)}') == verdict


def test_a_crash_is_wrong():
  said = 'ours ok\nTraceback ...\nTypeError: complex\n'
  assert strangers.judge('complex_leaves', 1, said) == strangers.WRONG


class TestTheCommand:
  @pytest.fixture
  def run(self, tmp_path, monkeypatch):
    cases = tmp_path / 'cases'
    cases.mkdir()
    monkeypatch.setattr(strangers, 'CASES', {'bf16_scan': strangers.CASES['bf16_scan']})
    given = {'cases': str(cases), 'out': str(tmp_path / 'strangers.json')}
    monkeypatch.setattr(strangers, 'FLAGS', types.SimpleNamespace(**given))

    def run(**programs: str):
      for name, text in programs.items():
        (cases / f'{name}.py').write_text(text)
      strangers.main()
      return json.loads((tmp_path / 'strangers.json').read_text('utf-8'))

    return run

  def test_all_is_well(self, run, capsys):
    found = run(bf16_scan='print("ours ok")', other='import dpgan_jax._files\nprint("see")')
    assert [row['verdict'] for row in found['rows']] == ['right', 'not known']
    assert found['wrong'] == []
    said = capsys.readouterr().out
    assert '  | see' in said  # for people
    assert said.endswith('1 right, 1 not known, 0 wrong\n')

  def test_what_is_wrong_ends_it_with_status_1(self, run, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
      run(bf16_scan='print("optax ok"); raise TypeError(__file__)')
    assert ended.value.code == 1
    (row,) = json.loads((tmp_path / 'strangers.json').read_text('utf-8'))['rows']
    assert row['output'][-1] == 'TypeError: CASES/bf16_scan.py'  # no place of this machine
    assert 'wanted: bfloat16 parameters' in capsys.readouterr().out

  def test_a_case_that_is_not_there_is_told_of(self, run, capsys):
    with pytest.raises(SystemExit):
      run(other='')
    assert 'bf16_scan: missing' in capsys.readouterr().out

  def test_no_folder(self, run, monkeypatch, tmp_path):
    with pytest.raises(InputError, match='it holds none'):
      run()
    monkeypatch.setattr(strangers.FLAGS, 'cases', str(tmp_path / 'no'))
    with pytest.raises(InputError, match=r'expected cases=.*no to be a folder .* not there'):
      run()

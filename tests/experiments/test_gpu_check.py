"""The check for whoever has a GPU: parts, deadlines, what is kept, what the page says of it."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks import compiled, gpu_check
from experiments.benchmarks.results import Result, Results

PROGRAM = """HloModule jit_f
%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %e = f32[4]{0} exponential(%p)
}
%small (p.1: (f32[4])) -> (f32[4]) {
  ROOT %p.1 = (f32[4]{0}) parameter(0)
}
%large (p.2: (f32[4])) -> (f32[4]) {
  %p.2 = (f32[4]{0}) parameter(0)
  %g = f32[4]{0} get-tuple-element(%p.2), index=0
  %s = (f32[4]{0}, u32[]) copy-start(%g)
  %d = f32[4]{0} copy-done(%s)
  ROOT %t = (f32[4]{0}) tuple(%d)
}
%body (p.3: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.3 = (s32[], /*index=1*/f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p.3), index=1
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %c = (f32[4]{0}) conditional(%f, %x, %x), branch_computations={%small, %large}
  %i = s32[] get-tuple-element(%p.3), index=0
  %k = s32[] call(%i), to_apply=%inner
  ROOT %r = (s32[], f32[4]{0}) tuple(%k, %x)
}
%inner (p.4: s32[]) -> s32[] {
  %p.4 = s32[] parameter(0)
  ROOT %a = s32[] add(%p.4, %p.4)
}
%condition (p.5: (s32[], f32[4])) -> pred[] {
  ROOT %l = pred[] constant(true)
}
ENTRY %main (x.1: f32[4]) -> (s32[], f32[4]) {
  %x.1 = f32[4]{0} parameter(0)
  %z = s32[] constant(0)
  %w = f32[4]{0} fusion(%x.1), kind=kLoop, calls=%fused
  %t.1 = (s32[], f32[4]{0}) tuple(%z, %w)
  ROOT %wh = (s32[], f32[4]{0}) while(%t.1), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
}
"""


def test_what_a_program_starts_is_counted_as_often_as_it_runs():
  assert compiled.started(PROGRAM) == {'fusion': 1 + 7, 'copy': 7, 'add': 7}


@pytest.fixture
def make_check(tmp_path):
  said: list[str] = []

  def make(**changed):
    return gpu_check.Check(
      tmp_path / 'gpu', tiny=True, peers=tmp_path, say=said.append, **changed
    ), said

  return make


@pytest.mark.slow
def test_a_part_is_kept_and_not_measured_again(make_check, tmp_path):
  check, said = make_check()
  assert check.run(['device'], minutes=2)
  record = json.loads((tmp_path / 'gpu.json').read_bytes())
  assert record['parts']['device']['platform'] == 'cpu'
  assert record['parts']['device']['float32_gflops'] > 0
  page = (tmp_path / 'gpu.md').read_text('utf-8')
  assert 'no figure means anything' in page
  assert 'Missing: eps1 (not complete)' in page
  again, said = make_check()
  assert again.run(['device'], minutes=0)
  assert said[-1] == 'device: there already'
  assert not again.run(['device', 'eps1'], minutes=0)
  assert said[-1] == 'eps1: no time left; the same command goes on here'
  (tmp_path / 'gpu.json').write_text(json.dumps({**record, 'cores': 0}))
  with pytest.raises(SystemExit, match='of another machine'):
    make_check()


@pytest.mark.slow
def test_a_part_ends_at_its_deadline_with_all_that_it_started(make_check):
  check, _ = make_check()
  text, status = check._process(['timeit', '-n', '1', '-r', '1', 'import time; time.sleep(60)'], 1)
  assert (text, status) == ('', None)
  assert check._process(['timeit', '-h'], 60)[1] == 0


def test_the_deadlines_are_eight_minutes_in_all():
  assert sum(gpu_check.DEADLINES.values()) <= 60 * gpu_check.MINUTES


def test_figures_are_compared_with_what_was_wanted():
  parts = {'eps1': {'steps_per_second': 1200.0}, 'revisited': {'steps_per_second': 500.0}}
  speed = Results({}, [
    Result('report_d', 512, 'ours_ghost', [0.11]),
    Result('report_d', 512, 'ours_nonprivate', [0.1]),
    Result('report_d', 512, 'opacus_ghost', [0.3]),
    Result('report_d', 512, 'opacus_hooks', [0.2]),
  ])  # fmt: skip
  rows = {row[0]: row[2:] for row in gpu_check.outcomes({'parts': parts}, speed)}
  assert rows['private ÷ non-private step, report_d'] == ('1.1', 'met')
  assert rows["Opacus's best ÷ ours, report_d"] == ('1.82', 'not met')
  assert rows["Opacus's best ÷ ours, large_d"] == ('–', 'not measured')
  assert rows['minutes for 450,000 steps of revisited_eps10.flags'] == ('15', 'not met')
  assert rows['steps of eps1.flags a second ÷ 240'] == ('5', 'met')

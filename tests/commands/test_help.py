"""The help pages of all commands: the few flags that matter, in groups; all of them on demand."""

from __future__ import annotations

import pytest

from dpgan_jax import (
  _cli,
  audit,
  classify,
  evaluate,
  release,
  report,
  sample,
  schema,
  sweep,
  train,
)  # fmt: skip

COMMANDS = (audit, classify, evaluate, release, report, sample, schema, sweep, train)


def names(page: str) -> list[str]:
  """The flags that a page lists, in order."""
  lines = [line.strip() for line in page.splitlines() if line.startswith('  --')]
  return [line.partition(': ')[0].removeprefix('--').removeprefix('[no]') for line in lines]


FEW = (sample, schema, train)  # with settings of a run, of tables, of neither


@pytest.mark.parametrize(
  'command',
  [pytest.param(c, marks=[] if c in FEW else [pytest.mark.slow]) for c in COMMANDS],
  ids=[c.__name__ for c in COMMANDS],
)
def test_few_flags_matter_and_all_can_be_seen(command, own_flags):
  command.define_flags()
  defined = {own_flags[name].name for name in own_flags}  # --data is --data_dir
  few, full = names(_cli.help_page(full=False)), names(_cli.help_page(full=True))
  assert len(few) == len(set(few)) <= 28
  assert set(few) <= set(full) == defined
  assert any(name.endswith('_dir') for name in few)
  hidden = len(full) - len(few)
  assert (f'--helpfull shows {hidden} more flags.' in _cli.help_page(full=False)) == (hidden > 0)


def test_what_is_done_to_samples_is_in_the_help_of_both_who_draw_them(own_flags):
  for command in (release, sample):
    for name in list(own_flags):
      delattr(own_flags, name)
    command.define_flags()
    assert {'clearest', 'distort'} <= set(names(_cli.help_page(full=False)))


def test_a_sweep_does_not_show_the_flags_that_it_does_not_use(own_flags):
  sweep.define_flags()
  few = names(_cli.help_page(full=False))
  assert {'epsilons', 'seeds', 'delta'} <= set(few)
  assert not {'target_epsilon', 'seed', 'run_dir'} & set(few)

"""The figures to reach, each with what was measured and whether that is met."""

from __future__ import annotations

import dataclasses

from experiments.benchmarks.gans import GANS
from experiments.benchmarks.results import Result, Results

SMALL = ('tutorial_cnn', 'report_d')
MEMORY_AT = ('large_d', 512)
# What the private step is compared with, the bound that is binding, and its name.
WHOLE_STEP = (
  ('gan_ordinary', 1.2, 'the same without privacy'),
  ('gan_ordinary_equal', None, 'the same without privacy on as many real examples'),
)


@dataclasses.dataclass(frozen=True)
class Target:
  """`above` ÷ `below`, families of contenders, is to be at most or at least `bound`."""

  text: str
  above: str
  below: str
  bound: float
  at_most: bool
  nets: tuple[str, ...]
  batches: tuple[int, ...] = (120, 256, 1024)
  binding: bool = True  # False: printed to be read, no line of the list asks for it

  @property
  def wanted(self) -> str:
    return f'{"≤" if self.at_most else "≥"} {self.bound:g}'


@dataclasses.dataclass(frozen=True)
class Outcome:
  text: str
  wanted: str
  measured: str
  verdict: str  # 'met', 'not met', 'not measured', or '–'


TARGETS = (
  Target('our private step ÷ our non-private step', 'ours_ghost', 'ours_nonprivate', 1.15, True,
         SMALL),
  Target("Opacus's best mode ÷ ours", 'opacus', 'ours_ghost', 2.5, False, SMALL),
  Target("jax-privacy's best mode ÷ ours", 'jax_privacy', 'ours_ghost', 3, False, SMALL),
  Target("optax.contrib's best mode ÷ ours", 'optax', 'ours_ghost', 3, False, SMALL),
  Target('TF-Privacy under a tape ÷ ours', 'tfp_tape', 'ours_ghost', 90, False, SMALL, (120,)),
  Target("PyTorch's non-private step ÷ our private step", 'torch_nonprivate', 'ours_ghost', 1,
         False, SMALL),
  Target("PyTorch's non-private step ÷ our private step", 'torch_nonprivate', 'ours_ghost', 1,
         False, ('large_d',)),
  Target('our private step ÷ our non-private step', 'ours_ghost', 'ours_nonprivate', 1.15, True,
         ('large_d',), binding=False),
  Target("Opacus's best mode ÷ ours", 'opacus', 'ours_ghost', 2.5, False, ('large_d',),
         binding=False),
)  # fmt: skip


def families_needed(net: str, batch: int) -> set[str]:
  """Whose figures the binding lines ask for at this network and batch size."""
  asked = [t for t in TARGETS if t.binding and net in t.nets and batch in t.batches]
  needed = {family for t in asked for family in (t.above, t.below)}
  return needed | ({'ours_ghost', 'ours_nonprivate'} if (net, batch) == MEMORY_AT else set())


def _ratio_outcome(results: Results, target: Target, net: str) -> Outcome:
  parts, met, complete = [], True, True
  for batch in target.batches:
    above = results.best(net, batch, target.above)
    below = results.best(net, batch, target.below)
    if above is None or below is None:
      parts.append(f'B {batch}: –')
      complete = False
      continue
    ratio = results.ratio(above, below)
    parts.append(f'B {batch}: {ratio}')
    met &= ratio.median <= target.bound if target.at_most else ratio.median >= target.bound
  verdict = 'not met' if not met else 'met' if complete else 'not measured'
  if not target.binding:
    verdict = '–'
  return Outcome(f'{target.text}, {net}', target.wanted, '; '.join(parts), verdict)


def memory_outcome(results: Results) -> Outcome:
  """Peak memory of our private process ÷ that of our non-private one."""
  net, batch = MEMORY_AT
  private = results.get(net, batch, 'ours_ghost')
  plain = results.get(net, batch, 'ours_nonprivate')
  measured, verdict = '–', 'not measured'
  if private and plain:
    value = private.peak_bytes / plain.peak_bytes
    measured = f'{value:.2f} ({_mib(private)} ÷ {_mib(plain)} MiB)'
    verdict = 'met' if value <= 1.5 else 'not met'
  text = f'peak memory, private ÷ non-private, {net}, B = {batch}'
  return Outcome(text, '≤ 1.5', measured, verdict)


def _mib(result: Result) -> str:
  return f'{result.peak_bytes / 2**20:,.0f}'


def whole_step_outcomes(results: Results) -> list[Outcome]:
  """A private GAN's whole step ÷ an ordinary one's; then ÷ one of as many real examples."""
  lines = []
  for gan in GANS.values():
    private = results.get(gan.name, gan.batch, 'gan_private')
    for way, wanted, what in WHOLE_STEP:
      plain = results.get(gan.name, gan.batch, way)
      measured, verdict = '–', 'not measured'
      if private and plain:
        ratio = results.ratio(private, plain)
        measured, verdict = f'B {gan.batch}: {ratio}', '–'
        if wanted is not None:
          verdict = 'met' if ratio.median <= wanted else 'not met'
      text = f'a whole DPGAN step ÷ {what}, {gan.name}'
      lines.append(Outcome(text, '–' if wanted is None else f'≤ {wanted:g}', measured, verdict))
  return lines


def outcomes(results: Results) -> list[Outcome]:
  lines = [_ratio_outcome(results, t, net) for t in TARGETS if t.binding for net in t.nets]
  lines.append(memory_outcome(results))
  lines += whole_step_outcomes(results)
  return lines + [
    _ratio_outcome(results, t, net) for t in TARGETS if not t.binding for net in t.nets
  ]

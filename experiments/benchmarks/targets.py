"""The figures to reach, each with what was measured and whether that is met."""

from __future__ import annotations

import dataclasses

from experiments.benchmarks.contenders import GANS
from experiments.benchmarks.results import Results

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
         False, (*SMALL, 'large_d')),
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


def _outcome(
  text: str, bound: float | None, measured: dict[str, float], complete: bool, at_most: bool = True
) -> Outcome:
  """A line of figures, each shown as its key; without a bound they are only to be read."""
  wanted = '–' if bound is None else f'{"≤" if at_most else "≥"} {bound:g}'
  if bound is None:
    verdict = '–' if complete else 'not measured'
  elif not all(v <= bound if at_most else v >= bound for v in measured.values()):
    verdict = 'not met'
  else:
    verdict = 'met' if complete else 'not measured'
  return Outcome(text, wanted, '; '.join(measured) or '–', verdict)


def _ratio_outcome(results: Results, target: Target, net: str) -> Outcome:
  measured, complete = {}, True
  for batch in target.batches:
    above, below = (results.best(net, batch, f) for f in (target.above, target.below))
    if above is None or below is None:
      complete, ratio = False, None
    else:
      ratio = results.ratio(above, below)
    good = target.bound  # what is not measured misses nothing
    measured[f'B {batch}: {ratio or "–"}'] = ratio.median if ratio else good
  found = _outcome(f'{target.text}, {net}', target.bound, measured, complete, target.at_most)
  return found if target.binding else dataclasses.replace(found, verdict='–')


def memory_outcome(results: Results) -> Outcome:
  """Peak memory of our private process ÷ that of our non-private one."""
  net, batch = MEMORY_AT
  found = [results.get(net, batch, name) for name in ('ours_ghost', 'ours_nonprivate')]
  peaks = [r.peak_bytes for r in found if r]
  measured = {}
  if len(peaks) == 2:
    above, below = (f'{peak / 2**20:,.0f}' for peak in peaks)
    value = peaks[0] / peaks[1]
    measured[f'{value:.2f} ({above} ÷ {below} MiB)'] = value
  text = f'peak memory, private ÷ non-private, {net}, B = {batch}'
  return _outcome(text, 1.5, measured, bool(measured))


def whole_step_outcomes(results: Results) -> list[Outcome]:
  """A private GAN's whole step ÷ an ordinary one's; then ÷ one of as many real examples."""
  lines = []
  for gan in GANS.values():
    private = results.get(gan.name, gan.batch, 'gan_private')
    for way, bound, what in WHOLE_STEP:
      plain, measured = results.get(gan.name, gan.batch, way), {}
      if private and plain:
        ratio = results.ratio(private, plain)
        measured[f'B {gan.batch}: {ratio}'] = ratio.median
      text = f'a whole DPGAN step ÷ {what}, {gan.name}'
      lines.append(_outcome(text, bound, measured, bool(measured)))
  return lines


def outcomes(results: Results) -> list[Outcome]:
  """All lines; those that are only to be read come last."""
  ratios = {
    binding: [
      _ratio_outcome(results, t, net) for t in TARGETS if t.binding is binding for net in t.nets
    ]
    for binding in (True, False)
  }
  others = [memory_outcome(results), *whole_step_outcomes(results)]
  return ratios[True] + others + ratios[False]

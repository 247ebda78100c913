"""Which files of a run may be published, and why; one row for everything that any command leaves.

A file without a row is one that nothing is known about, and stays private.
"""

from __future__ import annotations

from dpgan_jax.models.gan import StepMetrics
from dpgan_jax.run import metrics

YES, NO, IF_SECRET = 'yes', 'no', 'only if the seed stays secret'
PICTURE = 'epsilon_delta.png'

COVERED_METRICS = sorted(set(StepMetrics._fields) - metrics.REAL_DATA_METRICS)
"""Numbers of a step that are computed from the noisy gradients and fakes only."""
UNCOVERED_METRICS = sorted(set(StepMetrics._fields) & metrics.REAL_DATA_METRICS)
"""Numbers of a step that are computed on private examples without noise."""


def of_files(
  *, holds: bool, seed_fixed: bool, samples: str = 'samples.npz'
) -> list[dict[str, str]]:
  """A row {'file', 'publish', 'why'} for every file or directory of a run.

  Args:
    holds: whether the run has a guarantee at all.
    seed_fixed: whether its keys came from a seed that somebody knows.
    samples: the file of samples.
  """
  public = (IF_SECRET if seed_fixed else YES) if holds else NO
  ground = 'Drawn' if holds else 'Not covered by any guarantee: drawn'
  rows = (
    ('report.json, report.md', YES, 'This statement: settings and public constants.'),
    ('report.html', public, 'This statement as a page, with samples and curves that are covered.'),
    (PICTURE, YES, 'Drawn from the mechanism alone.'),
    (f'{samples}, samples.png', public, f'{ground} from the generator.'),
    ('signs.json', public, 'Of samples and the noisy discriminator: the ground of the verdict.'),
    ('samples_steps*.png', public, f'{ground} from the generators in snapshots/.'),
    ('grids/', public, f'{ground} from the generator of that step.'),
    ('snapshots/', public, 'Generators of some steps, averaged and as trained.'),
    ('synthetic_*', public, f'{ground} from the generator by dpgan_jax.sample.'),
    ('*.safetensors', public, 'Generator and what names its samples, as DPGAN.save writes it.'),
    ('config.json', NO, 'Holds the seed, from which the noise follows.')
    if seed_fixed
    else ('config.json', YES, 'Settings, N and class names, all treated as public.'),
    ('schema.json', public, 'What the columns of a table may hold, as the run has found it.'),
    ('schema/', NO, 'Checkpoints and metrics of what has found it.'),
    ('checkpoints/', NO, 'Hold the keys of the noise and of the batches.'),
    ('secret.json', NO, 'Holds the secret from which noise and batches follow.'),
    ('labeller/, label_cnn/, moments/', NO, 'Checkpoints and metrics of the stages beside it.'),
    ('fingerprint.json', NO, 'Of a sweep: a fingerprint of the data.'),
    ('ledger.jsonl', NO, 'Holds a fingerprint of the data.'),
    ('metrics.jsonl', NO, f'Computed on private data: {", ".join(UNCOVERED_METRICS)}.'),
    ('losses.png', NO, 'Shows d_loss_real, which is computed on private data without noise.'),
    (
      'evaluation*',
      NO,
      'Scores of dpgan_jax.evaluate, nearly all computed on real records without noise.',
    ),
    ('audit.json', NO, 'Written by dpgan_jax.audit: computed on private data and keys.'),
    ('tensorboard/', NO, 'As metrics.jsonl; its file names hold the name of the machine.'),
    ('.lock', NO, 'Holds a process id; of no use to others.'),
    ('anything else', NO, 'Not written by a run: nothing is known about it.'),
  )
  return [dict(zip(('file', 'publish', 'why'), row, strict=True)) for row in rows]

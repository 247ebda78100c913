"""Flags that several commands share."""

from __future__ import annotations

from absl import flags

from dpgan_jax import _validate
from dpgan_jax.evaluation import features, references, tasks
from dpgan_jax.evaluation.scoring import Amount

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # these functions act for their callers, whose --help lists the flags


def define_amount_flags() -> None:
  """How much is evaluated: flags that this command shares with those that evaluate many runs."""
  flags.DEFINE_integer(
    'num',
    None,
    'Samples to draw from a run; default: 70,000, as the report did, or 12,000 if quick.',
  )
  flags.DEFINE_integer('eval_seed', 0, 'Seed of samples, draws and judges.')
  flags.DEFINE_bool('quick', False, 'A first impression: fewer images, fewer epochs.')
  flags.DEFINE_bool('inception', False, 'FID on Inception-v3 too; needs torch-fidelity.')
  flags.DEFINE_integer(
    'cnn_epochs', None, 'Epochs of the TSTR CNN; default: 4 to 50, so that it takes minutes.'
  )
  flags.DEFINE_list(
    'tasks', None, f'Only these of: {", ".join(tasks.TASKS)}; default: all of them.'
  )


def amount_from_flags() -> Amount:
  """What the flags of `define_amount_flags` ask for.

  Raises:
    InputError: a value that will not do; torch-fidelity is asked for and not installed.
  """
  _validate.integer('eval_seed', FLAGS.eval_seed, minimum=0, maximum=2**32 - 1)
  if FLAGS.cnn_epochs is not None:
    _validate.integer('cnn_epochs', FLAGS.cnn_epochs, minimum=1)
  num = (12_000 if FLAGS.quick else 70_000) if FLAGS.num is None else FLAGS.num
  _validate.integer('num', num, minimum=references.MIN_SAMPLES)
  if FLAGS.inception:
    features.require_inception()
  make = tasks.Settings.quick if FLAGS.quick else tasks.Settings
  for task in FLAGS.tasks or ():
    _validate.one_of('tasks', task, tasks.TASKS)
  settings = make(
    seed=FLAGS.eval_seed, inception=FLAGS.inception, cnn_epochs=FLAGS.cnn_epochs,
    tasks=None if FLAGS.tasks is None else tuple(sorted(FLAGS.tasks)),
  )  # fmt: skip
  return Amount(settings, num, FLAGS.quick)


def define_choice_flags() -> None:
  """What is done to samples after they are drawn; `release` has these too."""
  flags.DEFINE_float(
    'clearest', 1.0, 'Keep this share of every class, e.g. 0.6: what its classifier is surest of.'
  )
  flags.DEFINE_bool(
    'distort', False, 'Turn, shift, scale and shear each a little: better to learn classes from.'
  )

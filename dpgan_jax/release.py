"""Writes the bundle that is safe to publish: `python -m dpgan_jax.release --run_dir=runs/eps2
--out=eps2`.
`--verify=DIRECTORY` is for who receives one: checksums, loading without pickle, and ε again.
"""

from __future__ import annotations

import sys

from absl import flags

from dpgan_jax import _cli, _shared_flags, _validate
from dpgan_jax.publishing import bundle
from dpgan_jax.run.directory import RunDir

FLAGS = flags.FLAGS

def define_flags() -> None:
  flags.DEFINE_string('run_dir', None, 'Directory of a run; the latest checkpoint is released.')
  flags.DEFINE_string('out', None, 'Directory of the bundle: new, or empty.')
  flags.DEFINE_integer('num', 10_000, 'Samples in the bundle; they cost no privacy.')
  _shared_flags.define_choice_flags()
  flags.DEFINE_string(
    'licence', None, 'Licence of samples and weights for the cards, e.g. cc-by-4.0; default: none.'
  )
  flags.DEFINE_bool(
    'allow_no_privacy', False, 'Release a run without guarantee; the cards begin with saying so.'
  )
  flags.DEFINE_bool('allow_unfinished', False, 'Release the generator of an unfinished run.')
  flags.DEFINE_bool(
    'seed_is_secret', False, 'Release a run of a fixed seed, which nobody else knows or can guess.'
  )
  flags.DEFINE_string('verify', None, 'Instead: check a bundle that you have received.')


def main() -> None:
  if FLAGS.verify is not None:
    if FLAGS.run_dir is not None or FLAGS.out is not None:
      raise _validate.InputError('expected --verify=DIRECTORY alone, without --run_dir and --out')
    print(bundle.verify(FLAGS.verify))
    return
  if not FLAGS.run_dir or not FLAGS.out:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run and --out=DIRECTORY, new')
  print('computing ε and drawing samples (under a minute)', file=sys.stderr, flush=True)
  said = bundle.release(
    RunDir.open(FLAGS.run_dir, create=False),
    FLAGS.out,
    num=FLAGS.num,
    clearest=FLAGS.clearest,
    distorted=FLAGS.distort,
    licence=FLAGS.licence,
    allow_no_privacy=FLAGS.allow_no_privacy,
    allow_unfinished=FLAGS.allow_unfinished,
    seed_is_secret=FLAGS.seed_is_secret,
  )
  print(said.guarantee())
  print(f'May be published, and nothing else of the run: {FLAGS.out} ({", ".join(bundle.FILES)})')


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Nothing was written; run the same command again.')

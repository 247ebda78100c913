"""Writes the bundle that is safe to publish: `python -m dpgan_jax.release --run_dir=runs/eps2
--out=eps2`.
`--verify=DIRECTORY` is for who receives one: checksums, loading without pickle, and ε again.
"""

from __future__ import annotations

import dataclasses
import functools
import sys

from dpgan_jax import _cli, _settings, _shared_flags, _validate
from dpgan_jax.publishing import bundle
from dpgan_jax.run.directory import RunDir

_bundle, _samples, _exception = (
  functools.partial(_settings.field, group=group, common=True)
  for group in ('bundle', 'samples', 'exceptions')
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Flags of this command."""

  run_dir: str | None = _bundle(None, 'Directory of a run; the latest checkpoint is released.')
  out: str | None = _bundle(None, 'Directory of the bundle: new, or empty.')
  licence: str | None = _bundle(
    None, 'Licence of samples and weights for the cards, e.g. cc-by-4.0; default: none.'
  )
  verify: str | None = _bundle(None, 'Instead: check a bundle that you have received.')
  num: int = _samples(10_000, 'Samples in the bundle; they cost no privacy.', minimum=1)
  allow_no_privacy: bool = _exception(
    False, 'Release a run without guarantee; the cards begin with saying so.'
  )
  allow_unfinished: bool = _exception(False, 'Release the generator of an unfinished run.')
  seed_is_secret: bool = _exception(
    False, 'Release a run of a fixed seed, which nobody else knows or can guess.'
  )

  __post_init__ = _settings.check


def define_flags() -> None:
  _cli.define_flags(Options, _shared_flags.ChoiceOptions)


def main() -> None:
  options = _cli.config_from_flags(Options)
  if options.verify is not None:
    if options.run_dir is not None or options.out is not None:
      raise _validate.InputError('expected --verify=DIRECTORY alone, without --run_dir and --out')
    print(bundle.verify(options.verify))
    return
  if not options.run_dir or not options.out:
    raise _validate.InputError('expected --run_dir=DIRECTORY of a run and --out=DIRECTORY, new')
  choice = _cli.config_from_flags(_shared_flags.ChoiceOptions)
  print('computing ε and drawing samples (under a minute)', file=sys.stderr, flush=True)
  said = bundle.release(
    RunDir.open(options.run_dir, create=False),
    options.out,
    num=options.num,
    clearest=choice.clearest,
    distorted=choice.distort,
    licence=options.licence,
    allow_no_privacy=options.allow_no_privacy,
    allow_unfinished=options.allow_unfinished,
    seed_is_secret=options.seed_is_secret,
  )
  print(said.guarantee())
  files = bundle.files(said.spec)
  print(
    f'{options.out}: {len(files)} files with {options.num} samples, which may be published, '
    f'and nothing else of the run: {", ".join(files)}'
  )


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Nothing was written; run the same command again.')

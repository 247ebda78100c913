"""The GANs whose whole step is timed, and the three ways to take it. Standard library only."""

from __future__ import annotations

import dataclasses
import pathlib

from experiments.benchmarks.contenders import Contender

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Gan:
  """Settings in a flag file of `experiments/`, at their own batch size."""

  name: str
  title: str
  flag_file: str
  batch: int  # real examples expected in a batch: what the flag file says
  chunk: int  # steps in one compiled loop, as many as make a turn of about a second
  # A flag for files without a budget; how much noise there is makes no difference to time.
  budget: tuple[str, ...] = ()

  @property
  def path(self) -> pathlib.Path:
    return EXPERIMENTS / self.flag_file


GANS = {
  gan.name: gan
  for gan in (
    Gan('gan_report', "the report's networks, as trained on MNIST", 'mnist.flags', 240, 10,
        ('--target_epsilon=1',)),
    Gan('gan_revisited', '1.7 M discriminator ("Private GANs, Revisited")',
        'study_2020/revisited_eps10.flags', 512, 2),
  )
}  # fmt: skip

# `ordinary_equal` draws as many real examples as the private batch has slots: what is left of the
# ratio is the price of clipping and noise, without that of a batch whose size varies.
WAYS = {
  c.name: c
  for c in (
    Contender('gan_private', 'gan', 'private', 'private', 'gan_private'),
    Contender('gan_ordinary', 'gan', 'ordinary', 'not private', 'gan_ordinary', private=False),
    Contender('gan_ordinary_equal', 'gan', 'ordinary_equal',
              'not private, as many real examples as the private batch has slots',
              'gan_ordinary_equal', private=False),
  )
}  # fmt: skip

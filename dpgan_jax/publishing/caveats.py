"""What a reader of a privacy statement has to take on trust, or take into account."""

from __future__ import annotations

from collections.abc import Mapping

from dpgan_jax import _plugins
from dpgan_jax.data.spec import Preparation, Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.networks import generators
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.publishing import words


def of(config: TrainConfig, m: DPMechanism, spec: Spec) -> list[str]:
  """The caveats of a run, a sentence or two each.

  Args:
    config: its settings.
    m: its main mechanism.
    spec: what is public of its data.
  """
  of_moments, said = config.method == 'moments', words.of(spec, config)
  if m.neighboring_relation == 'add_or_remove_one':
    public = (
      f'N is treated as public{"" if of_moments else ", and q = B/N with it"}, although '
      'neighbouring data sets differ in size. The accounting uses the larger neighbour, N + 1.'
    )
  else:
    public = 'N is public: neighbouring data sets have the same size.'
  if of_moments:
    labels = 'Classes are drawn in the proportions of the noisy counts, unless asked for.'
  elif config.label_share is not None:
    labels = (
      'The generator is not class-conditional: what names its samples was trained with '
      'differential privacy; its mistakes are in the labels, and how often the generator draws a '
      'class need not be how often it is real.'
    )
  elif config.generator in generators.UNCONDITIONAL:
    labels = 'The generator is not class-conditional: samples have no labels.'
  else:
    labels = 'Labels of generated data are uniform over the classes, not the real class counts.'
  lines = [
    f'{public} Under another relation the same run has another ε; compare like with like.',
    f'Public constants besides: the set of classes, their number ({spec.num_classes}) and '
    f'{said.constants} {labels}',
    *preparation(config, m.neighboring_relation, said.units),
  ]
  lines += [
    'Noise comes from SHAKE-256 with a secret of 256 bits, taken to be indistinguishable from '
    'random. A release made again after an interruption is the same one, and costs nothing, on '
    'the same software and hardware.',
    f'The model is {said.moments}: what records have in common beyond that is not in the samples.',
  ] if of_moments else [
    'Noise is hardened against attacks on floating-point bits (Mironov 2012): that of a step has '
    'tails to 9.4 standard deviations and is rounded, with the sum, to a public grid; that of '
    'statistics released once is exact discrete Gaussian noise on an exact sum (Canonne, Kamath '
    'and Steinke 2020). How the other records round when one is absent (Casacuberta et al. 2022) '
    'is part of ε: records are clipped so much shorter, and sums are whole numbers. Taken for '
    'granted is that a record has the same gradient in the same place of a batch, whatever stands '
    'in the other places.',
    'Noise and batches come from the counter-based generator threefry2x32 of JAX, taken to be '
    'indistinguishable from random; ε is no claim about it as a cryptographic mechanism, and '
    '64 bits of key bound what it can promise.',
    'Steps taken again after an interruption repeat the same batches and the same noise, and '
    'cost nothing, on the same software and hardware. Under other software or hardware they '
    'may come out otherwise and would then be a second release that the ledger does not '
    'charge. Only the environment of the start is recorded.',
  ]
  if config.n_d_threshold is not None:
    lines.append(
      'How many steps D takes for each of G was adapted to how many fakes D recognises: a number '
      'that follows from the noisy gradients and costs nothing.'
    )
  if config.gradient_penalty is not None:
    lines.append(
      "The gradient penalty is a part of each real example's loss, clipped and noised with it; "
      'the fake that an example is paired with does not depend on the other examples.'
    )
  if m.delta >= 1 / m.num_examples:
    lines.append(
      f'δ = {m.delta!r} is not below 1/N: publishing one record at random would satisfy it. '
      'Such a guarantee says little.'
    )
  return lines


def of_plugins(modules: Mapping[str, str]) -> list[str]:
  """That code from outside took part, if it did."""
  if not modules:
    return []
  return [
    f'Code from outside dpgan_jax took part: {_plugins.show(modules)}, the hash of its source. A '
    'discriminator that mixes records is refused, and on random records each was found to be '
    'treated alone; but such code runs with all rights, sees the records, and could do anything '
    'beside what is accounted here. The guarantee rests on whoever read it.'
  ]


def preparation(config: TrainConfig, relation: str, units: str) -> list[str]:
  """What was done to the `units` before training, and which of them were kept aside."""
  lines = []
  if done := Preparation.of(config.image_size, config.channels).describe():
    lines.append(f'Before training each image was {done}. That follows from the image alone.')
  if config.holdout:
    lines.append(
      f'About {100 * config.holdout:g} % of the {units} were held out and never trained on: a '
      'hash of each with a public key says which. One record more or less changes one of '
      'the two parts by one record and moves no other: the guarantee is one for all of them. '
      'N is the number of records trained on, public as always. Publish no other count beside it: '
      'with how many were held out, who knows all other records would learn on which side the last '
      'one fell.'
      + ('' if relation == 'add_or_remove_one' else ' Under this relation neighbours differ in a '
         'record that is on the same side in both.')
    )  # fmt: skip
  return lines

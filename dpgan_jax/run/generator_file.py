"""A generator's file: safetensors that anyone may have, and that nothing private is in.

It holds the generator's arrays (and those of the classifiers that label its samples, where it knows
no classes itself), and in its metadata the settings, the mechanisms and the number of steps taken,
from which anyone can compute ε again. It holds no discriminator, optimizer state or key, nothing
that ε does not cover, and loading it runs no code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import safetensors
import safetensors.flax

from dpgan_jax import _files, _json, _keys, _validate
from dpgan_jax.data import readers
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import labelling
from dpgan_jax.models.classifier import STAGE
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GeneratorState
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.privacy.mechanism import DPMechanism

_FORMAT = 'dpgan_jax generator 4'
_MOST_HEADER = 2**20  # bytes; those of this package have some thousands
# Of version 0.1, by how many classifiers label the samples.
_OLD_FORMATS = {f'dpgan_jax generator {n + 1}': n for n in range(3)}
_PAST, _LABELLERS = 'past', 'labellers'
_STAGES = (STAGE, labelling.CNN_STAGE)  # of a file's labellers, in their order


def save(
  model: Synthesizer, path: str | os.PathLike[str], *, run: str | None = None
) -> None:
  """Writes a generator to `path` (safetensors), whole or not at all. It may be published.

  Args:
    model: the generator.
    path: the file; replaced where it exists.
    run: identity of the run whose snapshot it is (`run_of`).
  """
  record: dict[str, Any] = {
    'format': _FORMAT,
    'config': model.gan.config.replace(seed=None).to_dict(),  # who knows it can draw the noise
    'mechanism': model.gan.mechanism.to_dict(),
    'data': model.spec.to_record(),
    'steps': model.steps,
    'past': sorted(model.past),
    'labellers': [labelling.to_record(labeller.classifier) for labeller in model.labellers],
    **({} if run is None else {'run': run}),
  }
  tree = {
    _PAST: {str(step): generator for step, generator in model.past.items()},
    _LABELLERS: {str(i): labeller.arrays for i, labeller in enumerate(model.labellers)},
  }
  leaves = [*_leaves(model.generator), *_leaves(tree)]
  tensors = {_name(path): leaf for path, leaf in leaves}
  with _files.atomic_write(path, 'wb') as file:
    file.write(safetensors.flax.save(tensors, {'dpgan_jax': json.dumps(record, sort_keys=True)}))


def load(path: str | os.PathLike[str]) -> Synthesizer:
  """Reads what `save` wrote.

  Raises:
    InputError: no such file, not a generator of this package, or a damaged one.
  """
  path = os.fspath(path)
  header, record = _described(path)
  renamed = str if record['format'] == _FORMAT else _renamed
  try:
    if record['format'] != _FORMAT:
      record = _converted(record)
    model = _without_arrays(record)
    most = (model.gan.config.g_mixture or 1) - 1
    past = [
      _validate.integer('past', step, minimum=0, maximum=model.steps - 1)
      for step in record['past'][: most + 1]
    ]
    if len(past) > most or len(set(past)) < len(past):
      raise _validate.InputError(f'expected past to be at most {most} steps, got {past}')
    abstract = jax.eval_shape(model.gan.init, _keys.from_seed(0)).g_average
  except KeyError as error:
    raise _validate.InputError(f'{path} is damaged: it lacks {error}') from None
  # Whatever a wrong type or number leads to.
  except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
    raise _validate.InputError(f'{path} is damaged: {" ".join(str(error).split())}') from None
  beside = {
    _PAST: {str(step): abstract for step in past},
    _LABELLERS: {str(i): _abstract(each) for i, each in enumerate(model.labellers)},
  }
  expected = {renamed(_name(p)): leaf for p, leaf in [*_leaves(abstract), *_leaves(beside)]}
  tensors = _tensors(path, header, expected)

  def filled(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda p, _: tensors[renamed(_name(p))], tree)

  arrays = filled(beside)
  labellers = tuple(
    dataclasses.replace(each, **arrays[_LABELLERS][str(i)])
    for i, each in enumerate(model.labellers)
  )
  states = arrays[_PAST]
  return dataclasses.replace(
    model,
    generator=filled(abstract),
    labellers=labellers,
    past={s: states[str(s)] for s in past},
  )


def run_of(path: str | os.PathLike[str]) -> str | None:
  """The identity of the run whose snapshot a generator's file is; None where it does not say."""
  return _described(os.fspath(path))[1].get('run')


def _described(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """What the header of a generator's file says of its arrays, and its metadata."""
  if not os.path.isfile(path):
    raise _validate.InputError(f'expected a generator at {path}, found none')
  try:
    header = _header(path)
    record = _json.loads(header.pop('__metadata__', {}).get('dpgan_jax', '{}'))
  except (AttributeError, TypeError, ValueError) as error:
    raise _validate.InputError(f'expected {path} to be a safetensors file, got: {error}') from None
  if not isinstance(record, dict) or record.get('format') not in (_FORMAT, *_OLD_FORMATS):
    raise _validate.InputError(f'{path} is not a dpgan_jax generator of this version')
  return header, record


def _converted(record: dict[str, Any]) -> dict[str, Any]:
  """Metadata of a file of version 0.1 as this version writes them."""
  count = _OLD_FORMATS[record['format']]
  data = {
    'kind': 'image',
    'num_records': record['mechanism']['num_examples'],
    'shape': record['image_shape'],
    'class_names': record['class_names'],
    'name': record['dataset'],
  }
  labellers = [record[name] for name in ('labeller', 'label_cnn')[:count]]
  return {**record, 'data': data, 'labellers': labellers, 'past': record.get('past', [])}


def _renamed(name: str) -> str:
  """What version 0.1 called the array that this version calls `name`."""
  name = re.sub(f'^{_LABELLERS}/0/', 'labeller/', name)
  return re.sub(f'^{_LABELLERS}/1/', 'labeller/cnn/', name)


def _header(path: str) -> dict[str, Any]:
  """What a safetensors file says about itself; no tensor is read, whatever it promises.

  Raises:
    ValueError: it is longer than any of this package, or no header.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if size < 8 or length > size - 8:
      raise ValueError(f'a header of {length} bytes in a file of {size}')
    if length > _MOST_HEADER or size > readers.MAX_BYTES:
      raise ValueError(
        f'a header of {length} bytes in a file of {size}, expected at most {_MOST_HEADER} and '
        f'{readers.MAX_BYTES}'
      )
    header = _json.loads(file.read(length), _MOST_HEADER)
  if not isinstance(header, dict):
    raise ValueError('a header that is no JSON object')
  return header


def _tensors(path: str, header: dict[str, Any], shapes: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The tensors that the settings ask for, all of them and no others.

  They are compared with what the header promises first, so that none is read in vain.
  """
  for name in [*shapes, *header]:
    if name not in shapes:
      raise _validate.InputError(f'{path} is damaged: it holds {name}, which no such generator has')
    _check_promise(path, name, header.get(name), shapes[name])
  try:
    with safetensors.safe_open(path, 'flax') as file:
      return {
        name: _checked(path, file.get_tensor(name), leaf, name) for name, leaf in shapes.items()
      }
  except safetensors.SafetensorError as error:
    raise _validate.InputError(f'expected {path} to be a safetensors file, got: {error}') from None


def _check_promise(path: str, name: str, said: Any, expected: jax.ShapeDtypeStruct) -> None:
  if said is None:
    raise _validate.InputError(f'{path} is damaged: it lacks {name}')
  shape = said.get('shape') if isinstance(said, dict) else None
  if shape != list(expected.shape):
    raise _validate.InputError(
      f'{path} is damaged: expected {name} to be {expected.dtype}{list(expected.shape)}, got '
      f'{str(shape)[:200]}'
    )


def _without_arrays(record: dict[str, Any]) -> Synthesizer:
  """The generator that a file's metadata describe."""
  for about in ('config', 'mechanism'):  # bounds, before anything is made of it
    for name, value in record[about].items():
      if isinstance(value, int) and not isinstance(value, bool):
        _validate.integer(name, value, minimum=0, maximum=2**32 - 1)
  _validate.integer('latent_dim', record['config'].get('latent_dim', 1), minimum=1, maximum=2**16)
  spec = Spec.from_record(record['data'])
  config, mechanism = (
    TrainConfig.from_dict(record['config']), DPMechanism.from_dict(record['mechanism'])
  )  # fmt: skip
  gan = GAN(config, mechanism, spec)
  steps = _validate.integer('steps', record['steps'], minimum=0, maximum=mechanism.steps)
  wanted = (config.label_share is not None) + (config.label_cnn_share is not None)
  # Generators of the steps before the last have no CNN yet: what labels them costs less.
  if not min(wanted, 1) <= len(record['labellers']) <= wanted:
    raise _validate.InputError(
      f'expected {wanted} labellers by its settings, got {len(record["labellers"])}'
    )
  classifiers = (
    labelling.from_record(each, spec, None, stage)
    for each, stage in zip(record['labellers'], _STAGES, strict=False)
  )
  labellers = tuple(Labeller(classifier, {}, jnp.zeros(())) for classifier in classifiers)
  return Synthesizer(gan, GeneratorState({}, {}), steps, labellers)


def _abstract(labeller: Labeller) -> dict[str, Any]:
  """Shapes and dtypes of a labeller's arrays, from its settings alone."""
  classifier = labeller.classifier
  state = jax.eval_shape(classifier.init, _keys.from_seed(0))
  return Labeller.of_state(classifier, state).arrays


def _leaves(tree: Any) -> list[tuple[Any, jax.Array]]:
  return jax.tree_util.tree_leaves_with_path(tree)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _checked(
  path: str, array: jax.Array, expected: jax.ShapeDtypeStruct, name: str
) -> jax.Array:
  if array.shape != expected.shape or array.dtype != expected.dtype:
    raise _validate.InputError(
      f'{path} is damaged: expected {name} to be {expected.dtype}{list(expected.shape)}, got '
      f'{array.dtype}{list(array.shape)}'
    )
  return array

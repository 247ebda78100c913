"""A model's file: safetensors that anyone may have, and that nothing private is in.

Of moments it holds what was released. Of a GAN it holds the generator's arrays (and those of the
classifiers that label its samples, where it knows no classes itself). Its metadata are the
settings, the mechanisms and the number of steps taken, from which anyone can compute ε again. It
holds no discriminator, optimizer state or key, nothing that ε does not cover, and loading it runs
no code. Of networks that a plugin brought, it names the plugin, which has to be loaded before.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _keys, _plugins, _tensor_file, _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import labelling
from dpgan_jax.models.classifier import STAGE
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GeneratorState
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.models.moments import settings
from dpgan_jax.models.moments.encoding import Axes, Cells, Means
from dpgan_jax.models.moments.images.scattering_encoding import ScatteringEncoding
from dpgan_jax.models.moments.settings import Moments
from dpgan_jax.models.moments.synthesizer import MomentsSynthesizer, abstract_network
from dpgan_jax.models.moments.tables import partition
from dpgan_jax.models.moments.tables.encoding import TableEncoding
from dpgan_jax.models.synthesizer import Synthesizer
from dpgan_jax.privacy.mechanism import DPMechanism

_FORMAT = 'dpgan_jax generator 4'
_MOMENTS_FORMAT = 'dpgan_jax moments 3'
# Of version 0.1, by how many classifiers label the samples.
_OLD_FORMATS = {f'dpgan_jax generator {n + 1}': n for n in range(3)}
# Whatever a wrong type or number in a record leads to.
_DAMAGE = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError)
_PAST, _LABELLERS, _NETWORK, _AXES, _CELLS = 'past', 'labellers', 'network', 'axes', 'cells'
_STAGES = (STAGE, labelling.CNN_STAGE)  # of a file's labellers, in their order


def save(model: Synthesizer, path: str | os.PathLike[str], *, run: str | None = None) -> None:
  """Writes a model to `path` (safetensors), whole or not at all. It may be published.

  Args:
    model: of a GAN or of moments.
    path: the file; replaced where it exists.
    run: identity of the run whose snapshot it is (`run_of`).

  Raises:
    InputError: moments without the generator that their settings ask for.
  """
  if isinstance(model, MomentsSynthesizer):
    _save_moments(model, path)
    return
  assert isinstance(model, GANSynthesizer)
  record: dict[str, Any] = {
    'format': _FORMAT,
    'config': model.gan.config.replace(seed=None).to_dict(),  # who knows it can draw the noise
    'mechanism': model.gan.mechanism.to_dict(),
    'data': model.spec.to_record(),
    'steps': model.steps,
    'guarantee': model.guarantee(),
    'past': sorted(model.past),
    'labellers': [labelling.to_record(labeller.classifier) for labeller in model.labellers],
    **({} if model.moments is None else {'moments': _public(model.moments).to_record()}),
    **({} if run is None else {'run': run}),
    **({'plugins': outside} if (outside := _plugins.loaded()) else {}),
  }
  tree = {
    _PAST: {str(step): generator for step, generator in model.past.items()},
    _LABELLERS: {str(i): labeller.arrays for i, labeller in enumerate(model.labellers)},
  }
  leaves = [*_leaves(model.generator), *_leaves(tree)]
  tensors = {_name(path): leaf for path, leaf in leaves}
  _tensor_file.write(path, tensors, record)


def load(path: str | os.PathLike[str]) -> Synthesizer:
  """Reads what `save` wrote.

  Raises:
    InputError: no such file, not a generator of this package, or a damaged one.
  """
  path = os.fspath(path)
  header, record = _described(path)
  read = _load_moments if record['format'] == _MOMENTS_FORMAT else _load_gan
  with jax.numpy_dtype_promotion('standard'):  # features need it, as in a run
    return read(path, header, record)


def load_gan(path: str | os.PathLike[str]) -> GANSynthesizer:
  """`load` of a GAN's file.

  Raises:
    InputError: as `load`, or a file of moments.
  """
  model = load(path)
  if not isinstance(model, GANSynthesizer):
    raise _validate.InputError(f'expected {os.fspath(path)} to be of a GAN, got moments')
  return model


def _load_gan(path: str, header: dict[str, Any], record: dict[str, Any]) -> GANSynthesizer:
  _plugins.require(record.get('plugins', {}), path)  # its networks are in none of these files
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
  except _DAMAGE as error:
    raise _damaged(path, error) from None
  beside = {
    _PAST: {str(step): abstract for step in past},
    _LABELLERS: {str(i): _abstract(each) for i, each in enumerate(model.labellers)},
  }
  expected = {renamed(_name(p)): leaf for p, leaf in [*_leaves(abstract), *_leaves(beside)]}
  tensors = _tensor_file.read(path, header, expected)

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


def _damaged(path: str, error: Exception) -> _validate.InputError:
  found = f'it lacks {error}' if isinstance(error, KeyError) else ' '.join(str(error).split())
  return _validate.InputError(f'{path} is damaged: {found}')


def run_of(path: str | os.PathLike[str]) -> str | None:
  """The identity of the run whose snapshot a generator's file is; None where it does not say."""
  return _described(os.fspath(path))[1].get('run')


def guarantee_of(path: str | os.PathLike[str]) -> str | None:
  """What a model's file says that it guarantees (`Synthesizer.guarantee`); None: nothing."""
  return _described(os.fspath(path))[1].get('guarantee')


def _described(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
  header, record = _tensor_file.describe(path)
  if record.get('format') not in (_FORMAT, _MOMENTS_FORMAT, *_OLD_FORMATS):
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


def _without_arrays(record: dict[str, Any]) -> GANSynthesizer:
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
  moments = None if config.moments_share is None else settings.read(record['moments'], spec)
  return GANSynthesizer(gan, GeneratorState({}, {}), steps, labellers, moments=moments)


def _abstract(labeller: Labeller) -> dict[str, Any]:
  """Shapes and dtypes of a labeller's arrays, from its settings alone."""
  classifier = labeller.classifier
  state = jax.eval_shape(classifier.init, _keys.from_seed(0))
  return Labeller.of_state(classifier, state).arrays


# --- moments --------------------------------------------------------------------------------------


def _save_moments(model: MomentsSynthesizer, path: str | os.PathLike[str]) -> None:
  if model.network is None and model.config.matching_steps is not None:
    raise _validate.InputError('expected a model whose generator has been taught to match moments')
  record = {
    'format': _MOMENTS_FORMAT, **_public(model.moments).to_record(), 'data': model.spec.to_record(),
    'guarantee': model.guarantee(), **_features_of(model.moments),
  }  # fmt: skip
  upper = np.triu_indices(model.moments.encoding.second_dim)  # the rest is the same again
  arrays = {
    'counts': model.means.counts, 'sums': model.means.sums, 'scale': model.means.scale,
    'seconds': model.seconds[:, *upper],
  }  # fmt: skip
  tensors = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
  beside = {_AXES: model.means.axes, _CELLS: model.means.cells, _NETWORK: model.network}
  tensors |= {_name(place): leaf for place, leaf in _leaves(beside)}
  _tensor_file.write(path, tensors, record)


def _features_of(moments: Moments) -> dict[str, str]:
  """What released numbers mean that other machines or versions might take for something else."""
  encoding = moments.encoding
  if isinstance(encoding, TableEncoding):
    return {'features': partition.VERSION}
  return {'features': encoding.features.digest} if isinstance(encoding, ScatteringEncoding) else {}


def _public(moments: Moments) -> Moments:
  """Without the seed, if there was one: who knows it can draw the noise."""
  return dataclasses.replace(moments, config=moments.config.replace(seed=None))


def _load_moments(path: str, header: dict[str, Any], record: dict[str, Any]) -> MomentsSynthesizer:
  try:
    moments = settings.read(record, Spec.from_record(record['data']))
    beside: dict[str, Any] = {_AXES: moments.abstract_axes, _CELLS: moments.abstract_cells}
    beside[_NETWORK] = abstract_network(moments)
    if record.get('features') != _features_of(moments).get('features'):
      what = 'counts other pairs of cells' if moments.spec.schema else 'is of other features'
      raise _validate.InputError(f'{path} {what} than this version')
  except _DAMAGE as error:
    raise _damaged(path, error) from None
  groups, second, _ = moments.shape_of_seconds
  shapes = {
    'counts': (moments.spec.num_classes,), 'sums': moments.shape_of_sums, 'scale': (),
    'seconds': (groups, second * (second + 1) // 2),
  }  # fmt: skip
  expected = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
  expected |= {_name(place): leaf for place, leaf in _leaves(beside)}
  tensors = _tensor_file.read(path, header, expected)
  if not all(np.isfinite(array).all() for array in tensors.values()):
    raise _validate.InputError(f'{path} is damaged: expected finite numbers only')
  arrays = {name: np.asarray(tensors[name], np.float64) for name in shapes}
  beside = jax.tree_util.tree_map_with_path(lambda place, _: tensors[_name(place)], beside)
  axes = Axes(*map(np.asarray, beside[_AXES])) if beside[_AXES] else None
  cells = Cells(*map(np.asarray, beside[_CELLS])) if beside[_CELLS] else None
  seconds = np.zeros(moments.shape_of_seconds)
  seconds[:, *np.triu_indices(second)] = arrays['seconds']
  seconds += np.triu(seconds, 1).swapaxes(1, 2)
  means = Means(arrays['counts'], arrays['sums'], float(arrays['scale']), axes, cells)
  return MomentsSynthesizer(moments, means, seconds, beside[_NETWORK])


# --- names of arrays ------------------------------------------------------------------------------


def _leaves(tree: Any) -> list[tuple[Any, jax.Array]]:
  return jax.tree_util.tree_leaves_with_path(tree)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')

"""A generator that refines draws of moments: what it draws, what the release costs, and its run."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.moments.images.encoding import Gaussians, ImageEncoding
from dpgan_jax.networks.refiner import RELEASED, TEXTURE, Refiner
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import generator_file, plan, trainer
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases import moments as releases
from dpgan_jax.run.stages import GANStage
from tests.support import interruptions, nets

pytestmark = pytest.mark.usefixtures('short_curve')
CONFIG = TrainConfig(
  dataset='digits', target_epsilon=4.0, moments_share=0.4, steps=6, batch_size=64, delta=1e-4,
  generator='refiner', discriminator=nets.NAME, latent_dim=16 + TEXTURE, d_steps_per_g_step=1,
  steps_per_report=3, g_mixture=2, num_samples=40, seed=0,
)  # fmt: skip
SPEC = Spec(num_records=1440, shape=(8, 8, 1), class_names=tuple('0123456789'), name='digits')


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, digits):
  path = tmp_path_factory.mktemp('refining') / 'run'
  trainer.train(CONFIG, digits, path, progress=False)
  return path


def released_by(path, moments):
  with Checkpoints(path / 'moments' / 'checkpoints') as checkpoints:
    abstract = jax.eval_shape(lambda: releases.nothing_released(moments, jax.random.key(0)))
    return releases.released(moments, checkpoints.restore_latest(abstract)[1])


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(8, 8, 1), (7, 9, 3)])
def test_it_begins_with_draws_of_the_classes_as_they_are(shape):
  encoding, rng = ImageEncoding(shape, 12), np.random.default_rng(0)
  means, factors = rng.normal(0, 0.3, (3, 12)), rng.normal(0, 0.1, (3, 12, 12)).round(3)
  gaussians = Gaussians(encoding, means, factors, np.ones((3, 1)))
  arrays = gaussians.means, gaussians.factors, encoding.basis
  released = {n: jnp.asarray(a, jnp.float32) for n, a in zip(RELEASED, arrays, strict=True)}
  refiner = Refiner(shape, 3)
  z = jax.random.normal(jax.random.key(1), (6, 12 + TEXTURE))
  labels = jnp.asarray([0, 1, 2, 2, 1, 0])
  params = refiner.init(jax.random.key(0), z, labels)['params']
  images: Any = refiner.apply({'params': params, 'batch_stats': released}, z, labels)
  codes = gaussians.means[labels] + np.einsum(
    'ncd,nd->nc', gaussians.factors[labels], np.asarray(z)[:, :12]
  )
  drawn = encoding.decode(codes) / 127.5 - 1
  np.testing.assert_allclose(images, np.tanh(1.5 * drawn), atol=1.5 / 127)
  assert images.shape == (6, *shape)


def test_it_sees_what_is_near_a_pixel_and_the_texture_in_z():
  refiner, rng = Refiner((20, 20, 1), 2), np.random.default_rng(0)
  z, labels = jnp.asarray(rng.normal(size=(3, 6 + TEXTURE)), jnp.float32), jnp.asarray([0, 1, 1])
  variables = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32),
    jax.eval_shape(refiner.init, jax.random.key(0), z, labels),
  )
  images: Any = refiner.apply(variables, z, labels)
  other = variables['batch_stats']['basis'].at[:, 0].add(0.3)  # a corner of every draw
  changed = {**variables, 'batch_stats': {**variables['batch_stats'], 'basis': other}}
  moved = np.abs(refiner.apply(changed, z, labels) - images)[..., 0] > 0
  assert moved[:, 0, 0].all()
  assert not moved[:, 6:].any()
  assert not moved[:, :, 6:].any()
  textured: Any = refiner.apply(variables, z.at[:, -1].add(1), labels)
  assert (np.abs(textured - images) > 1e-3).mean() > 0.5


def test_the_average_begins_with_what_was_released_too(finished, digits):
  model = trainer.restore_model(finished).model
  released = released_by(finished, model.moments).model
  stage = GANStage(model.gan, digits, RunDir(finished), lambda *_: model, released=released)
  state = stage.prepare(stage.init(jax.random.key(0)))
  for g in (state.g, state.g_average):
    np.testing.assert_allclose(g.batch_stats['centres'], released.means, rtol=1e-6)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'moments_share': None}, 'expected moments_share with generator=refiner'),
    ({'generator': nets.NAME}, 'expected moments_share with generator=refiner'),
    ({'moments_share': 1.0}, 'moments_share'),
    ({'target_epsilon': None, 'noise_multiplier': 1.0}, 'nothing to share'),
    ({'steps': None, 'noise_multiplier': 1.0}, 'nothing to share'),
    ({'label_share': 0.3}, 'which is told the class'),
    ({'moments_coefficients': 9}, 'no moments_coefficients with method=gan'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(change, message):
  with pytest.raises(InputError, match=message):
    CONFIG.replace(**change)


@pytest.mark.parametrize('latent_dim', [TEXTURE, 64 + TEXTURE + 1])
def test_there_are_as_many_coefficients_as_an_image_has_at_most(latent_dim):
  with pytest.raises(InputError, match='latent_dim'):
    plan.make(CONFIG.replace(latent_dim=latent_dim), SPEC)


def test_the_release_spends_its_share_and_all_together_the_target():
  planned = plan.make(CONFIG, SPEC)
  assert planned.moments.detail == 16
  assert 0.97 * 0.4 * 4 < planned.moments.budget.epsilon() <= 0.4 * 4
  assert 0.97 * 4 < planned.budget.epsilon() <= 4.0
  assert planned.gan.mechanism.epsilon() < 4.0
  assert set(planned.budget.stages) == {'dp_sgd', *planned.moments.stages}


def test_without_privacy_no_stage_has_noise():
  planned = plan.make(CONFIG.replace(target_epsilon=math.inf), SPEC)
  assert all(m.noise_multiplier == 0 for m in planned.budget.stages.values())


def test_a_plan_is_read_back_from_its_record():
  planned = plan.make(CONFIG, SPEC)
  record = json.loads(json.dumps({**planned.to_record(), 'data': SPEC.to_record()}))
  assert plan.read(record, 'config.json').to_record() == planned.to_record()
  del record['moments']
  with pytest.raises(InputError, match='not the record of a run'):
    plan.read(record, 'config.json')


# --- a run ---------------------------------------------------------------------------------------


def test_every_stage_is_charged_and_stated(finished):
  run = RunDir.open(finished, create=False)
  planned = plan.read(run.load_config(), run.config)
  ledger = Ledger.read(run.ledger, stages=planned.budget.stages, identity=run.identity())
  charged = {name: ledger.charged_steps(name) for name in ledger.stages}
  assert charged == {'moments': 1, 'moments_means': 1, 'dp_sgd': 6}
  statement = run_statement.build(run)
  assert statement.epsilon == ledger.epsilon() == planned.budget.epsilon()
  assert set(statement.to_json()['mechanisms_beside']) == {'moments', 'moments_means'}
  text = statement.to_markdown()
  assert 'moments are released, of which the generator refines draws' in text
  assert 'Discrete Gaussian noise' in text
  assert 'names the samples' not in text


def test_what_was_released_is_not_trained_and_its_draws_are_of_the_class(finished):
  model = trainer.restore_model(finished).model
  moments = released_by(finished, model.moments)
  arrays = moments.model.means, moments.model.factors, moments.model.encoding.basis
  for generator in (model.generator, *model.past.values()):
    for name, array in zip(RELEASED, arrays, strict=True):
      np.testing.assert_allclose(generator.batch_stats[name], array, rtol=1e-4, atol=1e-5)
  images, labels = model.sample(2000, key=jax.random.key(0))
  means = np.stack([images[labels == k].mean(axis=0) for k in range(10)])
  own = np.stack([moments.sample(200, labels=np.full(200, k), key=jax.random.key(k))[0].mean(axis=0)
                  for k in range(10)])  # fmt: skip
  together = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(means, own, strict=True)]
  assert min(together) > 0.9  # after six steps it is near to what it began with


def test_a_file_of_it_draws_the_same_at_the_same_epsilon(finished, tmp_path):
  model = trainer.restore_model(finished).model
  generator_file.save(model, tmp_path / 'model.safetensors')
  again = generator_file.load(tmp_path / 'model.safetensors')
  assert again.epsilon() == model.epsilon() > model.gan.mechanism.epsilon()
  assert again.moments.config.seed is None
  drawn = [m.sample(30, key=jax.random.key(3)) for m in (model, again)]
  for own, other in zip(*drawn, strict=True):
    np.testing.assert_array_equal(own, other)


def test_an_epsilon_without_what_is_refined_is_not_said(finished):
  model = trainer.restore_model(finished).model
  planned = plan.make(CONFIG, SPEC)
  for bare in (model, planned):
    with pytest.raises(InputError, match='expected the moments of a generator that refines them'):
      _ = dataclasses.replace(bare, moments=None).budget


@pytest.mark.parametrize(
  ('stage', 'step'),
  [('moments', 1), pytest.param('dp_sgd', 6, marks=pytest.mark.slow)],  # test_trainer has steps
)
def test_an_interrupted_run_ends_in_the_same_bits(stage, step, finished, tmp_path, digits):
  path = tmp_path / 'run'
  with interruptions.interrupted(stage, step):
    trainer.train(CONFIG, digits, path, progress=False)
  trainer.train(CONFIG, digits, path, progress=False)
  for name in ('metrics.jsonl', 'moments/metrics.jsonl'):
    assert (path / name).read_bytes() == (finished / name).read_bytes()
  for name in ('x', 'y'):
    np.testing.assert_array_equal(
      np.load(path / 'samples.npz')[name], np.load(finished / 'samples.npz')[name]
    )

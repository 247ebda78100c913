"""The CNN that has a say in the labels of samples: one more private stage, after the GAN."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dpgan_jax._validate import InputError
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import fitting, labelling
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.labelling import Labeller
from dpgan_jax.publishing import bundle, run_statement
from dpgan_jax.run import generator_file, plan, trainer
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.secrets import Secret
from dpgan_jax.run.stages import ClassifierStage, make_chunk
from tests.support import interruptions, nets

pytestmark = [pytest.mark.usefixtures('short_curve'), pytest.mark.slow]
CONFIG = TrainConfig(
  dataset='digits', target_epsilon=1.0, label_share=0.3, label_cnn_share=0.3, steps=8,
  batch_size=64, delta=1e-4, **nets.SMALLEST_WITHOUT_CLASSES, latent_dim=8,
  steps_per_report=4, num_samples=40, reports_per_snapshot=1, seed=0,
)  # fmt: skip
SPEC = Spec(num_records=1440, shape=(8, 8, 1), class_names=tuple('0123456789'), name='digits')


@pytest.fixture(scope='module', autouse=True)
def few_samples():
  """What the CNN learns from in these tests: enough to show what becomes of it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(labelling, '_MOST_SAMPLES', 2000)
    yield


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, digits):
  path = tmp_path_factory.mktemp('label_cnn') / 'run'
  trainer.train(CONFIG, digits, path, progress=False)
  return path


@functools.cache
def planned(config: TrainConfig = CONFIG) -> plan.Plan:
  return plan.make(config, SPEC)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'label_share': None}, 'label_share with label_cnn_share'),
    ({'label_share': 0.5, 'label_cnn_share': 0.5}, 'leave something to the GAN'),
    ({'label_cnn_share': 1.0}, 'label_cnn_share'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(change, message):
  with pytest.raises(InputError, match=message):
    CONFIG.replace(**change)


def test_every_stage_spends_its_share_and_all_together_the_target():
  parts = planned()
  (linear,), (cnn,) = parts.before, parts.after
  assert set(parts.budget.stages) == {'classifier', 'classifier_centre', 'dp_sgd', 'label_cnn'}
  assert 0.95 * 0.3 < cnn.budget.epsilon() <= 0.3
  assert 0.95 * 0.3 < linear.budget.epsilon() <= 0.3
  assert 0.97 < parts.budget.epsilon() <= 1.0


def test_without_privacy_it_has_no_noise_but_steps_of_the_same_length():
  (cnn,) = planned(CONFIG.replace(target_epsilon=math.inf)).after
  assert cnn.mechanism.noise_multiplier == 0
  assert cnn.mechanism.l2_clip_norm == 0.5


@pytest.mark.slow  # a matter of usefulness
def test_the_more_noise_the_shorter_its_steps():
  noise = []
  for epsilon, n in ((100.0, 60_000), (1.0, 60_000), (1.0, 1440)):
    config = CONFIG.replace(target_epsilon=epsilon, delta=1e-5)
    (cnn,) = labelling.after_gan(config, dataclasses.replace(SPEC, num_records=n))
    m, rate = cnn.mechanism, cnn.config.learning_rate
    noise.append((rate, rate * m.noise_multiplier * m.l2_clip_norm / m.batch_size))
  assert noise[0][0] == 8  # as without noise
  assert noise[0][1] < 0.0033
  assert noise[0][0] > noise[1][0] > noise[2][0]
  np.testing.assert_allclose([noise[1][1], noise[2][1]], 0.0033)


@pytest.mark.parametrize('lost', ['label_cnn', 'labelling'])
def test_a_plan_is_read_back_from_its_record_and_not_without_a_stage(lost):
  about = {'data': SPEC.to_record()}
  record = json.loads(json.dumps({**planned().to_record(), **about}))
  again = plan.read(record, 'config.json')
  assert again.to_record() == planned().to_record()
  assert again.budget.epsilon() == planned().budget.epsilon()
  del record[lost]
  with pytest.raises(InputError, match='not the record of a run'):
    plan.read(record, 'config.json')


def test_no_key_of_a_stage_is_one_of_another():
  """All follow from the secret of the run: a shared key would add the same noise twice."""
  parts, secret = planned(), Secret.of_seed(0)

  def keys(model, name):
    leaves = jax.tree.leaves(model.init(secret.key(name)))
    typed = [x for x in leaves if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return {tuple(np.ravel(jax.random.key_data(key)).tolist()) for key in typed}

  found = [
    keys(parts.after[0], parts.after[0].stage),
    keys(parts.before[0], parts.before[0].stage),
    keys(parts.gan, 'dp_sgd'),
  ]
  assert [len(k) for k in found] == [2, 2, 3]
  assert len(set.union(*found)) == 7


# --- what it learns ------------------------------------------------------------------------------


@pytest.mark.slow  # a matter of usefulness
def test_it_is_taught_by_samples_then_corrected_by_records(digits):
  """Samples whose labels say little teach a CNN little; the private steps do the rest."""
  (cnn,) = planned(CONFIG.replace(target_epsilon=math.inf)).after
  unseen = datasets.load_dataset('digits', split='test')
  rng = np.random.default_rng(0)
  asked = []

  def draw(num, key):
    asked.append((num, jax.random.key_data(key).tolist()))
    which = rng.integers(0, len(digits), num)  # real ones, one label in three wrong
    wrong = rng.random(num) < 1 / 3
    return digits.images[which], np.where(wrong, rng.integers(0, 10, num), digits.labels[which])

  def right(state):
    labels = labelling.label([Labeller.of_state(cnn, state)], unseen.images)
    return (labels == unseen.labels).mean()

  state = labelling.taught(cnn, cnn.init(jax.random.key(1)), draw, jax.random.key(7))
  assert asked == [(2000, asked[0][1])]
  before = right(state)
  assert before > 0.3  # 28 steps; a guess is right one time in ten
  stage = ClassifierStage(cnn, digits)
  after, _ = make_chunk(stage, cnn.mechanism.steps)(state, *stage.data())
  assert right(after) > max(before, 0.9)


@pytest.mark.slow  # what labelling adds up is tested in test_labelling
def test_two_opinions_are_added(finished):
  linear, cnn = trainer.restore_model(finished).model.labellers
  images = np.random.default_rng(0).integers(0, 256, (300, *SPEC.shape), np.uint8)  # of no class
  sums = linear.log_probabilities(images) + cnn.log_probabilities(images)
  together = labelling.log_probabilities([linear, cnn], images)
  np.testing.assert_allclose(together, sums, rtol=1e-6)
  np.testing.assert_allclose(np.exp(linear.log_probabilities(images)).sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(labelling.label([linear, cnn], images), sums.argmax(axis=1))
  assert (sums.argmax(axis=1) != labelling.label([cnn], images)).any()
  certain = dataclasses.replace(cnn, params=jax.tree.map(lambda p: 10 * p, cnn.params))
  swayed = labelling.label([linear, certain], images)
  assert (swayed == labelling.label([certain], images)).mean() > 0.95  # nearly undecided elsewhere
  assert (swayed != labelling.label([linear], images)).any()


# --- a run ---------------------------------------------------------------------------------------


def test_every_stage_is_charged_and_stated(finished):
  run = RunDir.open(finished, create=False)
  parts = plan.read(run.load_config(), run.config)
  ledger = Ledger.read(run.ledger, stages=parts.budget.stages, identity=run.identity())
  charged = {name: ledger.charged_steps(name) for name in ledger.stages}
  assert charged == {'classifier': 150, 'classifier_centre': 1, 'dp_sgd': 8, 'label_cnn': 200}
  statement = run_statement.build(run)
  assert statement.finished
  assert statement.epsilon == ledger.epsilon() == parts.budget.epsilon()
  assert 'label_cnn' in statement.to_json()['mechanisms_beside']
  assert '| label_cnn | ' in statement.to_markdown()


def test_file_and_bundle_hold_the_cnn_and_the_whole_cost(finished, tmp_path):
  model = trainer.restore_model(finished).model
  generator_file.save(model, tmp_path / 'g.safetensors')
  loaded = generator_file.load(tmp_path / 'g.safetensors')
  assert loaded.epsilon() == model.epsilon() == run_statement.build(RunDir(finished)).epsilon
  for one, two in zip(
    model.sample(40, key=jax.random.key(2)), loaded.sample(40, key=jax.random.key(2)), strict=True
  ):
    np.testing.assert_array_equal(one, two)
  bundle.release(RunDir(finished), tmp_path / 'bundle', num=20, seed_is_secret=True)
  assert 'computed again' in bundle.verify(tmp_path / 'bundle')


def test_generators_of_earlier_steps_cost_less_and_have_no_cnn(finished):
  snapshot = sorted((finished / 'snapshots').glob('*.safetensors'))[0]
  early = generator_file.load(snapshot)
  assert [labeller.classifier.stage for labeller in early.labellers] == ['classifier']
  assert early.epsilon() < trainer.restore_model(finished).model.epsilon()


def test_a_file_without_the_cnn_it_names_or_with_one_nobody_asked_for_is_refused(
  finished, tmp_path
):
  path = tmp_path / 'g.safetensors'
  generator_file.save(trainer.restore_model(finished).model, path)
  tensors = safetensors.numpy.load_file(path)
  with safetensors.safe_open(path, 'np') as file:
    record = json.loads(file.metadata()['dpgan_jax'])

  def rewritten(change):
    changed = json.loads(json.dumps(record))
    change(changed)
    safetensors.numpy.save_file(tensors, path, {'dpgan_jax': json.dumps(changed)})
    return path

  with pytest.raises(InputError, match='which no such generator has'):  # the arrays of one more
    generator_file.load(rewritten(lambda r: r['labellers'].pop()))
  with pytest.raises(InputError, match='expected 1 labellers'):
    generator_file.load(rewritten(lambda r: r['config'].update(label_cnn_share=None)))
  with pytest.raises(InputError, match="lacks 'label_cnn'"):  # its stage goes by another name
    generator_file.load(
      rewritten(lambda r: r['labellers'][1].update(stages=r['labellers'][0]['stages']))
    )


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.slow  # test_labelling interrupts both of its stages in the one loop
def test_interrupted_twice_in_its_stage_it_ends_the_same(finished, digits, tmp_path):
  """Before any of its checkpoints but the first, which holds what it was taught; and later on."""
  path = tmp_path / 'run'
  with interruptions.interrupted('label_cnn', 10):
    trainer.train(CONFIG, digits, path, progress=False, data_on='host')
  unfinished = run_statement.build(RunDir(path))
  assert not unfinished.finished
  assert 'what names its samples' in unfinished.progress()
  assert unfinished.epsilon == run_statement.build(RunDir(finished)).epsilon  # counted whole
  assert len(trainer.restore_model(path).model.labellers) == 1
  with pytest.raises(InputError, match='what names its samples'):
    bundle.release(RunDir(path), tmp_path / 'bundle', num=20, seed_is_secret=True)
  bundle.release(
    RunDir(path), tmp_path / 'bundle', num=20, seed_is_secret=True, allow_unfinished=True
  )
  assert 'computed again' in bundle.verify(tmp_path / 'bundle')

  with pytest.MonkeyPatch.context() as patch:  # what it has been taught is not taught again
    patch.setattr(fitting, 'fit', lambda *_, **__: pytest.fail('taught twice'))
    with interruptions.interrupted('label_cnn', 120):
      trainer.train(CONFIG, digits, path, progress=False, data_on='host')
    trainer.train(CONFIG, digits, path, progress=False)
  names = ('metrics.jsonl', 'label_cnn/metrics.jsonl')
  assert [(path / n).read_bytes() for n in names] == [(finished / n).read_bytes() for n in names]
  for name in ('x', 'y'):
    np.testing.assert_array_equal(
      np.load(path / 'samples.npz')[name], np.load(finished / 'samples.npz')[name]
    )


def test_a_lost_cnn_is_not_trained_a_second_time(finished, digits, tmp_path):
  copy = tmp_path / 'run'
  shutil.copytree(finished, copy)
  shutil.rmtree(copy / 'label_cnn')
  with pytest.raises(InputError, match='second release'):
    trainer.train(CONFIG, digits, copy, progress=False)
  with pytest.raises(InputError, match='no finished classifier to label samples'):
    trainer.restore_model(copy)  # nor are its samples labelled by the linear classifier alone

"""A private classifier that labels what an unconditional generator draws, in one run with it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpgan_jax._validate import InputError
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets, distort
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import gan_synthesizer, labelling
from dpgan_jax.models.classifier_inputs import prepare
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.publishing import bundle, run_statement
from dpgan_jax.run import generator_file, plan, secrets, trainer
from dpgan_jax.run.directory import RunDir
from tests.support import interruptions, nets
from tests.support.classifiers import train_classifier

pytestmark = pytest.mark.usefixtures('short_curve')
CONFIG = TrainConfig(
  dataset='digits', target_epsilon=1.0, label_share=0.4, steps=8, batch_size=64, delta=1e-4,
  **nets.SMALLEST_WITHOUT_CLASSES, latent_dim=8, steps_per_report=4, num_samples=40,
  reports_per_snapshot=1, seed=0,
)  # fmt: skip
SPEC = Spec(num_records=1440, shape=(8, 8, 1), class_names=tuple('0123456789'), name='digits')


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, digits):
  path = tmp_path_factory.mktemp('labelling') / 'run'
  trainer.train(CONFIG, digits, path, progress=False)
  return path


def files(path):
  names = ('metrics.jsonl', 'labeller/metrics.jsonl', 'ledger.jsonl')
  samples = np.load(path / 'samples.npz')
  return [(path / name).read_bytes() for name in names], samples['x'], samples['y']


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'generator': 'compact', 'discriminator': 'compact'}, 'which is told the class'),
    ({'label_share': 1.0}, 'label_share'),
    ({'label_share': 0.0}, 'label_share'),
    ({'target_epsilon': None, 'noise_multiplier': 1.0}, 'nothing to share'),
    ({'steps': None, 'noise_multiplier': 1.0}, 'nothing to share'),
    ({'neighboring_relation': 'replace_one'}, 'add_or_remove_one with label_share'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(change, message):
  with pytest.raises(InputError, match=message):
    CONFIG.replace(**change)


def test_one_class_needs_no_names():
  with pytest.raises(InputError, match='at least two classes'):
    labelling.before_gan(CONFIG, dataclasses.replace(SPEC, class_names=('0',)))
  assert labelling.before_gan(CONFIG.replace(label_share=None), SPEC) == ()


def test_the_classifier_spends_its_share_and_all_together_the_target():
  planned = plan.make(CONFIG, SPEC)
  (classifier,) = planned.before
  assert planned.after == ()
  assert 0.95 * 0.4 < classifier.budget.epsilon() <= 0.4
  assert 0.97 < planned.budget.epsilon() <= 1.0
  assert planned.gan.mechanism.epsilon() < 1.0


def test_without_privacy_no_stage_has_noise():
  planned = plan.make(CONFIG.replace(target_epsilon=math.inf), SPEC)
  assert all(m.noise_multiplier == 0 for m in planned.budget.stages.values())
  assert planned.before[0].mechanism.l2_clip_norm == 0.1  # its steps are as long as with noise


def test_a_plan_is_read_back_from_its_record():
  planned = plan.make(CONFIG, SPEC)
  about = {'data': SPEC.to_record()}
  record = json.loads(json.dumps({**planned.to_record(), **about}))
  assert plan.read(record, 'config.json').to_record() == planned.to_record()
  del record['labelling']
  with pytest.raises(InputError, match='not the record of a run'):
    plan.read(record, 'config.json')


# --- a run ---------------------------------------------------------------------------------------


def test_every_stage_is_charged_and_stated(finished):
  run = RunDir.open(finished, create=False)
  planned = plan.read(run.load_config(), run.config)
  ledger = Ledger.read(run.ledger, stages=planned.budget.stages, identity=run.identity())
  charged = {name: ledger.charged_steps(name) for name in ledger.stages}
  assert charged == {'classifier': 150, 'classifier_centre': 1, 'dp_sgd': 8}
  statement = run_statement.build(run)
  assert statement.epsilon == ledger.epsilon() == planned.budget.epsilon()
  assert statement.epsilon > planned.gan.mechanism.epsilon()
  assert set(statement.to_json()['mechanisms_beside']) == {'classifier', 'classifier_centre'}
  text = statement.to_markdown()
  assert 'classifier_centre' in text
  assert 'names the samples' in text


def test_samples_have_the_class_that_the_labeller_says(finished):
  model = trainer.restore_model(finished).model
  assert model.is_conditional
  images, labels = model.sample(40, key=jax.random.key(1))
  assert labels is not None
  np.testing.assert_array_equal(labelling.label(model.labellers, images), labels)
  again, _ = model.sample(40, key=jax.random.key(1))
  np.testing.assert_array_equal(images, again)
  assert len({image.tobytes() for image in images}) == 40
  drawn = np.unique(labels)  # a generator of eight steps need not draw every class
  wanted = np.resize(drawn, 12)
  images, labels = model.sample(12, labels=wanted, key=jax.random.key(1))
  np.testing.assert_array_equal(labels, wanted)
  np.testing.assert_array_equal(labelling.label(model.labellers, images), wanted)


@given(
  hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(2, 5)), elements=st.floats(
    -8, 8, width=32)),
  st.floats(0.01, 1.0),
)  # fmt: skip
def test_the_clearest_are_so_many_of_each_class_and_none_clearer_is_left_out(said, share):
  kept = labelling.clearest(said, share)
  ordered = np.sort(said, axis=-1)
  margins, classes = ordered[:, -1] - ordered[:, -2], said.argmax(axis=-1)
  for k in range(said.shape[1]):
    inside, outside = margins[kept & (classes == k)], margins[~kept & (classes == k)]
    assert len(inside) == math.ceil(share * (len(inside) + len(outside)))
    assert not len(outside) or inside.min() >= outside.max()


@pytest.mark.slow
def test_the_clearest_samples_are_those_of_what_would_be_drawn_anyway(finished, monkeypatch):
  model = trainer.restore_model(finished).model
  drawn, _ = model.sample(3000, key=jax.random.key(1))
  said = labelling.log_probabilities(model.labellers, drawn)
  # Three draws of 1,000, as many as 1,500 samples of a share of half need, looked at together.
  kept = labelling.clearest(said, 0.5)
  images, labels = model.sample(1500, clearest=0.5, key=jax.random.key(1))
  np.testing.assert_array_equal(images, drawn[kept][:1500])
  np.testing.assert_array_equal(labels, said[kept][:1500].argmax(axis=-1))
  monkeypatch.setattr(gan_synthesizer, '_DRAWS_LABELLED_AT_ONCE', 1)
  apart = [labelling.clearest(part, 0.5) for part in np.split(said, 3)]
  images, _ = model.sample(1500, clearest=0.5, key=jax.random.key(1))
  np.testing.assert_array_equal(images, drawn[np.concatenate(apart)][:1500])
  images, _ = model.sample(2500, key=jax.random.key(1))  # all of them, in parts
  np.testing.assert_array_equal(images, drawn[:2500])


@pytest.mark.slow
def test_the_clearest_samples_of_classes_that_were_asked_for(finished):
  model = trainer.restore_model(finished).model

  def margin(share):
    _, names = model.sample(1000, key=jax.random.key(1))
    wanted = np.resize(np.unique(names), 60)
    images, labels = model.sample(60, labels=wanted, clearest=share, key=jax.random.key(1))
    np.testing.assert_array_equal(labels, wanted)
    np.testing.assert_array_equal(labelling.label(model.labellers, images), wanted)
    two = np.sort(labelling.log_probabilities(model.labellers, images), axis=-1)[:, -2:]
    return (two[:, 1] - two[:, 0]).mean()

  assert margin(0.1) > 1.1 * margin(1.0)


@pytest.mark.parametrize(
  ('share', 'message'),
  [(0.0, 'clearest in'), (1.1, 'clearest in'), (math.nan, 'clearest in'), ('x', 'clearest to be'),
   (0.009, 'expected clearest >= 0.01, got 0.009')],
)  # fmt: skip
def test_a_share_that_is_none_is_refused(finished, share, message):
  with pytest.raises(InputError, match=message):
    trainer.restore_model(finished).model.sample(5, clearest=share, key=jax.random.key(1))


def test_pictures_have_at_most_so_many_of_each_class(finished):
  model = trainer.restore_model(finished).model
  images, labels = model.sample_for_picture(30, jax.random.key(1))
  assert labels is not None
  assert np.all(np.diff(labels) >= 0)
  assert 0 < np.bincount(labels).max() <= 3
  np.testing.assert_array_equal(labelling.label(model.labellers, images), labels)


def test_a_class_that_is_never_drawn_is_an_error(finished, monkeypatch):
  model = trainer.restore_model(finished).model
  monkeypatch.setattr(gan_synthesizer, '_MOST_DRAWS', 1)
  monkeypatch.setattr(
    labelling.Labeller, 'log_probabilities', lambda self, images: np.eye(10)[0 * images[:, 0, 0, 0]]
  )
  with pytest.raises(InputError, match='too few are of class 3'):
    model.sample(5, labels=np.full(5, 3), key=jax.random.key(1))


def test_the_file_holds_the_labeller_and_the_whole_cost(finished, tmp_path):
  model = trainer.restore_model(finished).model
  generator_file.save(model, tmp_path / 'g.safetensors')
  loaded = generator_file.load(tmp_path / 'g.safetensors')
  assert loaded.epsilon() == model.epsilon() == run_statement.build(RunDir(finished)).epsilon
  for one, two in zip(
    model.sample(20, key=jax.random.key(2)), loaded.sample(20, key=jax.random.key(2)), strict=True
  ):
    np.testing.assert_array_equal(one, two)
  (labeller,) = loaded.labellers
  assert labeller.classifier.config.seed is None
  snapshot = sorted((finished / 'snapshots').glob('*.safetensors'))[0]
  assert len(generator_file.load(snapshot).labellers) == 1


def test_a_file_whose_labeller_was_taken_out_is_refused(finished, tmp_path):
  """Its ε would be that of the GAN alone."""
  path = tmp_path / 'g.safetensors'
  generator_file.save(trainer.restore_model(finished).model, path)
  tensors = safetensors.numpy.load_file(path)
  with safetensors.safe_open(path, 'np') as file:
    record = json.loads(file.metadata()['dpgan_jax'])
  record['labellers'] = []
  for changed in (record, {**record, 'config': {**record['config'], 'label_share': None}}):
    safetensors.numpy.save_file(tensors, path, {'dpgan_jax': json.dumps(changed)})
    with pytest.raises(InputError, match='labellers'):
      generator_file.load(path)


@pytest.mark.slow  # test_release has the bundle
def test_the_bundle_is_verified_with_all_stages_and_says_what_was_done_to_samples(
  finished, tmp_path, monkeypatch
):
  run = RunDir.open(finished, create=False)
  bundle.release(run, tmp_path / 'bundle', num=20, seed_is_secret=True)
  assert 'computed again' in bundle.verify(tmp_path / 'bundle')
  card = (tmp_path / 'bundle' / bundle.DATA_CARD).read_text()
  assert 'Samples are not filtered or chosen.' in card
  assert 'rounded; nothing else is done. Labels are what a private classifier says' in card

  monkeypatch.setattr(secrets, 'root_key', lambda seed: jax.random.key(seed or 7))
  bundle.release(
    run, tmp_path / 'other', num=20, clearest=0.25, distorted=True, seed_is_secret=True
  )
  card = (tmp_path / 'other' / bundle.DATA_CARD).read_text()
  assert 'these are the 25 % of each class' in card
  assert 'not filtered' not in card
  assert 'turned by at most 12 degrees' in card
  _, key, distort_key, _ = jax.random.split(jax.random.key(7), 4)
  model = trainer.restore_model(finished).model
  images, labels = model.sample(20, clearest=0.25, key=key)
  with np.load(tmp_path / 'other' / 'samples.npz') as samples:
    np.testing.assert_array_equal(samples['x'], distort.distort(images, distort_key)[..., 0])
    np.testing.assert_array_equal(samples['y'], labels)


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_in_both_stages_it_ends_the_same(finished, digits, tmp_path):
  """Wherever the records of labeller and GAN are in between."""
  path = tmp_path / 'run'
  for stage, step, where in (('classifier', 70, 'device'), ('dp_sgd', 8, 'host')):
    with interruptions.interrupted(stage, step):
      trainer.train(CONFIG, digits, path, progress=False, data_on=where)
  trainer.train(CONFIG, digits, path, progress=False)
  (texts, x, y), (whole, x_whole, y_whole) = files(path), files(finished)
  assert texts[:2] == whole[:2]
  np.testing.assert_array_equal(x, x_whole)
  np.testing.assert_array_equal(y, y_whole)


def test_a_lost_labeller_is_not_trained_a_second_time(finished, digits, tmp_path):
  copy = tmp_path / 'run'
  shutil.copytree(finished, copy)
  shutil.rmtree(copy / 'labeller')
  with pytest.raises(InputError, match='second release'):
    trainer.train(CONFIG, digits, copy, progress=False)
  with pytest.raises(InputError, match='no finished classifier'):
    trainer.restore_model(copy)


def test_samples_of_a_known_generator_are_named_right(digits):
  """Trained without noise, the labeller knows real digits that it has not seen."""
  config = dataclasses.replace(CONFIG, target_epsilon=math.inf)
  (classifier,) = labelling.before_gan(config, SPEC)
  state = train_classifier(
    classifier, prepare(classifier.config, digits.images), digits.labels, jax.random.key(3),
    charge=lambda *_: None,
  )  # fmt: skip
  labeller = labelling.Labeller.of_state(classifier, state)
  unseen = datasets.load_dataset('digits', split='test')
  assert (labelling.label([labeller], unseen.images) == unseen.labels).mean() > 0.9

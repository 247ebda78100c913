"""TensorFlow without privacy, and TF-Privacy's optimisers and model; see `protocol`.

`tape` is what the report trained with: a vector of losses, whose Jacobian TF-Privacy's optimiser
takes under a tape, and clips record by record. `vectorized` is its variant that clips all records
at once. `fast` is its model with the registry of layers; it has no rule for convolutions, and the
model then clips gradients under `tf.vectorized_map`, compiled by XLA (`fast_no_xla`: not).
"""

from __future__ import annotations

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_privacy
from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
from tensorflow_privacy.privacy.keras_models import dp_keras_model
from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras, dp_optimizer_keras_vectorized

from experiments.benchmarks import nets, protocol
from experiments.benchmarks.protocol import Job, Session, cores, measure_peak, serve


def _apply(layer: nets.Layer, x: Any) -> Any:
  activation = {'leaky_relu': tf.nn.leaky_relu}.get(layer.activation, layer.activation)
  if layer.kernel:
    padding = 'same' if layer.same else 'valid'
    keras_layer = tf.keras.layers.Conv2D(
      layer.out, layer.kernel, layer.stride, padding, activation=activation, name=layer.name
    )
  else:
    keras_layer = tf.keras.layers.Dense(layer.out, activation=activation, name=layer.name)
  x = keras_layer(x)
  return tf.keras.layers.MaxPool2D(2, 1)(x) if layer.pool else x


def make_model(net: nets.Net, model_class: Any = tf.keras.Model, **arguments: Any) -> Any:
  """A network of `nets` as a functional Keras model of images, and planes of labels if it has any.

  TensorFlow's leaky ReLU has the slope 0.2 by default; the others set it.
  """
  inputs = [tf.keras.Input(nets.IMAGE)]
  x: Any = inputs[0]
  for index, layer in enumerate(net.layers):
    if not layer.kernel and len(x.shape) > 2:
      x = tf.keras.layers.Flatten()(x)
    x = _apply(layer, x)
    if index == 0 and net.label_layer:
      inputs.append(tf.keras.Input((*nets.IMAGE[:2], nets.CLASSES)))
      x = tf.keras.layers.Concatenate()([x, _apply(net.label_layer, inputs[1])])
  if len(x.shape) > 2:
    x = tf.keras.layers.Flatten()(x)
  return model_class(inputs=inputs, outputs=x, **arguments)


class Program(protocol.Program):
  """One mode; each step is one call of a `tf.function`."""

  def __init__(self, job: Job):
    tf.random.set_seed(0)
    self.job = job
    images, labels = job.data()
    self.images, self.labels = tf.constant(images), tf.constant(labels)
    makers = {
      'nonprivate': self._make_nonprivate,
      'tape': lambda: self._make_optimizer(dp_optimizer_keras.DPKerasSGDOptimizer),
      'vectorized': lambda: self._make_optimizer(
        dp_optimizer_keras_vectorized.VectorizedDPKerasSGDOptimizer
      ),
      'fast': lambda: self._make_fast(use_xla=True),
      'fast_no_xla': lambda: self._make_fast(use_xla=False),
    }
    self.step = makers[job.mode]()
    params = nets.init_params(job.spec)
    for sized in nets.sized_layers(job.spec):
      name = sized.layer.name
      weights = [params[f'{name}/kernel'], params[f'{name}/bias']]
      self.model.get_layer(name).set_weights(weights)

  def _batch(self) -> tuple[list[Any], Any]:
    """The inputs of the model and the targets of the loss."""
    if self.job.fixed_batch:
      index = tf.range(self.job.batch)
    else:
      index = tf.random.uniform((self.job.batch,), 0, self.job.examples, tf.int32)
    images, labels = tf.gather(self.images, index), tf.gather(self.labels, index)
    inputs = [images]
    if self.job.spec.label_layer:
      one_hot = tf.one_hot(labels, nets.CLASSES)[:, None, None, :]
      inputs.append(tf.tile(one_hot, [1, *nets.IMAGE[:2], 1]))
    if self.job.spec.loss == 'softmax':
      return inputs, labels
    return inputs, tf.ones((self.job.batch, 1))

  def _losses(self, logits: Any, targets: Any) -> Any:
    if self.job.spec.loss == 'softmax':
      return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    return tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)[:, 0]

  def _make_nonprivate(self) -> Any:
    self.model = make_model(self.job.spec)
    variables = self.model.trainable_variables
    optimizer = tf.keras.optimizers.SGD(self.job.learning_rate)
    optimizer.build(variables)

    @tf.function
    def step() -> None:
      inputs, targets = self._batch()
      with tf.GradientTape() as tape:
        loss = tf.reduce_mean(self._losses(self.model(inputs, training=True), targets))
      optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return step

  def _make_optimizer(self, optimizer_class: Any) -> Any:
    self.model = make_model(self.job.spec)
    variables = self.model.trainable_variables
    optimizer = optimizer_class(
      l2_norm_clip=self.job.clip, noise_multiplier=self.job.noise,
      num_microbatches=self.job.batch, learning_rate=self.job.learning_rate,
    )  # fmt: skip

    @tf.function
    def step() -> None:
      inputs, targets = self._batch()
      with tf.GradientTape(persistent=True) as tape:
        losses = self._losses(self.model(inputs, training=True), targets)
      optimizer.apply_gradients(optimizer._compute_gradients(losses, variables, tape=tape))

    return step

  def _make_fast(self, use_xla: bool) -> Any:
    self.model = make_model(
      self.job.spec, dp_keras_model.DPModel, l2_norm_clip=self.job.clip,
      noise_multiplier=self.job.noise, use_xla=use_xla,
      layer_registry=layer_registry.make_default_layer_registry(),
    )  # fmt: skip
    if not self.model._enable_fast_peg_computation:
      self.note = 'no fast rule for Conv2D: falls back to vectorized_map'
    optimizer = tf.keras.optimizers.SGD(self.job.learning_rate)
    if self.job.spec.loss == 'softmax':
      loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
      loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    self.model.compile(optimizer=optimizer, loss=loss)
    # Variables cannot be made inside a compiled function.
    optimizer.build(self.model.trainable_variables)
    self.model._make_clipping_loss()

    @tf.function
    def step() -> None:
      inputs, targets = self._batch()
      self.model.train_step((tuple(inputs) if len(inputs) > 1 else inputs[0], targets))

    return step

  def run(self, steps: int) -> int:
    for _ in range(steps):
      self.step()
    # On a CPU calls return when they are done; reading a variable makes sure everywhere.
    self.model.trainable_variables[0].numpy()
    return steps

  def parameters(self) -> dict[str, np.ndarray]:
    found = {}
    for sized in nets.sized_layers(self.job.spec):
      kernel, bias = self.model.get_layer(sized.layer.name).get_weights()
      found[f'{sized.layer.name}/kernel'], found[f'{sized.layer.name}/bias'] = kernel, bias
    return found


def _describe() -> dict[str, Any]:
  versions = {
    'tensorflow': tf.__version__,
    'tensorflow-privacy': tensorflow_privacy.__version__,
    'numpy': np.__version__,
  }
  devices = tf.config.list_physical_devices('GPU')
  threads = tf.config.threading.get_intra_op_parallelism_threads()
  return {'versions': versions, 'threads': threads, 'device': 'gpu' if devices else 'cpu'}


def _peak() -> float:
  size = 3072
  a = tf.random.uniform((size, size))
  return measure_peak(lambda: tf.linalg.matmul(a, a).numpy(), size)


if __name__ == '__main__':
  tf.config.threading.set_intra_op_parallelism_threads(cores())
  tf.config.threading.set_inter_op_parallelism_threads(cores())
  serve(Session(Program, _describe, _peak))

"""The one loop over training steps: what is charged, taken and recorded, in which order.

Whatever reads private records is a `Stage`. `Run.carry_out` takes the steps of any stage in an
order that makes a crash harmless:

1. The state before the first step, which holds the keys, is on the disk before anything is charged.
2. A chunk of steps is charged in the ledger, and the charge is on the disk, before it is started.
3. The chunk runs.
4. When it has ended, and never before, its metrics are written, then a checkpoint.

While a chunk runs, the host writes what there is to say of the chunk before it (4) and charges the
one after it (2): the ledger may be two chunks ahead of the metrics on the disk, an upper bound on
what was taken. The ε of a metric line along the way is an upper bound too, since its exact value
would take longer than the steps. A killed run takes the same steps again from its last checkpoint,
with the same batches and noise: they were charged before.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpgan_jax import (
  _devices,
  _environment,
  _interrupts,
  _jax_settings,
  _plugins,
  _progress,
  _validate,
)
from dpgan_jax.budget.budget import Budget
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.spec import Spec
from dpgan_jax.privacy import sharding
from dpgan_jax.privacy.accounting import rounded_up
from dpgan_jax.run import metrics
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.secrets import Secret
from dpgan_jax.run.stages import CompiledStage, Stage, State

FORMAT = 9
"""Of config.json; those of version 0.1 have none. It is raised where what a key stands for changes:
steps that are taken again would have the same noise around other sums (2: sums that round
otherwise, batches in order; 4: other cells of a table whose schema the run finds; 5: other scores
of series; 6: features along axes of a draft;
7: noise of its own for other axes; 8: coarse cells of tables by smoothed counts; 9: chosen pairs of
columns).
"""


class Planned(Protocol):
  """What a run is going to do; `Plan` of a GAN is one, `Classifier` another."""

  @property
  def budget(self) -> Budget:
    """All stages."""
    ...

  def to_record(self) -> Mapping[str, Any]:
    """JSON-ready; 'config' holds the settings."""
    ...


class Records(Protocol):
  """A private data set."""

  @property
  def spec(self) -> Spec:
    """What is public of it."""
    ...

  def fingerprint(self) -> str:
    """A private hash of it."""
    ...


PlannedT = TypeVar('PlannedT', bound=Planned)


class Run:
  """A run at work: its directory, lock, ledger, secret, checkpoints, metrics and progress."""

  def __init__(
    self,
    directory: RunDir,
    ledger: Ledger,
    budget: Budget,
    secret: Secret,
    identity: str | None,
    *,
    progress: bool,
    mesh: Mesh | None = None,
  ) -> None:
    """Reads and writes nothing yet.

    Args:
      directory: locked by the caller.
      ledger: of all stages.
      budget: of all stages.
      secret: every key follows from it.
      identity: the digest of the run's config.json, which its checkpoints carry.
      progress: show a progress bar on stderr.
      mesh: the devices that compute; None for one.
    """
    self._mesh = mesh
    self.directory, self.ledger, self.budget = directory, ledger, budget
    self._secret, self._identity, self._progress = secret, identity, progress
    self._done: dict[str, int] = {}  # steps of the stages that were carried out

  @classmethod
  @contextlib.contextmanager
  def open(
    cls,
    run_dir: str | os.PathLike[str],
    settings: Mapping[str, Any],
    records: Records,
    *,
    make: Callable[[], PlannedT],
    read: Callable[[Mapping[str, Any], object], PlannedT],
    progress: bool = True,
    devices: int = 1,
  ) -> Iterator[tuple[PlannedT, Run]]:
    """Starts a run in its directory, or continues one after checking that it is the same.

    Everything that the run will draw is fixed, and on the disk, when this has returned: settings,
    secret, the first line of the ledger. The directory stays locked until the block ends.

    Args:
      run_dir: directory of the run; made where missing.
      settings: what the command asks for, JSON-ready; of their `seed` the secret is made, if any.
      records: the private data.
      make: plans a new run.
      read: makes the plan of what `config.json` holds; its second argument names the file.
      progress: show a progress bar on stderr.
      devices: how many compute. A run may go on with another number: ε, batches and noise do not
        depend on it, sums do by the order of their additions.

    Raises:
      InputError: the directory belongs to another run (naming what differs), is in use, or is
        damaged; settings that do not fit the data; a JAX that is set to break the guarantee.
    """
    _jax_settings.require_sound()
    mesh = sharding.mesh_of(devices)
    with contextlib.ExitStack() as stack:
      stack.enter_context(jax.numpy_dtype_promotion('standard'))  # optax needs it under x64
      # Of several processes, all but one work in a copy of their own.
      run_dir, share = stack.enter_context(_devices.shared_directory(run_dir))
      existed = os.path.lexists(run_dir)
      directory = RunDir.open(run_dir, create=True)
      stack.enter_context(directory.lock())
      try:
        if directory.config.is_file():
          planned = _read_plan(directory, settings, records.spec, read)
        else:
          planned = make()
          directory.save_config(
            {
              'format': FORMAT,
              'run_id': os.urandom(16).hex(),
              **planned.to_record(),
              'data': records.spec.to_record(),
              'environment': _environment.environment(devices),
              'jax_settings': _jax_settings.read(),
            }
          )
      except BaseException:
        if not existed:  # settings that do not fit leave nothing, not even an empty directory
          shutil.rmtree(directory.path, ignore_errors=True)
        raise
      fingerprint, stages = records.fingerprint(), planned.budget.stages
      if not directory.secret.exists() and not directory.ledger.exists():
        secret = Secret.from_os()
        if (seed := settings.get('seed')) is not None:
          mechanisms = {name: m.to_dict() for name, m in stages.items()}
          settled = json.dumps([settings, mechanisms], sort_keys=True)
          secret = Secret.of_seed(seed, fingerprint, settled)
        secret.save(directory.secret)
      secret, identity = Secret.load(directory.secret), directory.identity()
      ledger = Ledger.open(
        directory.ledger,
        stages=stages,
        data_fingerprint=fingerprint,
        identity=identity,
        secret_commitment=secret.commitment(),
      )
      share()
      progress = progress and _devices.is_owner()
      yield planned, cls(
        directory, ledger, planned.budget, secret, identity, progress=progress, mesh=mesh
      )

  def carry_out(self, stage: Stage) -> State:
    """Takes the steps of a stage, or continues, or finds them taken; the state after the last.

    Raises:
      InputError: steps were charged that no checkpoint goes on from, the ledger has lost lines, or
        a checkpoint is of another run.
      BudgetError: the ledger does not cover the steps.
    """
    folder = RunDir(self.directory.path / stage.folder)
    folder.path.mkdir(exist_ok=True)
    total = stage.mechanism.steps
    with Checkpoints(folder.checkpoints, identity=self._identity) as checkpoints:
      state = self._start_or_resume(stage, checkpoints)
      step = int(state.step)
      self.ledger.require_covers(step, stage.name)
      for record in metrics.read_metrics(folder.metrics)[-1:] if folder.metrics.is_file() else []:
        self.ledger.require_covers(record['step'], stage.name)  # written after its steps were taken
      with metrics.MetricsWriter(folder.path, resume_step=step if step else None) as writer:
        if step < total:
          state = self._take_steps(stage, checkpoints, writer, state)
    self._done |= {name: m.steps for name, m in stage.mechanisms.items()}
    return state

  def _start_or_resume(self, stage: Stage, checkpoints: Checkpoints) -> State:
    """The state of the latest checkpoint; without one, a new one, saved before it is used."""
    key = self._secret.key(stage.name)
    restored = checkpoints.restore_latest(jax.eval_shape(stage.init, key))
    if restored is not None:
      return restored[1]
    if charged := sum(self.ledger.charged_steps(name) for name in stage.mechanisms):
      raise _validate.InputError(
        f'the ledger charges {charged} steps but there is no checkpoint to continue from: a new '
        'start would be a second release; use another run directory, which spends a budget of its '
        'own'
      )
    state = stage.prepare(jax.jit(stage.init)(key))
    checkpoints.save(0, state, {})
    checkpoints.wait()  # the keys must be on the disk before anything is charged
    return state

  def _take_steps(
    self,
    stage: Stage,
    checkpoints: Checkpoints,
    writer: metrics.MetricsWriter,
    state: State,
  ) -> State:
    step, total = int(state.step), stage.mechanism.steps
    data = stage.data()
    if step == 0:
      for name in stage.mechanisms.keys() - {stage.name}:
        self.ledger.charge(1, name)
      state = stage.release(state, data, self._secret.derive(f'{stage.name} releases'))
    mesh = self._mesh if isinstance(stage, CompiledStage) else None
    if mesh is not None and isinstance(stage, CompiledStage):
      stage.mesh = mesh
      state = sharding.replicate(state, mesh)
    data = stage.placed(data)
    bar = None
    if self._progress:
      device = _environment.device_name() + (f' x {mesh.size}' if mesh else '')
      bar = _progress.TrainingProgress(total, step, rounded_up(self.budget.epsilon()), device)
    chunks: dict[int, Any] = {}
    waiting: Callable[[], None] | None = None  # writes the record of the chunk that ended last
    ended = 0.0
    end = _end_of_chunk(step, stage.stride, total)
    _say_where(stage, step, end)
    self.ledger.charge(end, stage.name)
    while step < total:
      length = end - step
      is_new = length not in chunks
      _say_where(stage, step, end)
      if is_new:
        chunks[length] = stage.chunk(length)
      called = time.monotonic()
      state, history = chunks[length](state, *data)
      started = time.monotonic()
      if is_new and bar and isinstance(stage, CompiledStage):
        # A first call compiles, then returns while the device works.
        bar.note(f'compiled {length} steps in {started - called:.1f} s')
      step = end
      # The device is at work; what follows until `_wait_interruptibly` does not hold it up.
      if waiting is not None:
        waiting()
        waiting = None  # and with it the copy of the state, before the next is made
      if step < total:
        end = _end_of_chunk(step, stage.stride, total)
        self.ledger.charge(end, stage.name)
      kept = stage.keep(step, state)
      whole = None
      if stage.wants_state(step) or stage.wants_checkpoint(step):
        whole = sharding.gather(state if step == total else _copy(state), mesh)
      _wait_interruptibly(history, started)
      # From end to end, whatever the device did in between; but compiling is no step.
      since, ended = started if is_new else ended, time.monotonic()
      waiting = functools.partial(
        self._write, stage, checkpoints, writer, bar, step, kept, whole, history,
        length / (ended - since),
      )  # fmt: skip
      del kept, whole
    assert waiting is not None
    waiting()
    checkpoints.wait()
    _interrupts.working_on('')
    if bar:
      bar.close()
    return sharding.gather(state, mesh)

  def _write(
    self,
    stage: Stage,
    checkpoints: Checkpoints,
    writer: metrics.MetricsWriter,
    bar: _progress.TrainingProgress | None,
    step: int,
    kept: Any,
    state: State | None,
    history: Any,
    steps_per_second: float,
  ) -> None:
    """Writes what there is to say of a step that was taken: metrics first, a checkpoint last."""
    epsilon = self.budget.epsilon_so_far({**self._spent(stage), stage.name: step})
    means = {name: _mean(values) for name, values in history._asdict().items()}
    writer.write(step, {'epsilon': epsilon, **means}, clock={'steps_per_second': steps_per_second})
    if bar:
      bar.update(step, rounded_up(epsilon), **stage.shown(means))
    stage.write(step, kept, state if stage.wants_state(step) else None, epsilon)
    if stage.wants_checkpoint(step):
      spent = epsilon if np.isfinite(epsilon) else 'inf'
      used = {'devices': self._mesh.size} if self._mesh else {}
      checkpoints.save(step, state, {'epsilon': spent, **used})

  def _spent(self, stage: Stage) -> dict[str, int]:
    """Steps taken before those of `stage`: of earlier stages, and of its own releases."""
    return {**self._done, **{n: 1 for n in stage.mechanisms if n != stage.name}}


def _read_plan(
  directory: RunDir,
  settings: Mapping[str, Any],
  spec: Spec,
  read: Callable[[Mapping[str, Any], object], PlannedT],
) -> PlannedT:
  saved = directory.load_config()
  if saved.get('format') != FORMAT:
    raise _validate.InputError(
      f'{directory.path} holds a run of another version of dpgan_jax, whose noise this one cannot '
      'continue: finish it with that version (sample, report and release read it), or use another '
      '--run_dir, which spends a budget of its own'
    )
  _plugins.require_same(saved['environment'].get('plugins', {}), directory.path)
  planned = read(saved, directory.config)
  # As read: a setting that an older version did not know has the value that changes nothing.
  directory.check_same_config(planned.to_record()['config'], settings)
  directory.check_same_config(saved.get('data', {}), spec.to_record())
  # Under other settings the steps taken again would be other steps: a second release.
  directory.check_same_config(saved.get('jax_settings', {}), _jax_settings.read())
  return planned


# `jnp.copy` is an operation of the compiled program, so that its outputs have memory of their own
# by more than JAX's present habit of not handing a program's arguments back as its results.
_copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


def _say_where(stage: Stage, step: int, end: int) -> None:
  total = stage.mechanism.steps
  _interrupts.working_on(f'steps {step + 1} to {end} of {total} ({stage.name})')


def _mean(values: jax.Array) -> float:
  array = np.asarray(values, np.float64)
  array = array[~np.isnan(array)]
  return float(array.mean()) if array.size else float('nan')


def _end_of_chunk(step: int, stride: int, total: int) -> int:
  """The step that the chunk after `step` ends at: the next to be reported, or the last."""
  return min(step - step % stride + stride, total)


def _wait_interruptibly(history: Any, since: float) -> None:
  """Waits for the device without holding up Ctrl-C, which Python handles between bytecodes only.

  It looks again after 1/256 of the time since the start, so that the end of a chunk is noticed
  within 0.4 % of its time, at the price of a few looks.
  """
  leaves = jax.tree.leaves(history)
  while not all(leaf.is_ready() for leaf in leaves):
    time.sleep(min(max((time.monotonic() - since) / 256, 1e-4), 0.02))

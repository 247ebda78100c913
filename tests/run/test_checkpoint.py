"""Checkpoints: exact, safe under donation, and readable after whatever happened to the newest."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from dpgan_jax import _state_leaves
from dpgan_jax._validate import InputError
from dpgan_jax.run.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]


class State(NamedTuple):
  params: dict[str, Any]
  optimizer: Any
  key: jax.Array
  step: jax.Array
  extra: tuple[Any, ...]


def make_state(seed: int = 0, width: int = 5) -> State:
  rng = np.random.default_rng(seed)
  params = {'dense': {'kernel': jnp.asarray(rng.normal(size=(3, width)), jnp.float32)}}
  optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
  return State(
    params=params,
    optimizer=optimizer.init(params),
    key=jax.random.key(seed),
    step=jnp.asarray(seed, jnp.int32),
    extra=(
      jnp.asarray(rng.normal(size=4), jnp.bfloat16),
      jnp.asarray(rng.integers(0, 2**32, size=4, dtype=np.uint32)),
      jnp.asarray([True, False]),
      None,
      jax.random.split(jax.random.key(seed + 1, impl='rbg'), 3),
      np.arange(4, dtype=np.uint8),
    ),
  )


def assert_same(actual: Any, expected: Any) -> None:
  """Bit for bit, dtype for dtype, node for node."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      assert jax.random.key_impl(a) == jax.random.key_impl(b)
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_steps(directory: pathlib.Path, *steps: int) -> None:
  with Checkpoints(directory) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(step), {'step': step})


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


def test_restores_structure_dtypes_keys_and_metadata_exactly(tmp_path: pathlib.Path) -> None:
  state = make_state(7)
  metadata = {'epsilon': 0.1 + 0.2, 'budget': float('inf'), 'names': ['a', 'b'], 'nothing': None}
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    assert checkpoints.restore_latest(state) is None
    checkpoints.save(3, state, metadata)
  restored = Checkpoints(tmp_path / 'checkpoints').restore_latest(make_state(8))
  assert restored is not None
  assert restored[0] == 3
  assert restored[2] == metadata
  assert_same(restored[1], state)
  # A key is a key again, not its words: what it draws next is what it would have drawn.
  draw = jax.random.normal(restored[1].key, (3,))
  np.testing.assert_array_equal(draw, jax.random.normal(make_state(7).key, (3,)))


def test_the_digest_is_that_of_the_state_and_of_what_is_on_the_disk(tmp_path: pathlib.Path) -> None:
  state = make_state(1)._replace(extra=())
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {})
    assert checkpoints.digest(1) == _state_leaves.state_digest(state)
    with pytest.raises(InputError, match=r'\(1\), got 2'):
      checkpoints.digest(2)
    shutil.rmtree(tmp_path / '1' / 'state')
    with pytest.raises(InputError, match='1 is damaged'):
      checkpoints.digest(1)


def test_restores_into_shapes_alone(tmp_path: pathlib.Path) -> None:
  state = make_state(1)._replace(extra=())
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {})
    abstract = jax.eval_shape(lambda: make_state(1)._replace(extra=()))
    assert_same(checkpoints.restore(1, abstract)[1], state)


@hypothesis.settings(max_examples=8)
@hypothesis.given(
  bits=st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=6),
  dtype=st.sampled_from(['float32', 'bfloat16', 'int32', 'uint32', 'uint8']),
)
def test_any_bits_survive(
  bits: list[bytes], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
  # All bit patterns: signed zeros, subnormals, infinities, NaNs with their payload.
  state = {'x': np.frombuffer(b''.join(bits), jnp.dtype(dtype))}
  with Checkpoints(tmp_path_factory.mktemp('bits')) as checkpoints:
    checkpoints.save(0, state, {})
    assert_same(checkpoints.restore(0, state)[1], state)
    abstract = {'x': jax.ShapeDtypeStruct(state['x'].shape, state['x'].dtype)}
    on_device = checkpoints.restore(0, abstract)[1]['x']
  assert isinstance(on_device, jax.Array)
  assert np.asarray(on_device).tobytes() == state['x'].tobytes()


def test_the_state_may_be_donated_right_after_save(tmp_path: pathlib.Path) -> None:
  @jax.jit
  def init() -> dict[str, jax.Array]:
    return {'x': jnp.arange(2_000_000, dtype=jnp.float32), 'y': jnp.ones(1000, jnp.bfloat16)}

  step = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
  expected = jax.tree.map(np.array, init())
  with Checkpoints(tmp_path) as checkpoints:
    for number in range(3):
      state = init()
      checkpoints.save(number, state, {})
      after = step(step(state))
      # Donation happened: nothing in `save` still holds on to the device's memory.
      assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
      jax.block_until_ready(after)
    for number in range(3):
      _, restored, _ = checkpoints.restore(number, after)
      assert_same(jax.tree.map(np.asarray, restored), expected)
      # And what was restored may be donated in turn.
      step(restored)
      assert all(leaf.is_deleted() for leaf in jax.tree.leaves(restored))


def test_saving_leaves_the_key_usable(tmp_path: pathlib.Path) -> None:
  key = jax.random.key(3)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(0, {'key': key}, {})
  jax.random.normal(key, ())  # jax_debug_key_reuse would raise


def test_keeps_the_newest(tmp_path: pathlib.Path) -> None:
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 5, 20, 100):
      checkpoints.save(step, make_state(step), {})
    checkpoints.wait()
    assert checkpoints.steps() == [20, 100]
    assert_same(checkpoints.restore(20, make_state())[1], make_state(20))
    with pytest.raises(InputError, match=r'\(20, 100\), got 5'):
      checkpoints.restore(5, make_state())


def test_a_step_may_be_saved_again(tmp_path: pathlib.Path) -> None:
  save_steps(tmp_path, 10, 20)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(20, make_state(1), {'again': True})
    checkpoints.save(15, make_state(2), {})
  assert checkpoints.steps() == [10, 15, 20]
  _, state, metadata = checkpoints.restore(20, make_state())
  assert metadata == {'again': True}
  assert_same(state, make_state(1))


def test_what_kill_9_left_half_written_goes_with_the_first_save(tmp_path: pathlib.Path) -> None:
  save_steps(tmp_path, 10)
  shutil.copytree(tmp_path / '10' / 'state', tmp_path / '77.orbax-checkpoint-tmp' / 'state')
  save_steps(tmp_path, 20)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['10', '20']


def test_a_removal_that_is_cut_off_leaves_nothing_under_the_number(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Found by experiments/trust/kills.py: orbax empties a directory under its final name."""
  save_steps(tmp_path, 10)
  rmtree = shutil.rmtree

  def cut_off(path: pathlib.Path, *arguments: Any, **options: Any) -> None:
    if os.path.exists(path):
      os.unlink(next(p for p in pathlib.Path(path).rglob('*') if p.is_file()))
      raise KeyboardInterrupt
    rmtree(path, *arguments, **options)

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', cut_off)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
      checkpoints.save(20, make_state(20), {})
      with pytest.raises(KeyboardInterrupt):
        checkpoints.wait()
      assert checkpoints.steps() == [20]
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(30, make_state(30), {})
  assert [path.name for path in tmp_path.iterdir()] == ['30']


def test_every_file_is_on_the_disk_before_the_next_save_starts(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  synced = set()
  fsync = os.fsync

  def recording(handle: int) -> None:
    fsync(handle)
    synced.add(os.fstat(handle).st_ino)

  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(), {})
    monkeypatch.setattr(os, 'fsync', recording)
    checkpoints.save(2, make_state(), {})
    for step in ('1', '2'):
      paths = [tmp_path, tmp_path / step, *(tmp_path / step).rglob('*')]
      assert len(paths) > 5
      assert {path.stat().st_ino for path in paths} <= synced
      checkpoints.wait()


def test_a_resharded_state_is_placed_as_the_new_run_wants(tmp_path: pathlib.Path) -> None:
  if len(jax.devices()) < 4:
    pytest.skip('needs 4 devices (JAX_NUM_CPU_DEVICES=4)')
  spec = jax.sharding.PartitionSpec('x')
  four = jax.sharding.NamedSharding(jax.make_mesh((4,), ('x',), devices=jax.devices()[:4]), spec)
  two = jax.sharding.NamedSharding(jax.make_mesh((2,), ('x',), devices=jax.devices()[:2]), spec)
  value = np.arange(16, dtype=np.float32)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(0, {'x': jax.device_put(value, four)}, {})
    abstract = {'x': jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=two)}
    restored = checkpoints.restore(0, abstract)[1]['x']
  assert restored.sharding == two
  np.testing.assert_array_equal(restored, value)


@pytest.mark.parametrize(
  ('leaf', 'error'), [(3.0, TypeError), (np.zeros((0, 2), np.float32), ValueError)]
)
def test_a_leaf_that_cannot_be_saved_is_named(
  leaf: Any, error: type[Exception], tmp_path: pathlib.Path
) -> None:
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    with pytest.raises(error, match=r"state\['scale'\]"):
      checkpoints.save(0, {'scale': leaf}, {})
    assert not (tmp_path / 'checkpoints').exists()
    checkpoints.save(0, {'scale': np.ones(1)}, {})
  assert checkpoints.steps() == [0]


# --- damage


def _flip(data: bytes, at: int) -> bytes:
  return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.slow
def test_every_damaged_file_falls_back_or_does_not_matter(tmp_path: pathlib.Path) -> None:
  good = tmp_path / 'good'
  save_steps(good, 10, 20)
  newest = files_of(good / '20')
  assert len(newest) >= 5
  damages = []
  for name, data in newest.items():
    damages += [(name, None), (name, b''), (name, data[: len(data) // 2])]
    damages += [(name, _flip(data, len(data) * part // 4)) for part in range(1, 4)]
  fell_back = set()
  for number, (name, data) in enumerate(damages):
    directory = tmp_path / str(number)
    shutil.copytree(good, directory)
    path = directory / '20' / name
    path.unlink() if data is None else path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      restored = Checkpoints(directory).restore_latest(make_state())
    shutil.rmtree(directory)
    assert restored is not None
    step, state, metadata = restored
    assert_same(state, make_state(step))
    assert metadata == {'step': step}
    if step == 10:
      fell_back.add(name)
      messages = [str(warning.message) for warning in caught]
      assert len(messages) == 1
      assert str(directory / '20') in messages[0]
      assert 'skipped' in messages[0]
      assert '\n' not in messages[0]
  # The arrays and the description at least; a commit marker or an unused copy need not matter.
  assert '_CHECKPOINT_METADATA' in fell_back
  assert any('ocdbt' in name or '/d/' in name for name in fell_back)


def test_a_wrong_array_that_loads_is_found_by_the_digest(tmp_path: pathlib.Path) -> None:
  # Bytes that tensorstore's own checksums accept: the arrays of step 10 under the name of step 20.
  save_steps(tmp_path, 10, 20)
  shutil.rmtree(tmp_path / '20' / 'state')
  shutil.copytree(tmp_path / '10' / 'state', tmp_path / '20' / 'state')
  with pytest.warns(RuntimeWarning, match='digest'):
    restored = Checkpoints(tmp_path).restore_latest(make_state())
  assert restored is not None
  assert restored[0] == 10
  # A whole checkpoint under the name of another step.
  shutil.rmtree(tmp_path / '20')
  shutil.copytree(tmp_path / '10', tmp_path / '20')
  with pytest.raises(InputError, match=r'20 is damaged'):
    Checkpoints(tmp_path).restore(20, make_state())


def test_no_good_checkpoint_is_one_line(tmp_path: pathlib.Path) -> None:
  save_steps(tmp_path, 10, 20)
  for step in ('10', '20'):
    (tmp_path / step / '_CHECKPOINT_METADATA').write_bytes(b'{')
  wanted = r'steps 10, 20.*remove the run directory.*fresh budget'
  with (
    pytest.warns(RuntimeWarning, match='skipped'),
    pytest.raises(InputError, match=wanted) as info,
  ):
    Checkpoints(tmp_path).restore_latest(make_state())
  assert '\n' not in str(info.value)


def test_after_a_fall_back_the_same_step_is_saved_anew(tmp_path: pathlib.Path) -> None:
  save_steps(tmp_path, 10, 20, 30)
  for step in ('20', '30'):
    shutil.rmtree(tmp_path / step / 'state')
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    with pytest.warns(RuntimeWarning, match='skipped'):
      restored = checkpoints.restore_latest(make_state())
    assert restored is not None
    assert restored[0] == 10
    checkpoints.save(15, make_state(15), {})  # the damaged ones must not push out step 10
    checkpoints.wait()
    assert checkpoints.steps() == [10, 15]
    checkpoints.save(20, make_state(20), {})
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    newest = Checkpoints(tmp_path).restore_latest(make_state())
  assert newest is not None
  assert newest[0] == 20
  assert_same(newest[1], make_state(20))


def test_another_model_is_refused_with_the_leaf_and_both_shapes(tmp_path: pathlib.Path) -> None:
  save_steps(tmp_path, 10, 20)
  with pytest.raises(
    InputError,
    match=r"20 is of another model: state\.params\['dense'\]\['kernel'\] is float32\[3,5\] there"
    r' and float32\[3,6\] here',
  ):
    Checkpoints(tmp_path).restore_latest(make_state(width=6))
  fewer = make_state()._replace(extra=())
  with pytest.raises(InputError, match=r'state\.extra\[0\] is bfloat16\[4\] there and absent here'):
    Checkpoints(tmp_path).restore_latest(fewer)
  other_key = make_state()._replace(key=jax.random.key(0, impl='rbg'))
  with pytest.raises(InputError, match=r'state\.key is key<fry>\[\] there and key<rbg>\[\] here'):
    Checkpoints(tmp_path).restore_latest(other_key)


def test_reading_changes_nothing(tmp_path: pathlib.Path) -> None:
  save_steps(tmp_path, 10, 20)
  shutil.rmtree(tmp_path / '20' / 'state')
  shutil.copytree(tmp_path / '10', tmp_path / '30.orbax-checkpoint-tmp')  # another process saves
  before = files_of(tmp_path)
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.warns(RuntimeWarning, match='skipped'):
      checkpoints.restore_latest(make_state())
    assert checkpoints.steps() == [10, 20]
  assert files_of(tmp_path) == before
  missing = Checkpoints(tmp_path / 'missing')
  assert missing.restore_latest(make_state()) is None
  assert not (tmp_path / 'missing').exists()


# --- disk full, kill -9, other processes


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_full_disk_is_an_os_error_and_keeps_what_is_there(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  save_steps(tmp_path, 10)
  before = files_of(tmp_path)
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(OSError, match='No space left') as info:
      checkpoints.save(20, make_state(20), {})
    assert info.value.errno == errno.ENOSPC
  assert files_of(tmp_path) == before


@pytest.mark.slow  # the test before is a full disk
def test_a_disk_that_fills_up_during_the_save_is_an_os_error(tmp_path: pathlib.Path) -> None:
  # A real refusal by the kernel, in the thread that writes: files may not exceed 100 kB.
  code = """
    import resource, sys
    import numpy as np
    from dpgan_jax.run.checkpoint import Checkpoints
    small, large = ({'x': np.random.default_rng(0).normal(size=n)} for n in (10, 100_000))
    with Checkpoints(sys.argv[1]) as checkpoints:
      checkpoints.save(1, small, {})
      checkpoints.wait()
      resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
      for report in (checkpoints.wait, lambda: checkpoints.save(3, small, {})):
        checkpoints.save(2, large, {})
        try:
          report()
        except OSError as error:
          print('errno', error.errno, error)
      checkpoints.save(3, small, {})
    print(checkpoints.steps(), checkpoints.restore_latest(small)[0])
  """
  result = run_python(code, str(tmp_path))
  assert result.stdout.count(f'errno {errno.EFBIG} ') == 2, result.stderr[-2000:]
  assert 'Event loop is closed' not in result.stderr  # several files were under way
  assert result.stdout.splitlines()[-1] == '[1, 3] 3'


def test_orbax_is_silent_in_commands_and_the_application_is_not(tmp_path: pathlib.Path) -> None:
  code = """
    import sys
    from absl import app, logging
    import numpy as np
    from dpgan_jax import _cli
    from dpgan_jax.run.checkpoint import Checkpoints
    def main(argv):
      _cli._quieten_orbax()  # as every command does; importing the package patches nothing
      logging.set_verbosity(logging.INFO)
      with Checkpoints(argv[1]) as checkpoints:
        checkpoints.save(1, {'x': np.ones(3)}, {})
        checkpoints.restore_latest({'x': np.ones(3)})
      logging.info('from the application')
    app.run(main)
  """
  result = run_python(code, str(tmp_path))
  assert result.returncode == 0, result.stderr
  assert result.stdout == ''
  lines = result.stderr.splitlines()
  assert len(lines) == 1, result.stderr
  assert lines[0].endswith('from the application')


_SAVER = """
  import sys
  import numpy as np
  from dpgan_jax.run.checkpoint import Checkpoints
  def state(step):
    return {'x': np.random.default_rng(step).normal(size=400_000), 'step': np.int64(step)}
  with Checkpoints(sys.argv[1], keep=2) as checkpoints:
    found = checkpoints.restore_latest(state(0))
    start = 0 if found is None else found[0]
    print('start', start, flush=True)
    for step in range(start + 1, 10_000):
      checkpoints.save(step, state(step), {'step': step})
"""


@pytest.mark.slow  # test_trainer kills a run, the tests above a save
def test_kill_9_while_saving_leaves_a_complete_checkpoint(tmp_path: pathlib.Path) -> None:
  newest, cut_off = 0, 0

  def after(step: int, turn: int) -> bool:
    """Whether up to two steps more are saved, and the next save has begun."""
    names = [path.name for path in tmp_path.iterdir()]
    done = max((int(name) for name in names if name.isdigit()), default=0)
    return done >= step + turn % 3 and any('tmp' in name for name in names)

  for turn in range(6):
    with subprocess.Popen(
      [sys.executable, '-W', 'error', '-c', textwrap.dedent(_SAVER), str(tmp_path)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    ) as process:
      assert process.stdout is not None
      assert process.stderr is not None
      line = process.stdout.readline()
      if not line:
        pytest.fail(process.stderr.read())
      assert int(line.split()[1]) == newest  # it resumed where the last one was cut off
      while not after(newest, turn) and process.poll() is None:
        time.sleep(0.001)
      assert process.poll() is None
      process.send_signal(signal.SIGKILL)
    cut_off += sum('tmp' in path.name for path in tmp_path.iterdir())
    abstract = {'x': np.zeros(400_000), 'step': np.int64(0)}
    found = Checkpoints(tmp_path).restore_latest(abstract)
    if found is not None:
      step, state, metadata = found
      assert step >= newest
      assert metadata == {'step': step}
      assert int(state['step']) == step
      assert state['x'].tobytes() == np.random.default_rng(step).normal(size=400_000).tobytes()
      newest = step
  assert newest > 0
  assert cut_off > 0  # the kills did hit saves
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save(newest + 1, {'x': np.zeros(1)}, {})
  assert all(path.name.isdigit() for path in tmp_path.iterdir())
  assert checkpoints.steps()[-1] == newest + 1

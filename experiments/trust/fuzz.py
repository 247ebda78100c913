"""Throws hostile inputs at everything that reads what others may have written.

    ./run.sh python -m experiments.trust.fuzz --inputs=100000

The readers of data (IDX, npz, folders of PNG), of samples, of saved generators (whose ε is computed
too), of reports and of ledgers, and the parser of command lines and flag files, have to answer
every input with a result or with an `InputError` of one bounded line, in bounded time and memory,
running no code, writing nothing, and reading nothing outside the input. Workers enforce it: a limit
on address space, a timer that ends the process, and an audit hook that sees what Python opens,
imports from pickles, starts or connects to. Input k of a target is always the same, so
`--only=npz:1234` repeats one.

`--targets` runs some of it again, e.g. after a repair, and leaves the other rows as they are.

Then faults are planted (a reader that unpickles, one that believes headers, ...): a fuzzer that did
not find these would prove nothing. Writes experiments/results/trust/fuzz.json.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.metadata
import io
import json
import mmap
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
from absl import flags

from dpgan_jax import _cli, _flag_files, _progress, _validate
from experiments import pages
from experiments.trust import hostile_inputs

FLAGS = flags.FLAGS
T = TypeVar('T')
ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / 'experiments' / 'results' / 'trust' / 'fuzz.json'

# Of every input: processor time, real time (a pipe that is waited for uses none), and memory.
CPU_SECONDS, REAL_SECONDS, EXTRA_BYTES = 10.0, 120.0, 768 * 2**20
_SHARES = {
  'idx': 0.35, 'npz': 0.3, 'png': 0.12, 'samples': 0.1, 'flags': 0.112, 'generator': 0.008,
  'report': 0.005, 'ledger': 0.005,
}  # fmt: skip
_AT_ONCE = 200  # inputs of which a worker tells the outcome together
_KEPT_FAILURES = 30


# --- one input -----------------------------------------------------------------------------------


class Targets:
  """What is fuzzed: for each target a maker of inputs and a reader of them."""

  def __init__(self, folder: pathlib.Path) -> None:
    # Late, as the process that hands out work needs none of it.
    import jax

    from dpgan_jax import classify, train
    from dpgan_jax.budget.ledger import Ledger
    from dpgan_jax.data.spec import Spec
    from dpgan_jax.models.classifier_config import ClassifierConfig
    from dpgan_jax.models.config import TrainConfig
    from dpgan_jax.models.gan import GAN
    from dpgan_jax.models.gan_synthesizer import GANSynthesizer
    from dpgan_jax.privacy.mechanism import DPMechanism
    from dpgan_jax.run import generator_file

    self.home, self.folder = folder, folder / 'input'
    self.outside = folder / 'outside' / '0' / '0.png'
    self.outside.parent.mkdir(parents=True)
    self.outside.write_bytes(hostile_inputs.png(random.Random(0)))

    config = TrainConfig(
      noise_multiplier=10.0, steps=4, batch_size=8, delta=1e-3, latent_dim=4, generator='compact',
      discriminator='compact',
    )  # fmt: skip
    mechanism = DPMechanism.create(
      num_examples=64, batch_size=8, l2_clip_norm=1.0, noise_multiplier=10.0, steps=4, delta=1e-3
    )
    spec = Spec(num_records=64, shape=(8, 8, 1), class_names=('a', 'b', 'c'), name='x')
    gan = GAN(config, mechanism, spec)
    state = jax.jit(gan.init)(jax.random.key(0))
    saved = folder / 'valid.safetensors'
    generator_file.save(GANSynthesizer(gan, state.g_average, 3), saved)
    self.generator_bytes = saved.read_bytes()
    self.mechanism = mechanism
    Ledger.open(folder / 'ledger', stages={'dp_sgd': mechanism}, data_fingerprint='x').charge(2)
    self.ledger_bytes = (folder / 'ledger').read_bytes()
    self.commands = (
      (_flag_values(train.define_flags), TrainConfig, ('--target_epsilon=2', '--epochs=3')),
      (_flag_values(classify.define_flags), ClassifierConfig, ('--target_epsilon=2', '--steps=9')),
    )

  def read(self, target: str, number: int, seed: int) -> None:
    """Makes an input and has it read.

    Raises:
      InputError: it was refused. Whatever else is raised is a finding.
    """
    from dpgan_jax.budget import budget, ledger
    from dpgan_jax.data import datasets, readers
    from dpgan_jax.evaluation import scoring
    from dpgan_jax.publishing import bundle

    rng = random.Random(f'{seed}/{target}/{number}')
    shutil.rmtree(self.folder, ignore_errors=True)
    self.folder.mkdir()
    path, split = self.folder / 'file', rng.choice(datasets.SPLITS)
    match target:
      case 'idx' if rng.random() < 0.3:
        for kind, ndim in (('images', 3), ('labels', 1)):
          name = f'train-{kind}-idx{ndim}-ubyte'
          (self.folder / name).write_bytes(hostile_inputs.idx(rng))
        self._watched(datasets.load_dataset, 'idx', data_dir=str(self.folder))
      case 'idx':
        path.write_bytes(hostile_inputs.idx(rng))
        self._watched(readers.read_idx, path, rng.choice((None, 'images', 'labels')))
      case 'npz':
        path.write_bytes(hostile_inputs.npz(rng))
        self._watched(datasets.load_dataset, 'npz', data_dir=str(path), split=split)
      case 'png':
        hostile_inputs.png_folder(rng, self.folder, self.outside)
        self._watched(datasets.load_dataset, 'png', data_dir=str(self.folder), split=split)
      case 'samples':
        path.write_bytes(hostile_inputs.npz(rng))
        self._watched(scoring.read_samples, str(path))
      case 'flags':
        values, config_class, valid = rng.choice(self.commands)
        arguments = hostile_inputs.command_line(rng, self.folder, valid, list(values))
        self._watched(_parse, values, config_class, arguments)
      case 'generator':
        path.write_bytes(hostile_inputs.generator(rng, self.generator_bytes))
        self._watched(_cost, path)
      case 'report':
        facts = {
          'guarantee': {'epsilon': 1.5}, 'progress': {'steps_charged': 3},
          'mechanism': self.mechanism.to_dict(), 'mechanisms_beside': {},
        }  # fmt: skip
        path.write_bytes(hostile_inputs.json_bytes(rng, facts))
        self._watched(bundle._read_report, path, budget.Budget(self.mechanism))
      case 'ledger':
        stages = {'dp_sgd': self.mechanism}
        path.write_bytes(self.ledger_bytes)
        hostile_inputs.ledger(rng, path, ledger._seal)
        self._watched(lambda: ledger.Ledger.read(path, stages=stages).epsilon())
      case _:
        raise ValueError(target)

  def _watched(self, read: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, REAL_SECONDS)
    _audit.watch(self.folder)
    try:
      read(*arguments, **options)
    finally:
      _audit.watch(None)
      signal.setitimer(signal.ITIMER_PROF, 0)
      signal.setitimer(signal.ITIMER_REAL, 0)


def _cost(path: pathlib.Path) -> float:
  """ε of a saved generator, roughly, which takes a tenth of the time."""
  from dpgan_jax.privacy import accounting
  from dpgan_jax.run import generator_file

  model = generator_file.load(path)
  mechanism = model.gan.mechanism
  return accounting.quick_epsilon(
    model.budget.event(model.steps),
    delta=mechanism.delta,
    neighboring_relation=mechanism.neighboring_relation,
  )


def _flag_values(define: Callable[[], None]) -> flags.FlagValues:
  """The flags of one command, apart from those of this process."""
  values = flags.FlagValues()
  names = [f'DEFINE_{kind}' for kind in ('integer', 'float', 'string', 'bool', 'list', 'enum')]
  originals = {name: getattr(flags, name) for name in names}
  ours, flags.FLAGS = flags.FLAGS, values
  try:
    for name, original in originals.items():
      partial = lambda *a, _f=original, **k: _f(*a, flag_values=values, **k)  # noqa: E731
      setattr(flags, name, partial)
    define()
  finally:
    flags.FLAGS = ours
    for name, original in originals.items():
      setattr(flags, name, original)
  return values


def _parse(values: flags.FlagValues, config_class: type, arguments: list[str]) -> Any:
  ours, flags.FLAGS = flags.FLAGS, values
  try:
    values.unparse_flags()
    _cli.parse(['command', *arguments])
    return _cli.config_from_flags(config_class)
  finally:
    flags.FLAGS = ours


class _Audit:
  """Notes what a reader does that no reader needs to do."""

  FORBIDDEN = (
    'pickle.find_class', 'os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'os.fork',
    'subprocess.Popen', 'pty.spawn', 'socket.', 'os.remove', 'os.rename', 'os.rmdir', 'os.mkdir',
    'os.link', 'os.symlink', 'os.truncate', 'os.chmod', 'os.chown', 'shutil.', 'ctypes.dlopen',
    'webbrowser.', 'urllib.', 'ftplib.', 'smtplib.', 'os.putenv',
  )  # fmt: skip
  READING = ('open', 'os.listdir', 'os.scandir')

  def __init__(self) -> None:
    self._folder: pathlib.Path | None = None
    self._thread = 0
    self._installed = False
    self.seen: list[str] = []
    # A library may be imported at its first use, and shows lines of any program in its errors.
    places = (
      sys.prefix,
      sys.base_prefix,
      os.path.dirname(_cli.__file__),
      os.path.dirname(__file__),
    )
    self._libraries = {os.path.realpath(place) for place in places}

  def watch(self, folder: pathlib.Path | None) -> None:
    if not self._installed:
      sys.addaudithook(self._hook)
      self._installed = True
    self._folder, self._thread = folder, threading.get_ident()

  def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
    folder = self._folder
    if folder is None or threading.get_ident() != self._thread:
      return
    if event == 'os.mkdir' and os.path.isdir(arguments[0]):
      return  # which changes nothing
    if event.startswith(self.FORBIDDEN):
      self.seen.append(f'{event} {arguments!r}'[:200])
    elif event in self.READING and isinstance(arguments[0], str | bytes | os.PathLike):
      writes = event == 'open' and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
      self._folder = None  # looking where a link leads is not the reader's doing
      place = pathlib.Path(os.path.realpath(os.fsdecode(arguments[0])))
      self._folder = folder
      kept = jax.config.jax_compilation_cache_dir  # JAX's own
      if kept and place.is_relative_to(os.path.realpath(kept)):
        return
      inside = place.is_relative_to(folder)
      library = any(place.is_relative_to(path) for path in self._libraries)
      if writes or not (inside or library or not place.exists()):
        self.seen.append(f'{event} {place}'[:200])


_audit = _Audit()


def outcome(targets: Targets, target: str, number: int, seed: int) -> str | None:
  """None: a result. '': refused as it should be. Else what is wrong."""
  _audit.seen.clear()
  wrong = None
  try:
    targets.read(target, number, seed)
  except _validate.InputError as error:
    wrong, message = '', str(error)
    if len(message) > 2000 or not message.isprintable():
      wrong = f'message of {len(message)} characters, or several lines: {message[:200]!r}'
  except MemoryError as error:
    wrong = f'took too much memory: {error}'[:300]
  except Exception as error:
    wrong = f'{type(error).__name__}: {error}'[:300]
  except SystemExit as error:
    wrong = f'ended the process: {error}'[:300]
  if _audit.seen:
    wrong = f'did what no reader does: {_audit.seen[0]}'
  # Not the place of the folder that the input was in.
  return wrong and wrong.replace(f'{targets.home}', '.')


# --- many inputs, in a process that may die ------------------------------------------------------


@dataclasses.dataclass
class Tally:
  """What became of some inputs of one target."""

  inputs: int = 0
  accepted: int = 0
  refused: int = 0
  failures: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  slowest_seconds: float = 0.0

  def add(self, other: Tally) -> None:
    self.inputs += other.inputs
    self.accepted += other.accepted
    self.refused += other.refused
    self.failures += other.failures
    self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)


def run_block(
  targets: Targets, target: str, first: int, last: int, seed: int, at: Callable[[int], None]
) -> Tally:
  """Reads the inputs first, ..., last - 1; `at` is told each before it is read."""
  tally = Tally()
  for number in range(first, last):
    at(number)
    started = time.process_time()
    wrong = outcome(targets, target, number, seed)
    tally.slowest_seconds = max(tally.slowest_seconds, time.process_time() - started)
    tally.inputs += 1
    tally.accepted += wrong is None
    tally.refused += wrong == ''
    if wrong:
      tally.failures.append({'target': target, 'input': number, 'wrong': wrong})
  return tally


def work() -> None:
  """A worker: blocks come on stdin, tallies go to stdout, one JSON object a line."""
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what anything prints must not mix with the replies
  with open(FLAGS.position, 'r+b') as file, mmap.mmap(file.fileno(), 8) as position:
    folder = pathlib.Path(tempfile.mkdtemp(dir=pathlib.Path(FLAGS.position).parent)).resolve()
    targets = Targets(folder)
    for target in _SHARES:  # whatever is imported late is now imported
      for number in range(40):
        outcome(targets, target, number, -1)
    if FLAGS.plant:
      PLANTS[FLAGS.plant][1]()
    pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print('ready', file=replies, flush=True)
    for line in sys.stdin:
      target, first, last = json.loads(line)
      tally = run_block(
        targets, target, first, last, FLAGS.fuzz_seed,
        lambda number: position.__setitem__(slice(0, 8), number.to_bytes(8, 'little')),
      )  # fmt: skip
      print(json.dumps(dataclasses.asdict(tally)), file=replies, flush=True)


class Worker:
  """The other side of `work`: restarted whenever it dies, which is a finding."""

  def __init__(self, folder: pathlib.Path, plant: str = '') -> None:
    self._position = folder / f'position_{id(self)}'
    self._position.write_bytes(bytes(8))
    self._plant = plant
    self._process: subprocess.Popen[str] | None = None

  def _start(self) -> subprocess.Popen[str]:
    process = subprocess.Popen(
      [
        sys.executable, '-m', 'experiments.trust.fuzz', '--worker', f'--position={self._position}',
        f'--fuzz_seed={FLAGS.fuzz_seed}', f'--plant={self._plant}',
      ],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != 'ready\n':
      raise RuntimeError(f'a worker did not start (exit status {process.wait()})')
    return process

  def run(self, target: str, first: int, last: int) -> Tally:
    tally = Tally()
    waiting = [(first, last)]
    while waiting:
      first, last = waiting.pop()
      self._process = self._process or self._start()
      assert self._process.stdin is not None
      assert self._process.stdout is not None
      print(json.dumps([target, first, last]), file=self._process.stdin, flush=True)
      if reply := self._process.stdout.readline():
        tally.add(Tally(**json.loads(reply)))
        continue
      status = self._process.wait()
      self._process = None
      number = int.from_bytes(self._position.read_bytes(), 'little')
      how = signal.Signals(-status).name if status < 0 else f'exit status {status}'
      failure = {'target': target, 'input': number, 'wrong': f'killed the process: {how}'}
      tally.add(Tally(inputs=1, failures=[failure]))
      waiting += [pair for pair in ((first, number), (number + 1, last)) if pair[0] < pair[1]]
    return tally

  def close(self) -> None:
    if self._process is not None:
      self._process.communicate()


# --- planted faults ------------------------------------------------------------------------------


def _unpickle() -> None:
  import numpy as np

  from dpgan_jax.data import readers

  readers._parse_npy = lambda where, data: np.load(io.BytesIO(data), allow_pickle=True)


def _believe_headers() -> None:
  from dpgan_jax.data import readers

  readers.MAX_BYTES = readers._MAX_DEFLATE_RATIO = 2**62


def _wait_for_the_rest() -> None:
  from dpgan_jax.data import readers

  parse = readers._parse_idx

  def endless(*arguments: Any, **options: Any) -> Any:
    try:
      return parse(*arguments, **options)
    except _validate.InputError as error:
      while 'truncated' in str(error):
        pass
      raise

  readers._parse_idx = endless


def _follow_links() -> None:
  from dpgan_jax.data.images import folder as image_folder

  class Path(type(pathlib.Path())):
    def is_relative_to(self, *other: Any) -> bool:
      return True

  image_folder.pathlib = type(sys)('pathlib')
  image_folder.pathlib.Path = Path


def _read_any_flag_file() -> None:
  _flag_files._lines = lambda name: pathlib.Path(name).read_text().splitlines()


def _quote_as_is() -> None:
  _validate.one_line = lambda text: text


PLANTS: dict[str, tuple[str, Callable[[], None], int]] = {
  'arrays are unpickled': ('npz', _unpickle, 400),
  'headers are believed': ('idx', _believe_headers, 400),
  'the rest of a cut file is waited for': ('idx', _wait_for_the_rest, 400),
  'links are followed out of the folder': ('png', _follow_links, 400),
  'flag files are read whatever they are': ('flags', _read_any_flag_file, 600),
  'messages quote names as they are': ('png', _quote_as_is, 600),
}


# --- the command ---------------------------------------------------------------------------------


def blocks(inputs: int, targets: Sequence[str]) -> Iterator[tuple[str, int, int]]:
  for target in targets:
    total = round(inputs * _SHARES[target])
    for first in range(0, total, _AT_ONCE):
      yield target, first, min(total, first + _AT_ONCE)


def define_flags() -> None:
  flags.DEFINE_integer('inputs', 100_000, 'Inputs, over all targets.')
  flags.DEFINE_integer('fuzz_seed', 0, 'Other inputs with every number.')
  flags.DEFINE_list('targets', None, f'Only some of {", ".join(_SHARES)}; the rest is kept.')
  flags.DEFINE_integer('jobs', os.cpu_count() or 1, 'Processes side by side.')
  flags.DEFINE_string('only', None, 'Repeat one input in this process, e.g. npz:1234.')
  flags.DEFINE_string('out', str(OUT), 'The JSON file of what was found.')
  flags.DEFINE_bool('worker', False, 'Used by this program for the processes that it starts.')
  flags.DEFINE_string('position', None, 'As worker.')
  flags.DEFINE_string('plant', '', 'As worker; the fault to plant.')


def main() -> None:
  if FLAGS.worker:
    return work()
  _validate.integer('inputs', FLAGS.inputs, minimum=1)
  _validate.integer('jobs', FLAGS.jobs, minimum=1)
  if FLAGS.only is not None:
    return _repeat(FLAGS.only)
  wanted = FLAGS.targets or list(_SHARES)
  for target in wanted:
    _validate.one_of('targets', target, _SHARES)
  kept = _kept() if FLAGS.targets else {}
  started = time.monotonic()
  tallies = {name: Tally() for name in wanted}
  with tempfile.TemporaryDirectory() as folder:
    waiting, done, printed = list(blocks(FLAGS.inputs, wanted)), 0, 0.0
    random.Random(0).shuffle(waiting)  # so that the time left is known soon

    def serve(mine: list[tuple[str, int, int]]) -> Iterator[tuple[str, Tally]]:
      worker = Worker(pathlib.Path(folder))
      for target, first, last in mine:
        yield target, worker.run(target, first, last)
      worker.close()

    streams = [serve(waiting[i :: FLAGS.jobs]) for i in range(FLAGS.jobs)]
    for target, tally in _side_by_side(streams):
      tallies[target].add(tally)
      for failure in tally.failures:
        print(f'{target}:{failure["input"]} {failure["wrong"]}', file=sys.stderr, flush=True)
      done += tally.inputs
      elapsed = time.monotonic() - started
      if elapsed - printed > 10:
        printed = elapsed
        left = _progress.duration(elapsed / done * (sum(b - a for _, a, b in waiting) - done))
        found = sum(len(t.failures) for t in tallies.values())
        print(f'{done:,} inputs, {found} findings, {left} left', file=sys.stderr, flush=True)
    planted = list(kept.get('planted', ()))
    for name, (target, _, count) in PLANTS.items() if not kept else ():
      print(f'planted: {name}', file=sys.stderr, flush=True)
      planting = Worker(pathlib.Path(folder), name)
      tally = Tally()
      for first in range(0, count, 20):  # one finding is enough: those that kill take their time
        tally.add(planting.run(target, first, first + 20))
        if tally.failures:
          break
      planting.close()
      planted.append(
        {
          'fault': name, 'target': target, 'caught': bool(tally.failures), 'inputs': tally.inputs,
          'by': tally.failures[0]['wrong'][:100] if tally.failures else None,
        }
      )  # fmt: skip
  record = result(tallies, planted, kept)
  pages.write_json(pathlib.Path(FLAGS.out), record, indent=2)
  caught = sum(row['caught'] for row in planted)
  print(
    f'{record["inputs"]:,} inputs, {record["findings"]} findings, {caught} of {len(planted)} '
    f'planted faults found: {FLAGS.out}'
  )
  if record['findings'] or caught < len(planted):
    sys.exit(1)


def _side_by_side(streams: Sequence[Iterator[T]]) -> Iterator[T]:
  """What several iterators yield, each advanced in a thread of its own, as it comes."""
  with concurrent.futures.ThreadPoolExecutor(len(streams)) as pool:
    pending = {pool.submit(next, stream, None): stream for stream in streams}
    while pending:
      ready, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in ready:
        stream, item = pending.pop(future), future.result()
        if item is not None:
          pending[pool.submit(next, stream, None)] = stream
          yield item


def _kept() -> dict[str, Any]:
  """What an earlier run with the same inputs found."""
  try:
    record = json.loads(pathlib.Path(FLAGS.out).read_bytes())
    if record['command'] != _command():
      raise _validate.InputError(f'{FLAGS.out} is from {record["command"]}, not {_command()}')
    return record
  except (OSError, ValueError, KeyError) as error:
    raise _validate.InputError(f'expected targets to add to {FLAGS.out}: {error}') from None


def _command() -> str:
  seed = f' --fuzz_seed={FLAGS.fuzz_seed}' if FLAGS.fuzz_seed else ''
  return f'python -m experiments.trust.fuzz --inputs={FLAGS.inputs}{seed}'


def result(
  tallies: dict[str, Tally], planted: list[dict[str, Any]], kept: dict[str, Any]
) -> dict[str, Any]:
  """The record of a run, with what is kept of an earlier one."""
  names = ('absl-py', 'jax', 'numpy', 'pillow', 'safetensors')
  rows = kept.get('targets', {}) | {
    name: {
      'inputs': tally.inputs,
      'accepted': tally.accepted,
      'refused': tally.refused,
      'findings': len(tally.failures),
      'slowest_cpu_seconds': round(tally.slowest_seconds, 3),
    }
    for name, tally in tallies.items()
  }
  failures = [failure for failure in kept.get('failures', ()) if failure['target'] not in tallies]
  failures += [failure for tally in tallies.values() for failure in tally.failures]
  failures.sort(key=lambda failure: (failure['target'], failure['input']))
  return {
    'command': _command(),
    'inputs': sum(row['inputs'] for row in rows.values()),
    'findings': sum(row['findings'] for row in rows.values()),
    'targets': rows,
    'limits': {
      'cpu_seconds': CPU_SECONDS, 'seconds': REAL_SECONDS, 'address_space_mib': EXTRA_BYTES // 2**20
    },
    'planted': planted,
    'failures': failures[:_KEPT_FAILURES],
    'environment': {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in names},
    },
  }  # fmt: skip


def _repeat(which: str) -> None:
  target, _, number = which.partition(':')
  if target not in _SHARES or not number.isdecimal():
    raise _validate.InputError(
      f'expected only as TARGET:NUMBER ({", ".join(_SHARES)}), got {which}'
    )
  with tempfile.TemporaryDirectory() as folder:
    Targets(pathlib.Path(folder).resolve()).read(target, int(number), FLAGS.fuzz_seed)
  print('accepted')


if __name__ == '__main__':
  define_flags()
  _cli.run(main, interrupted='Nothing was written; the same command tries the same inputs.')

"""Do the contenders compute the same? One step of each from the same weights, without noise.

Without noise and with a learning rate equal to the batch size, a step changes the weights by the
sum of the clipped gradients. The images range from black to twice as bright, so that some gradients
are clipped and others are not. It is the very program that is timed which takes the step.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import numpy as np

from experiments.benchmarks import client
from experiments.benchmarks.contenders import Contender

TOLERANCE = 1e-4
BATCH = 16
# About the median of the gradient norms, so that half of them are clipped.
CLIP = {'tutorial_cnn': 8.0, 'report_d': 5.0, 'large_d': 8.0}
REFERENCE = {True: 'ours_vmap', False: 'ours_nonprivate'}


def distance(found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
  """‖found − reference‖ ÷ ‖reference‖, of the parameter where it is largest."""
  worst = 0.0
  for name, value in reference.items():
    norm = np.linalg.norm(value)
    worst = max(worst, float(np.linalg.norm(found[name] - value) / norm) if norm else np.inf)
  return worst


def clipped_sum(
  contender: Contender, net: str, peers: pathlib.Path, device: str, clip: float
) -> dict[str, np.ndarray]:
  """What one step of the contender subtracts from the weights.

  Raises:
    WorkerError: it cannot be had.
  """
  with tempfile.TemporaryDirectory() as directory:
    out = pathlib.Path(directory) / 'sum.npz'
    with client.start(contender, peers, device) as worker:
      worker.ask('check', net=net, mode=contender.mode, batch=BATCH, clip=clip, out=str(out))
    with np.load(out) as arrays:
      return dict(arrays)


def run(nets: list[str], contenders: list[Contender], peers: pathlib.Path, device: str) -> int:
  """Prints a table; returns 1 if a contender that ran differs from its reference."""
  for private, name in REFERENCE.items():
    kind = {c.name for c in contenders if c.private == private}
    if kind and name not in kind:
      raise SystemExit(f'speed.py: --check compares with {name}: add it to --contenders')
  print('| network | contender | largest relative difference | |\n| --- | --- | --- | --- |')
  status = 0
  for net in nets:
    references: dict[bool, dict[str, np.ndarray]] = {}
    in_order = sorted(contenders, key=lambda c: c.name not in REFERENCE.values())
    for contender in in_order:
      print(f'{net}: {contender.name}', file=sys.stderr, flush=True)
      try:
        found = clipped_sum(contender, net, peers, device, CLIP[net])
      except client.WorkerError as error:
        print(f'| {net} | {contender.title} | – | {error} |')
        continue
      if contender.name in REFERENCE.values():
        references[contender.private] = found
      if contender.private not in references:
        print(f'| {net} | {contender.title} | – | nothing to compare with |')
        continue
      difference = distance(found, references[contender.private])
      same = difference <= TOLERANCE
      status |= not same
      print(f'| {net} | {contender.title} | {difference:.1e} | {"same" if same else "DIFFERENT"} |')
  return int(status)

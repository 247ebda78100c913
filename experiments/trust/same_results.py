"""Whether two commits give the same results: `python -m experiments.trust.same_results OLD [NEW]`.

Checks out both beside each other, runs the quickstart and a short run with all stages in each, with
a fixed seed, and compares samples, metrics and ε, before the first step (the plan) and after the
last. Prints what differs; the exit status is 1 if anything does.

The move into rooms changed nothing:

    ./run.sh python -m experiments.trust.same_results 3f5837e ROOMS

where ROOMS is the commit whose message begins with "Rooms:". Later commits change bits on purpose:
keys of purposes and one secret of a run, noise with wide tails on a public grid, norms raised by
what rounding can have taken. Each says why in its message.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEEDED = ['--seed=3', '--num_samples=200']
SHORT = ['--steps=60', '--steps_per_report=20', *SEEDED]
RUNS = {
  'quickstart': ['--flagfile=experiments/quickstart.flags', *SEEDED],
  'GAN': ['--flagfile=experiments/quickstart.flags', '--batch_size=64', *SHORT],
  'all stages': [
    '--dataset=digits', '--generator=report', '--discriminator=scattering', '--delta=1e-4',
    '--target_epsilon=8', '--label_share=0.2', '--label_cnn_share=0.2', '--batch_size=64',
    '--g_mixture=2', '--reports_per_snapshot=1', *SHORT,
  ],
}  # fmt: skip


def results(tree: pathlib.Path, flags: list[str], run: pathlib.Path) -> dict[str, Any]:
  """What a run leaves: its plan, arrays of samples, metrics without their hashes, ε."""
  command = [sys.executable, '-m', 'dpgan_jax.train', *flags]
  environment = {**os.environ, 'PYTHONPATH': str(tree)}

  def output(*more: str) -> str:
    done = subprocess.run(
      [*command, *more], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
      raise SystemExit(f'{tree.name}: {done.stderr.strip().splitlines()[-1]}')
    return done.stdout

  plan = [line for line in output('--dry_run').splitlines() if 'expected time' not in line]
  output(f'--run_dir={run}')
  samples = np.load(run / 'samples.npz')
  lines = (run / 'metrics.jsonl').read_text('utf-8').splitlines()
  return {
    'plan': plan,
    'samples': {name: samples[name].tobytes() for name in ('x', 'y') if name in samples},
    'metrics': [{k: v for k, v in json.loads(line).items() if k != 'hash'} for line in lines],
    'epsilon': json.loads((run / 'report.json').read_bytes())['guarantee']['epsilon'],
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('old')
  parser.add_argument('new', nargs='?', default='HEAD')
  commits = vars(parser.parse_args())
  differing = 0
  with tempfile.TemporaryDirectory() as folder:
    for name, commit in commits.items():
      tree = pathlib.Path(folder, name)
      subprocess.run(['git', '-C', str(ROOT), 'worktree', 'add', '-q', '--detach', tree, commit],
                     check=True)  # fmt: skip
    try:
      for run, flags in RUNS.items():
        old, new = (
          results(pathlib.Path(folder, n), flags, pathlib.Path(folder, f'{n}_{run}'))
          for n in commits
        )
        for what in old:
          same = old[what] == new[what]
          differing += not same
          print(f'{run}: {what} {"the same" if same else "DIFFER"}', flush=True)
    finally:
      for name in commits:
        subprocess.run(['git', '-C', str(ROOT), 'worktree', 'remove', '--force',
                        str(pathlib.Path(folder, name))], check=False)  # fmt: skip
  sys.exit(bool(differing))


if __name__ == '__main__':
  main()

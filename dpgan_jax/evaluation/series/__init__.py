"""Scores of synthetic series beside what real ones and worthless ones get."""

from dpgan_jax.evaluation.series.pages import evaluate_run

__all__ = ['evaluate_run']

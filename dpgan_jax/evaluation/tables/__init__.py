"""Scores of a synthetic table beside what real rows and worthless tables get."""

from dpgan_jax.evaluation.tables.pages import evaluate_run

__all__ = ['evaluate_run']

"""The privacy core: sampler, clipping, noise and accountant of one mechanism. It imports jax,
numpy, optax and dp_accounting only.
"""

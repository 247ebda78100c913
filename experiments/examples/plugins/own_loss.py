"""A loss of one's own: `--plugin=experiments/examples/plugins/own_loss.py --loss=least_squares`.

Three functions of one logit: of D on a real record, of D on a fake, of G on a fake. Least squares:
Mao et al. 2017 (arXiv 1611.04076).
"""

from dpgan_jax.networks.losses import LOSSES, Losses

LOSSES.register('least_squares')(
  Losses(
    d_real=lambda logit: (logit - 1) ** 2,
    d_fake=lambda logit: logit**2,
    g=lambda logit: (logit - 1) ** 2,
  )
)

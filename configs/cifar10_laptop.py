"""SiT on 10,000 images of CIFAR-10 with a model of 2.6 M parameters, for one CPU core.

Paper: arXiv 2104.03602, which pre-trains and evaluates on all of CIFAR-10 (configs/cifar10.py).
Hardware and hours: 1 CPU core with AMX, 35 to 39 minutes with start-up (370 to 410 images/s).
Expected score: mean of three seeds (docs/runs/laptop-seed*), k-NN top-1 51.2 +- 0.3 % on the test images (random
weights: 28.7 +- 0.6 %, pixels: 40.4 %), linear 56.5 +- 0.6 % (34.7 +- 0.5 %, 39.6 %).
Command: python -m sit_jax.main --config=configs/cifar10_laptop.py --workdir=runs/cifar10_laptop
Data: python benchmarks/cifar10_subset.py FOLDER runs/data, from CIFAR-10 as an image folder (once)
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: paper, runlocal, variant=S/4, res=64."""
    c = config.builtin("cifar10").get_config()
    c.data.source = "npz:runs/data/cifar10-10k.npz"
    config.laptop(c)
    c.update(log_every=100, eval_every=1172, checkpoint_every=586)
    return config.apply_args(c, arg)

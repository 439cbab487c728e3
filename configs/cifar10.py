"""SiT on CIFAR-10: 50,000 training images of 32 px, 10 classes.

Paper: arXiv 2104.03602, which pre-trains and evaluates on this data set.
Hardware and hours: not measured; intended for one GPU and less than a day.
Expected score: not measured.
Command: python -m sit_jax.main --config=configs/cifar10.py --workdir=runs/cifar10
Data: python -m sit_jax.data.prepare tfds:cifar10 (once)
The paper's setting (ViT-B/16 at 224 px): --config=configs/cifar10.py:paper; try-out on a laptop: :runlocal
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: paper, runlocal, variant=S/4, res=64."""
    c = config.defaults()
    c.data.update(source="tfds:cifar10", image_size=32)
    c.model.update(size="S", patch_size=4, image_size=32)
    c.batch_size = 512
    c.epochs = 800.0
    c.optim.warmup_epochs = 10.0
    return config.apply_args(c, arg)

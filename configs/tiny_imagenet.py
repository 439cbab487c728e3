"""SiT on Tiny-ImageNet: 100,000 training images of 64 px, 200 classes.

Paper: arXiv 2104.03602, which pre-trains and evaluates on this data set.
Hardware and hours: not measured; intended for one GPU and less than a day.
Expected score: not measured.
Command: python -m sit_jax.main --config=configs/tiny_imagenet.py --workdir=runs/tiny_imagenet
Data: unpack tiny-imagenet-200.zip in the current folder, or set its path: --config.data.source=tiny_imagenet:PATH
The paper's setting (ViT-B/16 at 224 px): --config=configs/tiny_imagenet.py:paper; try-out on a laptop: :runlocal
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: paper, runlocal, variant=S/4, res=64."""
    c = config.defaults()
    c.data.update(source="tiny_imagenet:tiny-imagenet-200", image_size=64)
    c.model.update(size="S", patch_size=8, image_size=64)
    c.batch_size = 512
    c.epochs = 400.0
    c.optim.warmup_epochs = 10.0
    return config.apply_args(c, arg)

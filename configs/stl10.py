"""SiT on STL-10: 5,000 labelled and 100,000 unlabelled training images of 96 px, 10 classes.

Paper: arXiv 2104.03602, which pre-trains and evaluates on this data set.
Hardware and hours: not measured; intended for one GPU and less than a day.
Expected score: not measured.
Command: python -m sit_jax.main --config=configs/stl10.py --workdir=runs/stl10
Data: python -m sit_jax.data.prepare tfds:stl10 (once)
The paper's setting (ViT-B/16 at 224 px): --config=configs/stl10.py:paper; try-out on a laptop: :runlocal
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: paper, runlocal, variant=S/4, res=64."""
    c = config.defaults()
    c.data.update(source="tfds:stl10", image_size=96)
    c.model.update(size="S", patch_size=8, image_size=96)
    c.batch_size = 512
    c.epochs = 300.0
    c.optim.warmup_epochs = 10.0
    return config.apply_args(c, arg)

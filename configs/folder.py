"""SiT on your own pictures: any folder of images, without labels.

Paper: arXiv 2104.03602 (not a data set of the paper).
Hardware and hours: not measured; intended for one GPU, thousands to hundreds of thousands of pictures, less than a day.
Expected score: not measured.
Command: python -m sit_jax.main --config=configs/folder.py --config.data.source=folder:PATH --workdir=runs/mine
Data: PNG, JPEG, WebP or BMP of any size, at any depth below PATH. Class folders (PATH/class/* or
PATH/{train,test}/class/*) are used only for a k-NN accuracy during training, never to train.
Try-out on a laptop: --config=configs/folder.py:runlocal
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: runlocal, variant=S/16, res=224."""
    c = config.defaults()
    c.data.image_size = 256  # slightly above the model's image size, for the crops
    c.model.update(size="S", patch_size=16, image_size=224)
    c.batch_size = 256
    c.epochs = 400.0
    c.optim.warmup_epochs = 10.0
    return config.apply_args(c, arg)

"""SiT on your own pictures: any folder of images, without labels.

Paper: arXiv 2104.03602 (not a data set of the paper).
Hardware and hours: on a CPU, the recipe that the study in docs/results.md found (XS/8), at 64 px; on an accelerator,
S/16 at 224 px, not measured, intended for one GPU, thousands to hundreds of thousands of pictures, less than a day.
Give --hours=2 to end in two hours.
Expected score: not measured.
Command: python -m sit_jax.main --config=configs/folder.py --config.data.source=folder:PATH --workdir=runs/mine
Data: PNG, JPEG, TIFF and other pictures (docs/channels.md) of any size, at any depth below PATH. Class folders
(PATH/class/* or PATH/{train,test}/class/*) are used only for a k-NN accuracy during training, never to train.
Other recipes: --config=configs/folder.py:gpu, :laptop, :variant=B/16,res=224; a try-out of a minute: :runlocal
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: laptop, gpu, runlocal, variant=S/16, res=224, views=xray."""
    c = config.defaults()
    c.data.image_size = 256  # slightly above the model's image size, for the crops
    c.model.update(size="S", patch_size=16, image_size=224)
    c.batch_size = 256
    c.epochs = 400.0
    c.optim.warmup_epochs = 10.0
    return config.apply_args(c, arg, laptop=laptop)


def laptop(c):
    """Sets the recipe for a CPU, at 64 px."""
    c.data.image_size = 72
    config.laptop(c)
    c.model.image_size = 64
    c.update(log_every=50, eval_every=1000, checkpoint_every=500)

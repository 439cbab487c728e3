"""SiT on handwritten digits, the data that scikit-learn ships: a first run that needs nothing but a laptop.

Paper: arXiv 2104.03602 (not a data set of the paper).
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments: variant=SIZE/PATCH, res=PIXELS, runlocal."""
    args = config.parse_arg(arg, variant="XS/4", res=16, runlocal=False)
    c = config.defaults()
    c.data.update(source="digits", image_size=8)
    config.set_variant(c, args.variant, args.res)
    c.batch_size = 128
    c.epochs = 60.0
    c.views.area = (0.4, 1.0)
    c.log_every, c.eval_every, c.checkpoint_every = 20, 200, 200
    if args.runlocal:
        config.runlocal(c)
    return c

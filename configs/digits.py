"""SiT on the handwritten digits of scikit-learn: a first run on a laptop, without a download.

Paper: arXiv 2104.03602 (not a data set of the paper).
Hardware and hours: 1 CPU core, 4.3 minutes with start-up.
Expected score: mean of three seeds (docs/runs/digits*), k-NN top-1 89.9 +- 1.6 % on the test images (random weights:
37.9 %, raw pixels: 97.2 %), linear 97.2 +- 0.3 % (86.3 %, 96.9 %), with ten labels 59.6 +- 4.7 % (18.0 %, 47.7 %).
Command: python -m sit_jax.main --config=configs/digits.py --workdir=runs/digits
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: runlocal, variant=XS/4, res=16."""
    c = config.defaults()
    c.data.update(source="digits", image_size=8)
    c.model.update(size="XS", patch_size=4, image_size=16)
    # Digits have no colour, and a mirrored digit is no digit.
    c.views.update(area=(0.6, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)
    c.corrupt.blur.update(kernel=(3, 5), sigma=(0.1, 1.5))
    c.batch_size = 128
    c.epochs = 40.0
    c.model.drop_path = 0.0
    c.loss.temperature = 0.2  # the paper has 0.5
    c.optim.update(base_learning_rate=4e-3, warmup_epochs=2.0)
    c.update(log_every=20, eval_every=100, checkpoint_every=100)
    c.linear.augment.update(flip=0.0, area=(0.4, 1.0))
    c.finetune.update(epochs=12.0, batch_size=128)
    c.finetune.optim.update(base_learning_rate=4e-3, warmup_epochs=1.0)
    # DeiT's recipe is for long trainings on photographs; RandAugment can turn a digit into another.
    c.finetune.augment.update(flip=0.0, area=(0.8, 1.0), random_erase=0.0, mixup=0.0, cutmix=0.0)
    c.finetune.augment.randaugment.layers = 0
    return config.apply_args(c, arg)

"""SiT on CIFAR-10 in a few minutes on one GPU: all 50,000 images, with the views of the laptop configuration.

Paper: arXiv 2104.03602, which pre-trains and evaluates on this data set (configs/cifar10.py).
Hardware and hours: not measured; benchmarks/accelerator.py sets the number of steps from the measured rate.
Expected score: not measured. Short runs on CPUs learned more with temperature 0.2 than with the paper's 0.5.
Command: python benchmarks/accelerator.py --minutes=10 --out=DIR --stages=learn
Data: an array file, runs/accelerator/cifar10.npz
"""

from sit_jax import config


def get_config(arg=None):
    """Returns the configuration; arguments after a colon: paper, runlocal, variant=S/4, res=64."""
    c = config.builtin("cifar10_laptop").get_config()
    c.data.source = "npz:runs/accelerator/cifar10.npz"
    c.model.update(size="S", patch_size=4)
    c.batch_size = 512
    c.loss.temperature = 0.2
    # The rate of configs/cifar10.py; the laptop's rate is for a small model and a small batch.
    c.optim.update(base_learning_rate=1e-3, warmup_epochs=3.0)
    c.update(log_every=50, eval_every=2000, checkpoint_every=2000)
    return config.apply_args(c, arg)

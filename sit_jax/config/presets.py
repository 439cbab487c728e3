"""Presets that every configuration file accepts as arguments: the paper's recipe, a try-out, the model size."""

from collections.abc import Callable

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config.arguments import parse_arg
from sit_jax.config.domains import use_views
from sit_jax.config.schema import defaults
from sit_jax.views.corrupt import OPERATIONS

NO_FILE = "(missing)"  # of `init`, until --config.init=FILE names one
RESUMING = {"continue": False}  # a word of Python, so not as a keyword
PAPER_TASKS = ("reconstruction", "rotation", "contrastive")


def apply_args(
    c: ml_collections.ConfigDict, arg: str | None, laptop: Callable[[ml_collections.ConfigDict], None] | None = None
) -> ml_collections.ConfigDict:
    """Applies the arguments that every configuration accepts, and returns the configuration.

    First `paper` sets the paper's recipe, then `views=NAME` sets the views of a domain (`config/domains.py`), then
    `continue` sets a short run from public weights, then `runlocal` shrinks everything to a laptop try-out, then
    `variant=S/4` (size/patch side) and `res=64` (image side in pixels) set the model. A file with a recipe for a
    `laptop` beside the one for accelerators also accepts `laptop` and `gpu`; without any argument that sets the model,
    `machine` is "auto", and the command chooses by what this machine has (see `config.machine`). Raises InputError for
    any other argument.
    """
    recipes = {"laptop": False, "gpu": False} if laptop else {}
    args = parse_arg(arg, variant="", res=0, paper=False, runlocal=False, views="", **RESUMING, **recipes)
    if laptop:
        choose_recipe(c, args, laptop)
    if args.paper:
        paper(c)
    if args.views:
        use_views(c, args.views)
    if args["continue"]:
        continue_training(c)
    if args.runlocal:
        runlocal(c)
    if args.variant:
        set_variant(c, args.variant)
    if args.res:
        c.model.image_size = args.res
    return c


def choose_recipe(
    c: ml_collections.ConfigDict, args: ml_collections.ConfigDict, laptop: Callable[[ml_collections.ConfigDict], None]
) -> None:
    """Sets `c.machine`, and the recipe for a laptop if the arguments ask for it; raises InputError for both recipes."""
    if args.laptop and args.gpu:
        raise InputError("config arguments laptop and gpu exclude each other; keep one of them")
    if args.laptop:
        laptop(c)
    given = args.gpu or args.variant or args.res or args.paper or args.runlocal or args["continue"]
    c.machine = "laptop" if args.laptop else "gpu" if given else "auto"


def set_variant(c: ml_collections.ConfigDict, variant: str) -> None:
    """Sets the size and patch side of the model from a name such as "S/4"; raises InputError for any other form."""
    size, _, patch = variant.partition("/")
    if not patch.isdigit():
        raise InputError(f"config argument variant={variant} must be SIZE/PATCH, such as S/4")
    c.model.update(size=size, patch_size=int(patch))


def paper(c: ml_collections.ConfigDict) -> None:
    """Sets the paper's recipe: ViT-B/16 at 224 px, its views, corruptions, losses, fine-tuning, batch 288, 501 epochs.

    An epoch of the authors' first release is a third of the images, each repeated three times; 501 epochs draw each
    image 501 times. The release clips blocks at the lower and right border. `block` and `fraction` are set so that the
    corruptions cover the same shares of the area as measured on the release (docs/paper.md).
    """
    base = defaults()
    for section in ("views", "corrupt", "loss", "optim", "linear", "finetune"):
        c[section] = base[section]
    c.model.update(size="B", patch_size=16, image_size=224, drop_path=0.1, embedding_size=512)
    c.model.update(projector_layers=1, projector_norm="none", stem="patches")
    c.views.update(count=2, area=(0.08, 1.0), jitter=1.0, saturation=0.4, hue=0.0, grayscale=0.0)
    c.views.update(turned=0.75, share_rotation=False)
    c.corrupt.share = 1.0
    for name, row in OPERATIONS.items():  # the paper has no other corruption
        c.corrupt[name].update(row.off())
    for name, probability in (("grayscale", 1.0), ("blur", 1.0), ("recolour", 0.0)):
        c.corrupt[name].probability = probability
        c.corrupt[name].block = (0.05, 0.67)
    c.corrupt.drop.update(fraction=(0.0, 0.275), noise_std=0.43)
    c.corrupt.replace.fraction = (0.0, 0.275)
    c.loss.update(weighting="gradient", subtract_floor=False)
    c.loss.weights = {name: "learned" if name in PAPER_TASKS else "0" for name in c.loss.weights}
    c.batch_size = 288
    c.epochs = 501.0
    c.optim.update(warmup_epochs=5.0, clip_norm=0.0, ema=0.99996, log_var_rate=1.0)
    c.finetune.epochs = 501.0


def laptop(c: ml_collections.ConfigDict) -> None:
    """Sets the recipe that learned most in the time of a CPU core (docs/results.md): XS/8, 75 epochs."""
    c.model.update(size="XS", patch_size=8, drop_path=0.0)
    c.batch_size = 128
    c.epochs = 75.0
    c.loss.temperature = 0.2  # the paper has 0.5
    c.optim.update(base_learning_rate=4e-3, warmup_epochs=3.0, ema=0.999)
    # DeiT's recipe is for many epochs.
    c.finetune.update(epochs=5.0, batch_size=128)
    c.finetune.optim.update(base_learning_rate=4e-3, warmup_epochs=1.0)
    c.finetune.augment.update(area=(0.4, 1.0), random_erase=0.0, mixup=0.0, cutmix=0.0)
    c.finetune.augment.randaugment.layers = 0


def continue_training(c: ml_collections.ConfigDict) -> None:
    """Sets a short run from public weights (`config.init`): not measured, and meant to keep what they know.

    A tenth of the learning rate moves the weights little. The warm-up, a quarter of the run, lets the new heads settle
    before the encoder moves. The average of the weights smooths a run that is too short to decay far.
    """
    c.epochs, c.init = 20.0, NO_FILE
    c.optim.update(base_learning_rate=1e-4, final_learning_rate=1e-6, warmup_epochs=5.0, ema=0.999)


def runlocal(c: ml_collections.ConfigDict) -> None:
    """Shrinks a configuration to under a minute on a laptop: a tiny model at 32 px, 200 steps of 32 images."""
    c.model.update(size="mu", patch_size=4, image_size=32)
    c.data.image_size = min(c.data.image_size or 32, 32)
    c.batch_size, c.steps = 32, 200
    c.optim.update(warmup_steps=20, base_learning_rate=0.03)
    c.eval.update(num_train=512, num_test=128)
    c.update(log_every=20, eval_every=100, checkpoint_every=100)

"""The configuration: every key with its meaning and default, arguments of config files, durations."""

import functools
import json
import math
import pathlib
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

from sit_jax.errors import InputError


def defaults() -> ml_collections.ConfigDict:
    """Returns the configuration that every file in `configs/` starts from; `data.source` is for the file to set."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    # Source images in a step, over all devices and hosts; each gives `views.count` views.
    c.batch_size = 256
    # Gradient accumulation: the batch goes through the device in so many parts, with the losses of the whole batch.
    c.microbatches = 1
    # Length of the training: `steps` or `examples` (source images) go before `epochs` (true passes over the data).
    c.epochs = 100.0
    c.steps = placeholder(int)
    c.examples = placeholder(int)
    # Type of the computation: "auto" is bfloat16 on accelerators and float32 on CPU; parameters are float32.
    c.dtype = "auto"

    c.data = ml_collections.ConfigDict()
    # digits | folder:PATH | npz:PATH.npz | tiny_imagenet:PATH | tfds:NAME
    c.data.source = ""
    # Side in pixels at which images are kept: shorter side resized, centre cropped. None: the model's image size.
    c.data.image_size = placeholder(int)
    # Gigabytes; what fits is decoded once and kept in memory, the rest is streamed from disk.
    c.data.memory_limit = 8.0
    # Where decoded images are cached; None: ~/.cache/sit_jax/images.
    c.data.cache_dir = placeholder(str)
    # Skip and count images that cannot be read, instead of stopping.
    c.data.skip_unreadable = False

    c.views = ml_collections.ConfigDict()
    c.views.count = 2  # views of an image in a step
    c.views.area = (0.2, 1.0)  # share of the image that a random crop covers
    c.views.ratio = (3 / 4, 4 / 3)  # its width / height
    c.views.flip = 0.5  # probability of a horizontal flip
    c.views.jitter = 0.8  # probability of the colour jitter
    c.views.brightness = 0.4  # its strengths; 0 is off
    c.views.contrast = 0.4
    c.views.saturation = 0.2
    c.views.hue = 0.1  # at most 0.5, a half turn
    c.views.grayscale = 0.2  # probability
    c.views.solarize = 0.0  # probability
    c.views.blur = 0.0  # probability
    c.views.turned = 0.3  # probability that a view is turned; 0.75 makes the four rotations equally likely
    c.views.share_rotation = True  # turn all views of an image alike

    # Blocks are shares of the side of the image; fractions are shares of its area.
    c.corrupt = ml_collections.ConfigDict()
    c.corrupt.share = 0.25  # of the images: theirs are corrupted, in steps of an eighth and at least one of eight; or 0
    c.corrupt.grayscale = {"probability": 0.3, "block": (0.05, 1.0)}
    c.corrupt.blur = {"probability": 0.3, "block": (0.05, 1.0), "kernel": (3, 15), "sigma": (0.1, 5.1)}
    c.corrupt.recolour = {
        "probability": 0.3,
        "block": (0.05, 1.0),
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
    }
    # The fill is noise, zeros or mean; images are in [-1, 1], and photographs have a standard deviation of about 0.5.
    c.corrupt.drop = {"fraction": (0.0, 0.1), "block": (0.05, 0.25), "fill": "noise", "noise_std": 1.0}
    c.corrupt.replace = {"fraction": (0.0, 0.1), "block": (0.05, 0.25)}

    c.model = ml_collections.ConfigDict()
    c.model.size = "S"  # mu, XS, Ti, S, M, B, L, H, g
    c.model.patch_size = 4
    c.model.image_size = 32
    c.model.stem = "patches"  # or convolutions, of 3 x 3 pixels: outside the paper
    c.model.drop_path = 0.1  # stochastic depth, rate of the last layer
    c.model.embedding_size = 128  # of the contrastive head
    c.model.projector_layers = 3  # dense layers of the contrastive head; above 1, hidden ones with GELU
    c.model.projector_width = 1024  # of the hidden layers
    c.model.projector_norm = "batch"  # batch normalisation after each of these layers, over the global batch; or none
    c.model.remat = False  # recompute layers in the backward pass: less memory, a fourth more time
    # How the layers are computed; what is open is chosen by the device that the step is for (sit_jax/compute.py).
    # Compile each layer for itself instead of a loop over them. None: on CPUs and GPUs, unless there is remat.
    c.model.unroll = placeholder(bool)
    # Two halves of the rows side by side in training on one device. None: on CPUs with unrolled layers.
    c.model.halves = placeholder(bool)
    # xla | cudnn | auto, which is cudnn where it runs: on an NVIDIA GPU, in bfloat16, with an even number of tokens,
    # 2 + patches. The number is even for 224 px in patches of 16 or 14 and 32 px in patches of 4, odd for 224/32.
    c.model.attention = "auto"
    # Factors of dense products where dtype is float32; sums are float32. "auto" is bfloat16 where dtype is "auto" and
    # the processor has a matrix unit for it (AMX), otherwise the type of the computation.
    c.model.products = "auto"

    c.loss = ml_collections.ConfigDict()
    c.loss.temperature = 0.5
    # How weights are learned: "gradient", as published, or "closed_form", 1 / (2 a EMA(loss)).
    c.loss.weighting = "gradient"
    c.loss.subtract_floor = False  # take the floor of NT-Xent from it, in the weighting alone
    c.loss.log_var_init = 1.0
    # "learned", or a fixed weight as text. "0" switches the task off.
    c.loss.weights = {"reconstruction": "1", "rotation": "0.3", "contrastive": "1"}
    # Rebuild the corrupted pixels only.
    c.loss.corrupted_only = False

    c.optim = ml_collections.ConfigDict()
    c.optim.base_learning_rate = 1e-3  # for 512 images a step; scaled linearly with batch_size
    c.optim.final_learning_rate = 5e-6
    c.optim.warmup_learning_rate = 1e-6  # the first one
    c.optim.warmup_epochs = 5.0  # at most half of the training
    c.optim.warmup_steps = placeholder(int)  # warmup_steps or warmup_examples go before warmup_epochs
    c.optim.warmup_examples = placeholder(int)
    c.optim.weight_decay = 0.05  # on kernels only
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.clip_norm = 1.0  # largest norm of the gradients; 0 is off
    c.optim.ema = 0.0  # decay of the average of the weights; 0 is off
    c.optim.log_var_rate = 1.0  # learning rate of the log variances, over that of the model

    c.mesh = ml_collections.ConfigDict()
    c.mesh.data = -1  # devices that share out the batch; -1: the rest
    c.mesh.fsdp = 1  # devices that share out batch and parameters
    # Groups of devices that each hold all parameters: TPU slices or nodes. None: the TPU slices that are there, else 1.
    c.mesh.slices = placeholder(int)

    c.eval = ml_collections.ConfigDict()
    # k-NN, a linear probe and k-means on frozen features: "auto" where there are labels, "on" insists, "off".
    c.eval.knn = "auto"
    c.eval.knn_k = 20
    c.eval.knn_temperature = 0.07
    c.eval.num_train = 10_000  # labelled training images that k-NN votes with, at most
    c.eval.num_test = 2_000  # test images, at most

    # Linear classifiers on the frozen encoder (sit_jax.evaluate --protocol=linear).
    c.linear = ml_collections.ConfigDict()
    # 0: a convex fit on features that are computed once; above, so many epochs on augmented images, as in the paper.
    c.linear.epochs = 0.0
    c.linear.held_out = 0.1  # share of the labelled training images that chooses among what follows
    c.linear.l2 = tuple(10.0**exponent for exponent in range(-6, 2))  # convex: strengths of the penalty to try
    c.linear.learning_rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # epochs: SGD, all of them are trained at once
    c.linear.hidden = 0  # epochs: width of a tanh layer before each classifier (1024 in the paper's variant)
    c.linear.batch_size = 256
    c.linear.augment = augmentation()

    # Fine-tuning of all weights (sit_jax.evaluate --protocol=finetune), by the recipe of DeiT.
    c.finetune = ml_collections.ConfigDict()
    c.finetune.epochs = 100.0
    c.finetune.batch_size = 480
    c.finetune.held_out = 0.0  # share of the labelled training images to watch instead of training on them
    c.finetune.drop_path = 0.1
    c.finetune.optim = ml_collections.ConfigDict()
    c.finetune.optim.base_learning_rate = 5e-4  # for 512 images a step
    c.finetune.optim.final_learning_rate = 1e-5
    c.finetune.optim.warmup_learning_rate = 1e-6
    c.finetune.optim.warmup_epochs = 5.0
    c.finetune.optim.weight_decay = 0.05
    c.finetune.optim.clip_norm = 0.0
    c.finetune.augment = augmentation()
    c.finetune.augment.randaugment.layers = 2
    c.finetune.augment.update(random_erase=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1)

    # In steps; an evaluation runs at step 0 and at the end, a checkpoint is saved at the end, whatever the interval.
    c.log_every = 50
    c.eval_every = 5_000
    c.checkpoint_every = 1_000
    c.keep_latest = 2
    c.keep_best = 1  # by the most eval/contrastive_progress, which needs no labels
    return c


def augmentation() -> ml_collections.ConfigDict:
    """Returns the augmentation of labelled images: crop and flip; the other parts are there and switched off."""
    c = ml_collections.ConfigDict()
    c.area = (0.08, 1.0)  # share of the image that a random crop covers
    c.ratio = (3 / 4, 4 / 3)
    c.flip = 0.5
    c.randaugment = {"layers": 0, "magnitude": 9.0, "magnitude_std": 0.5, "probability": 0.5}
    c.random_erase = 0.0  # probability
    c.mixup = 0.0  # parameter of the Beta distribution; 0 is off
    c.cutmix = 0.0
    c.label_smoothing = 0.0
    return c


# Keys that may change between a run and its continuation: none changes the result by more than rounding.
RESUMABLE = (
    *(
        "log_every",
        "eval_every",
        "checkpoint_every",
        "keep_latest",
        "keep_best",
        "mesh.",
        "microbatches",
        "model.attention",
        "model.unroll",
        "model.halves",
        "eval.",
        "linear.",
        "finetune.",
    ),
    *("data.memory_limit", "data.cache_dir", "data.skip_unreadable"),
)


# What runs did that were saved before these keys were there.
FORMER = {
    "views.count": 2,
    "views.jitter": 1.0,
    "views.blur": 0.0,
    "views.turned": 0.75,
    "views.share_rotation": False,
    "corrupt.share": 1.0,
    "corrupt.drop.noise_std": 1.0,
    "model.stem": "patches",
    "model.projector_width": None,
    "model.projector_norm": "none",
    "loss.weighting": "gradient",
    "loss.subtract_floor": False,
    "optim.log_var_rate": 1.0,
}


def read_saved(path: pathlib.Path) -> dict:
    """Returns the configuration of a run from its `config.json`, with FORMER values where it has no key."""
    saved = json.loads(path.read_text())
    for name, value in FORMER.items():
        *sections, key = name.split(".")
        functools.reduce(dict.__getitem__, sections, saved).setdefault(key, value)
    saved["model"].setdefault("products", saved["dtype"])
    return saved


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Parses what follows the colon of `--config=FILE:name=value,flag` by the types of the defaults in `spec`.

    A bare name is True. Raises InputError for an unknown name or a value of the wrong type.
    """
    values = dict(spec)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in spec:
            raise InputError(f"config argument {name!r} is unknown; known: {', '.join(spec)}")
        values[name] = _parse_value(name, text if "=" in item else "true", type(spec[name]))
    return ml_collections.ConfigDict(values)


def _parse_value(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"config argument {name}={text} must be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"config argument {name}={text} must be of type {kind.__name__}") from None


def apply_args(c: ml_collections.ConfigDict, arg: str | None) -> ml_collections.ConfigDict:
    """Applies the arguments that every configuration takes, and returns it.

    `paper` sets the paper's recipe, `runlocal` shrinks all to a try-out on a laptop; then `variant=S/4`
    (size/patch size) and `res=64` (image size in pixels) set the model. Raises InputError for anything else.
    """
    args = parse_arg(arg, variant="", res=0, paper=False, runlocal=False)
    if args.paper:
        paper(c)
    if args.runlocal:
        runlocal(c)
    if args.variant:
        set_variant(c, args.variant)
    if args.res:
        c.model.image_size = args.res
    return c


def set_variant(c: ml_collections.ConfigDict, variant: str) -> None:
    """Sets size and patch size of the model from a name such as "S/4"."""
    size, _, patch = variant.partition("/")
    if not patch.isdigit():
        raise InputError(f"config argument variant={variant} must be SIZE/PATCH, such as S/4")
    c.model.update(size=size, patch_size=int(patch))


def paper(c: ml_collections.ConfigDict) -> None:
    """Sets the paper's recipe: ViT-B/16 at 224 px, its views, corruptions, losses, fine-tuning, batch 288, 501 epochs.

    The first release repeats every image three times within a third of the data, an epoch, so that its 501 epochs draw
    each image 501 times. Blocks and fractions are such that the corruptions cover the shares of the area that were
    measured on the release, which cuts blocks at the lower and the right border (docs/paper.md).
    """
    base = defaults()
    for section in ("views", "corrupt", "loss", "optim", "linear", "finetune"):
        c[section] = base[section]
    c.model.update(size="B", patch_size=16, image_size=224, drop_path=0.1, embedding_size=512)
    c.model.update(projector_layers=1, projector_norm="none", stem="patches")
    c.views.update(count=2, area=(0.08, 1.0), jitter=1.0, saturation=0.4, hue=0.0, grayscale=0.0)
    c.views.update(turned=0.75, share_rotation=False)
    c.corrupt.share = 1.0
    for name, probability in (("grayscale", 1.0), ("blur", 1.0), ("recolour", 0.0)):
        c.corrupt[name].probability = probability
        c.corrupt[name].block = (0.05, 0.67)
    c.corrupt.drop.update(fraction=(0.0, 0.275), noise_std=0.43)
    c.corrupt.replace.fraction = (0.0, 0.275)
    c.loss.update(weighting="gradient", subtract_floor=False)
    c.loss.weights = dict.fromkeys(c.loss.weights, "learned")
    c.batch_size = 288
    c.epochs = 501.0
    c.optim.update(warmup_epochs=5.0, clip_norm=0.0, ema=0.99996, log_var_rate=1.0)
    c.finetune.epochs = 501.0


def runlocal(c: ml_collections.ConfigDict) -> None:
    """Shrinks a configuration to less than a minute on a laptop: a tiny model at 32 px, 200 steps of 32 images."""
    c.model.update(size="mu", patch_size=4, image_size=32)
    c.data.image_size = min(c.data.image_size or 32, 32)
    c.batch_size, c.steps = 32, 200
    c.optim.update(warmup_steps=20, base_learning_rate=0.03)
    c.eval.update(num_train=512, num_test=128)
    c.update(log_every=20, eval_every=100, checkpoint_every=100)


def duration(config: ml_collections.ConfigDict, prefix: str, num_examples: int, batch_size: int) -> int:
    """Returns a duration in steps from `{prefix}steps`, `{prefix}examples` or `{prefix}epochs`, the first that is set.

    Raises InputError if both steps and examples are set.
    """
    steps, examples = config[f"{prefix}steps"], config[f"{prefix}examples"]
    if steps is not None and examples is not None:
        raise InputError(f"both {prefix}steps and {prefix}examples are set; keep one of them")
    if steps is not None:
        return steps
    if examples is None:
        examples = config[f"{prefix}epochs"] * num_examples
    return math.ceil(examples / batch_size)


def to_json(config: ml_collections.ConfigDict) -> dict:
    """Returns a configuration as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def differing_keys(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Lists `key: old -> new` for each key of two JSON configurations whose change makes another run."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        name, a, b = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing_keys(a, b, f"{name}.")
        elif a != b and not name.startswith(RESUMABLE):
            lines.append(f"{name}: {a} -> {b}")
    return lines

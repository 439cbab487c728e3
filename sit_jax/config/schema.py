"""The configuration: every key with its meaning and default."""

import ml_collections
from ml_collections.config_dict import placeholder

from sit_jax.model.tasks import TASKS
from sit_jax.views.corrupt import OPERATIONS


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

    # One section for each corruption, see OPERATIONS in views/corrupt.py.
    c.corrupt = ml_collections.ConfigDict({name: dict(row.section) for name, row in OPERATIONS.items()})
    c.corrupt.share = 0.25  # of the images: theirs are corrupted, in steps of an eighth and at least one of eight; or 0

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
    # How the layers are computed; sit_jax/config/computation.py sets what is open, by the device of the step.
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
    c.loss.weights = {name: task.weight for name, task in TASKS.items()}
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

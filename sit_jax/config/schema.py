"""The configuration: every key with its meaning and default."""

import ml_collections
from ml_collections.config_dict import placeholder

from sit_jax.model.tasks import TASKS
from sit_jax.views.corrupt import OPERATIONS


def defaults() -> ml_collections.ConfigDict:
    """Returns the configuration that every file in `configs/` starts from; each file sets `data.source`."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    # Source images per step, over all devices and hosts; each image gives `views.count` views.
    c.batch_size = 256
    # A file or folder of public weights to start from (docs/weights.md); they fix model.size and model.patch_size.
    c.init = ""
    c.init_hash = ""  # filled in by a run: the SHA-256 of these weights
    # Gradient accumulation: each device processes its rows in this many parts. The losses are of the whole batch.
    c.microbatches = 1
    # Length of the training: `steps` or `examples` (source images), else `epochs` (exact passes over the data).
    c.epochs = 100.0
    c.steps = placeholder(int)
    c.examples = placeholder(int)
    # Filled in by a run: its lengths in steps before each extension (a finished run continues if it asks for more).
    c.extensions = ()
    # laptop | gpu: which recipe of the file this is. "auto": the one for this machine. "": the file has only one.
    c.machine = ""
    # Computation type: bfloat16, float32, or "auto": bfloat16 on accelerators, float32 on CPU. Parameters are float32.
    c.dtype = "auto"

    c.data = ml_collections.ConfigDict()
    # digits | folder:PATH | npz:PATH.npz | tar:PATTERN | parquet:PATTERN | tfds:NAME | ... (docs/data.md)
    c.data.source = ""
    # Channels c of an image: 1, 3, 4, ... Three are red, green and blue. docs/channels.md says what is read.
    c.data.channels = 3
    # Bits of a stored value, 8 or 16. None: 8 if the first image has 8 bits, otherwise 16.
    c.data.bits = placeholder(int)
    # Values (low, high) that become black and white; required for other types than uint8 and uint16. None: whole type.
    c.data.range = placeholder(tuple)
    # True keeps the transparency of pictures as a further channel, with data.channels=4 (or 2 for grey pictures).
    c.data.alpha = False
    # Channels (red, green, blue) of the pictures that a run draws, from 0 on. None: the first three, or grey.
    c.data.shown = placeholder(tuple)
    # Filled in by a run: a hash of the images, by which a resumed run notices other images.
    c.data.fingerprint = placeholder(str)
    # Side of the stored images in pixels: shorter side resized, then centre crop. None: the model's image size.
    c.data.image_size = placeholder(int)
    # Gigabytes (10^9 bytes). Up to this size, data sets are decoded once into memory; otherwise streamed from disk.
    c.data.memory_limit = 8.0
    # Cache folder of decoded images. None: ~/.cache/sit_jax/images.
    c.data.cache_dir = placeholder(str)
    # True skips and counts unreadable images; False stops and names them.
    c.data.skip_unreadable = False

    c.views = ml_collections.ConfigDict()
    c.views.count = 2  # views per image and step, at least 2
    c.views.area = (0.2, 1.0)  # range of the random crop's area, as a share of the image
    c.views.ratio = (3 / 4, 4 / 3)  # range of the crop's width / height
    c.views.flip = 0.5  # probability of a horizontal flip
    c.views.jitter = 0.8  # probability of colour jitter
    c.views.brightness = 0.4  # strength of the jitter; 0 is off (also contrast, saturation, hue)
    c.views.contrast = 0.4
    c.views.saturation = 0.2
    c.views.hue = 0.1  # in full turns; at most 0.5
    c.views.grayscale = 0.2  # probability
    c.views.solarize = 0.0  # probability
    c.views.blur = 0.0  # probability
    c.views.turned = 0.3  # probability of a turn by 90, 180 or 270 degrees; at 0.75 all four classes are equally likely
    c.views.share_rotation = True  # rotate all views of an image by the same angle

    # One section per corruption; see OPERATIONS in views/corrupt.py.
    c.corrupt = ml_collections.ConfigDict({name: dict(row.section) for name, row in OPERATIONS.items()})
    c.corrupt.share = 0.25  # share of images that are corrupted, rounded to eighths, at least one of eight; 0 is off

    c.model = ml_collections.ConfigDict()
    c.model.size = "S"  # mu, XS, Ti, S, M, B, L, H, g
    c.model.channels = c.data.get_ref("channels")  # always equal to data.channels; set that key
    c.model.patch_size = 4  # side in pixels; must divide image_size
    c.model.image_size = 32  # side in pixels, at least 8
    c.model.stem = "patches"  # or convolutions: 3 x 3, stride 2 (not in the paper)
    c.model.norm_epsilon = 1e-6  # of the layer norms of the encoder; weights of other projects may have another
    c.model.drop_path = 0.1  # stochastic depth: rate of the last layer; the rate grows linearly from 0
    c.model.embedding_size = 128  # width E of the contrastive head's output
    c.model.projector_layers = 3  # dense layers of the contrastive head; GELU after all but the last
    c.model.projector_width = 1024  # width of its hidden layers. None: four times the token width
    c.model.projector_norm = "batch"  # batch norm after each of its layers, over the global batch; or none
    c.model.remat = False  # recompute layers in the backward pass: less memory, a quarter more time
    # Computation of the layers. sit_jax/config/computation.py fills in None and "auto" for the device of the step.
    # Unroll the loop over layers: each layer is compiled separately. None: on CPUs and GPUs, unless remat is on.
    c.model.unroll = placeholder(bool)
    # In training on one device, run the two halves of the rows side by side. None: on CPUs with unrolled layers.
    c.model.halves = placeholder(bool)
    # xla | cudnn | auto. cuDNN needs an NVIDIA GPU, bfloat16 and an even number of tokens (2 + patches); "auto" uses it
    # if it can. The number is even for image/patch sizes 224/16, 224/14 and 32/4, and odd for 224/32.
    c.model.attention = "auto"
    # If dtype is float32: type of the factors of dense products; sums are float32. "auto": bfloat16 if dtype is "auto"
    # and the CPU has a matrix unit for it (AMX), otherwise the computation type.
    c.model.products = "auto"

    c.loss = ml_collections.ConfigDict()
    c.loss.temperature = 0.5  # of NT-Xent
    # How weights are learned: "gradient" (as published) or "closed_form", 1 / (2 a EMA(loss)); a is 0.5 for L1, else 1.
    c.loss.weighting = "gradient"
    c.loss.subtract_floor = False  # subtract the lowest value of NT-Xent from it, only in the learned weighting
    c.loss.log_var_init = 1.0  # first value of the log variances of the learned weights
    # Per task: "learned" or a fixed weight as text. "0" switches the task off.
    c.loss.weights = {name: task.weight for name, task in TASKS.items()}
    # Reconstruction loss on corrupted pixels only.
    c.loss.corrupted_only = False

    c.optim = ml_collections.ConfigDict()
    c.optim.base_learning_rate = 1e-3  # peak for 512 images per step; scaled linearly with batch_size
    c.optim.final_learning_rate = 5e-6
    c.optim.warmup_learning_rate = 1e-6  # at step 0
    c.optim.warmup_epochs = 5.0  # the warm-up is cut to half of the training
    c.optim.warmup_steps = placeholder(int)  # warmup_steps or warmup_examples override warmup_epochs
    c.optim.warmup_examples = placeholder(int)
    c.optim.weight_decay = 0.05  # on kernels only
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.clip_norm = 1.0  # largest global norm of the gradients; 0 is off
    c.optim.ema = 0.0  # decay of the moving average of the weights; 0 is off
    c.optim.log_var_rate = 1.0  # learning rate of the log variances, relative to the model's

    c.mesh = ml_collections.ConfigDict()
    c.mesh.data = -1  # devices that share the batch; -1: the remaining devices
    c.mesh.fsdp = 1  # devices that share the batch and the parameters; -1: the remaining devices
    # Groups of devices that each hold all parameters: TPU slices or nodes. None: the TPU slices found, else 1.
    c.mesh.slices = placeholder(int)

    c.eval = ml_collections.ConfigDict()
    # k-NN, a linear probe and k-means on frozen features. "auto": if there are labels; "on": labels required; "off".
    c.eval.knn = "auto"
    c.eval.knn_k = 20  # neighbours
    c.eval.knn_temperature = 0.07  # of the votes
    c.eval.num_train = 10_000  # most labelled training images for k-NN and the linear probe
    c.eval.num_test = 2_000  # most test images
    c.eval.page = 2_000  # most images on the page that a training writes at its end (report.html); 0: no page

    # Linear classifiers on the frozen encoder (sit_jax.evaluate --protocol=linear).
    c.linear = ml_collections.ConfigDict()
    # 0: convex fit on features computed once. Above 0: epochs of SGD on augmented images, as in the paper.
    c.linear.epochs = 0.0
    c.linear.held_out = 0.1  # share of the labelled training images that selects l2 or the learning rate
    c.linear.l2 = tuple(10.0**exponent for exponent in range(-6, 2))  # convex fit: penalty strengths to try
    c.linear.learning_rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # SGD: rates to try, all trained at once
    c.linear.hidden = 0  # SGD: width of a tanh layer before each classifier (1024 in the paper's variant); 0 is off
    c.linear.batch_size = 256
    c.linear.augment = augmentation()

    # Fine-tuning of all weights (sit_jax.evaluate --protocol=finetune) with DeiT's recipe.
    c.finetune = ml_collections.ConfigDict()
    c.finetune.epochs = 100.0
    c.finetune.batch_size = 480
    c.finetune.held_out = 0.0  # share of the labelled training images used to monitor instead of to train
    c.finetune.drop_path = 0.1
    c.finetune.optim = ml_collections.ConfigDict()
    c.finetune.optim.base_learning_rate = 5e-4  # peak for 512 images per step
    c.finetune.optim.final_learning_rate = 1e-5
    c.finetune.optim.warmup_learning_rate = 1e-6
    c.finetune.optim.warmup_epochs = 5.0
    c.finetune.optim.weight_decay = 0.05
    c.finetune.optim.clip_norm = 0.0
    c.finetune.augment = augmentation()
    c.finetune.augment.randaugment.layers = 2
    c.finetune.augment.update(random_erase=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1)

    # Intervals in steps. Evaluation also runs at step 0 and at the end; a checkpoint is also saved at the end.
    c.log_every = 50
    c.eval_every = 5_000
    c.checkpoint_every = 1_000
    c.keep_latest = 2  # newest checkpoints to keep
    c.keep_best = 1  # checkpoints with the highest eval/contrastive_progress to keep; it needs no labels
    return c


def augmentation() -> ml_collections.ConfigDict:
    """Returns the augmentation of labelled images: crop and flip are on, the other operations are off."""
    c = ml_collections.ConfigDict()
    c.area = (0.08, 1.0)  # range of the random crop's area, as a share of the image
    c.ratio = (3 / 4, 4 / 3)  # range of the crop's width / height
    c.flip = 0.5  # probability of a horizontal flip
    c.randaugment = {"layers": 0, "magnitude": 9.0, "magnitude_std": 0.5, "probability": 0.5}
    c.random_erase = 0.0  # probability
    c.mixup = 0.0  # parameter a of Beta(a, a); 0 is off (also cutmix)
    c.cutmix = 0.0
    c.label_smoothing = 0.0  # share of the target spread over all classes
    return c

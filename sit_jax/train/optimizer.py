"""AdamW with warm-up and cosine decay, weight decay on kernels only (the DeiT recipe, which the paper follows)."""

import itertools

import jax
import ml_collections
import optax


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then cosine decay to `final_learning_rate` at `config.steps`.

    The peak is `base_learning_rate` times batch_size / 512. Needs a resolved configuration (steps are known). In each
    extension of a run, the rate warms up from `final_learning_rate` in at most a tenth of the added steps and decays
    once more (a warm restart, arXiv 1608.03983); the rates before it stay.
    """
    optim = config.optim

    def decay(start: float, warmup: int, steps: int) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            init_value=start,
            peak_value=optim.base_learning_rate * config.batch_size / 512,
            warmup_steps=warmup,
            decay_steps=steps,
            end_value=optim.final_learning_rate,
        )

    ends = [*config.extensions, config.steps]
    first = decay(optim.warmup_learning_rate, optim.warmup_steps, ends[0])
    if len(ends) == 1:
        return first
    added = [end - begin for begin, end in itertools.pairwise(ends)]
    rest = [decay(optim.final_learning_rate, min(optim.warmup_steps, steps // 10), steps) for steps in added]
    return optax.join_schedules([first, *rest], ends[:-1])


def decay_mask(params: dict) -> dict:
    """Marks the parameters with weight decay: kernels; no bias, norm, token, position embedding or log-variance."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Returns AdamW after clipping of the global gradient norm (`clip_norm`; 0 is off)."""
    optim = config.optim
    adamw = optax.adamw(
        make_schedule(config),
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        mask=decay_mask,
    )
    clip = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    if optim.log_var_rate == 1:  # no mask: older checkpoints do not have its state
        return optax.chain(*clip, adamw)
    return optax.chain(*clip, adamw, optax.masked(optax.scale(optim.log_var_rate), log_var_mask))


def log_var_mask(params: dict) -> dict:
    """Marks the log-variances."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "log_var", params)

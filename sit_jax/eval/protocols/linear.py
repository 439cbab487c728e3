"""Linear classifiers on the frozen encoder: a convex fit on cached features, or training on augmented images."""

from sit_jax.eval.protocols.classify import classify
from sit_jax.eval.protocols.protocol import Protocol, Subject, Unit
from sit_jax.probes.linear import linear_logits
from sit_jax.probes.scores import score

LARGEST_PIXELS = 16  # limits the cost: the fit has a weight for each value and tries eight penalties


def score_linear(subject: Subject, unit: Unit) -> dict | None:
    """Returns the scores of the convex fit or, if `linear.epochs` is set, of classifiers on augmented images."""
    section, data = subject.restored.config.linear, subject.data
    if section.epochs:
        return classify("linear", subject, unit)
    train, test = subject.features
    labels, l2s = data.train_labels[unit.rows], tuple(section.l2)
    logits, chosen = linear_logits(
        train[unit.rows], labels, test, data.num_classes, l2s, section.held_out, unit.seed, subject.restored.mesh
    )
    return score(logits, data.test_labels) | {"hyperparameters": chosen}


PROTOCOL = Protocol(
    "linear classifiers on the frozen encoder",
    score_linear,
    settings=lambda config: config["linear"],
    # With epochs, classifiers train on augmented images, so pixel features cannot be computed once.
    pixels=lambda config: None if config.linear.epochs else LARGEST_PIXELS,
)

"""Scores trained classifiers: fine-tuning, and linear classifiers on augmented images."""

from sit_jax.eval.protocols.protocol import Subject, Unit
from sit_jax.eval.train_classifier import classifier_config, train_classifier
from sit_jax.probes.scores import score


def classify(section: str, subject: Subject, unit: Unit) -> dict | None:
    """Trains a classifier with the section `linear` or `finetune`; returns its scores, None if a signal stopped it."""
    restored, data = subject.restored, subject.data
    config = classifier_config(restored.config, section, subject.kind, unit.seed)
    train, encoder = data.train.take(unit.rows), subject.params["encoder"]
    done = train_classifier(config, data.num_classes, encoder, train, data.test, unit.folder, restored.mesh)
    return None if done is None else score(done[0], data.test_labels) | {"hyperparameters": done[1]}

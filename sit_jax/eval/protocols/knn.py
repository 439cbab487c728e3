"""k-NN on frozen features."""

from sit_jax.eval.protocols.protocol import Protocol, Subject, Unit
from sit_jax.probes.knn import knn_votes
from sit_jax.probes.scores import score

KS = (1, 5, 20, 200)
LARGEST_PIXELS = 32


def score_knn(subject: Subject, unit: Unit) -> dict:
    """Returns the scores for k = `eval.knn_k`, and the top-1 accuracy for this k and each k in KS."""
    config, data = subject.restored.config, subject.data
    train, test = subject.features
    k, temperature = config.eval.knn_k, config.eval.knn_temperature
    labels, ks = data.train_labels[unit.rows], tuple(sorted({*KS, k}))
    votes = knn_votes(train[unit.rows], labels, test, data.num_classes, ks, temperature, subject.restored.mesh)
    scores = {k: score(vote, data.test_labels) for k, vote in votes.items()}
    by_k = {str(k): result["top1"] for k, result in scores.items()}
    return scores[k] | {"by_k": by_k, "hyperparameters": {"k": k, "temperature": temperature}}


PROTOCOL = Protocol(
    "weighted k-NN on frozen features",
    score_knn,
    settings=lambda config: {key: config["eval"][key] for key in ("knn_k", "knn_temperature")},
    pixels=lambda config: LARGEST_PIXELS,
)

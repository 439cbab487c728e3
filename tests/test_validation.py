"""The images of the evaluation in a training: who votes, who is scored, and that `sit_jax.evaluate` scores the same."""

import numpy as np
import pytest

from configs import digits
from sit_jax.config.resolve import resolve
from sit_jax.data import image_options, load_images, open_source
from sit_jax.data.split import stand_in
from sit_jax.eval.data import load_labelled
from sit_jax.train.validation import load_eval_data


def numbered(count):
    """Images that tell their own number, in two colours."""
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None] % 256
    images[..., 1] = np.arange(count)[:, None, None] // 256
    return images


def numbers(images):
    return (images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1].astype(int)).tolist()


def make_data(path, count, classes, test=0):
    arrays = {"train_images": numbered(count), "train_labels": np.arange(count) % classes}
    if test:
        arrays |= {"test_images": numbered(test), "test_labels": np.arange(test) % classes}
    np.savez(path, **arrays)
    return f"npz:{path}"


def load(source, **values):
    config = digits.get_config("runlocal")
    config.update_from_flattened_dict({"data.source": source, "model.image_size": 8, **values})
    config = resolve(config, 100)
    opened = open_source(source)
    return config, load_eval_data(opened, load_images(opened.pretrain, **image_options(config)), config)


@pytest.mark.parametrize("seed", [0, 5])
def test_held_out_images_do_not_vote_and_are_those_of_evaluate(tmp_path, seed):
    source = make_data(tmp_path / "data.npz", 200, 4)
    config, data = load(source, seed=seed)
    scored, voting = numbers(data.test_images), numbers(data.voters.train_images)
    assert len(scored) == 20 and len(voting) == 180
    assert not set(scored) & set(voting)
    labelled = load_labelled(source, config, seed=0)  # the default of --seed
    assert sorted(scored) == sorted(numbers(labelled.test.gather(np.arange(20))))
    assert sorted(voting) == sorted(numbers(labelled.train.gather(np.arange(180))))
    assert data.voters.test_labels.tolist() == [number % 4 for number in scored]
    assert data.voters.train_labels.tolist() == [number % 4 for number in voting]


def test_a_test_split_is_scored_and_all_training_images_vote(tmp_path):
    _, data = load(make_data(tmp_path / "data.npz", 60, 3, test=40), **{"eval.num_test": 10, "eval.num_train": 50})
    assert len(set(numbers(data.test_images))) == 10 and max(numbers(data.test_images)) < 40
    assert len(set(numbers(data.voters.train_images))) == 50


def test_without_labels_or_with_one_image_a_class_nothing_votes(tmp_path):
    np.savez(tmp_path / "images.npz", images=numbered(30))
    _, data = load(f"npz:{tmp_path / 'images.npz'}")
    assert data.voters is None and len(data.test_images) == 3
    _, data = load(make_data(tmp_path / "data.npz", 30, 30))
    assert data.voters is None and len(data.test_images) == 3
    _, data = load(make_data(tmp_path / "data.npz", 40, 2), **{"eval.knn": "off"})
    assert data.voters is None and len(data.test_images) == 4


def test_stand_in_takes_the_same_share_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    kept, held = stand_in(len(labels), labels)
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    assert sorted([*kept, *held]) == list(range(160))
    assert not np.array_equal(held, stand_in(len(labels), labels, seed=1)[1])

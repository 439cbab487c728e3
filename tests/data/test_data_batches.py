import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.data import Batches, Records, load_images, open_source
from sit_jax.data.load import MemoryImages
from sit_jax.data.order import epoch_order, raw_permutation


def numbered(total: int) -> MemoryImages:
    """Images whose only pixel is their index."""
    index = np.arange(total)
    array = np.stack([index % 256, index // 256, np.zeros_like(index)], -1).astype(np.uint8)[:, None, None]
    return MemoryImages(array, Records([str(i) for i in range(total)], array.__getitem__))


def indices(batch: dict) -> list[int]:
    pixels = batch["image"][:, 0, 0].astype(int)
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


# -- the order --------------------------------------------------------------------------------------------------------


@st.composite
def sizes(draw, ratio=1):
    batch_size = draw(st.integers(1, 12))
    return draw(st.integers(ratio * batch_size, 40)), batch_size


@settings(max_examples=150, deadline=None)
@given(sizes(), st.integers(0, 5))
def test_every_epoch_visits_every_image_once(size, seed):
    total, batch_size = size
    batches = Batches(numbered(total), batch_size, seed)
    stream = np.concatenate([batches.rows_at(step) for step in range(-(-4 * total // batch_size))])
    for epoch in range(4):
        visited = stream[epoch * total : (epoch + 1) * total]
        assert np.array_equal(np.sort(visited), np.arange(total))


@settings(max_examples=150, deadline=None)
@given(sizes(ratio=2), st.integers(0, 5), st.integers(0, 200))
def test_no_image_twice_in_a_batch(size, seed, step):
    total, batch_size = size
    rows = Batches(numbered(total), batch_size, seed).rows_at(step)
    assert rows.dtype == np.int64 and len(set(rows.tolist())) == batch_size


@settings(max_examples=50, deadline=None)
@given(sizes(), st.integers(1, 8))
def test_only_head_and_middle_of_the_raw_permutation_move(size, epoch):
    total, batch_size = size
    order, raw = epoch_order(total, batch_size, 3, epoch), raw_permutation(total, 3, epoch)
    tail = (epoch + 1) * total % batch_size
    assert np.array_equal(order[total - tail :], raw[total - tail :])
    assert (order != raw).sum() <= 2 * (batch_size - 1)


def test_epochs_and_seeds_differ_and_repeat_exactly():
    orders = {(seed, epoch): tuple(epoch_order(50, 8, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert tuple(epoch_order(50, 8, 2, 1)) == orders[2, 1]


def test_order_is_fair():
    """Each image is as likely as any other at the head of an epoch, where images are swapped."""
    heads = np.concatenate([epoch_order(24, 10, 0, epoch)[:4] for epoch in range(1, 3001)])
    counts = np.bincount(heads, minlength=24)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batch_holds_the_images_of_its_rows():
    batches = Batches(numbered(1000), 64, seed=1)
    for step in (0, 15, 1000, 10**9):
        batch = batches.batch_at(step)
        assert batch["image"].dtype == np.uint8 and batch["image"].shape == (64, 1, 1, 3)
        assert indices(batch) == batches.rows_at(step).tolist()


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batch_of_one(process_count):
    whole = Batches(numbered(100), 12, seed=7)
    parts = [Batches(numbered(100), 12, 7, rows) for rows in np.split(np.arange(12), process_count)]
    for step in (9, 0, 8, 25):
        joined = np.concatenate([part.batch_at(step)["image"] for part in parts])
        assert np.array_equal(joined, whole.batch_at(step)["image"])


def test_process_reads_its_own_rows_only():
    read = []

    def read_image(i):
        read.append(i)
        return np.zeros((2, 2), np.uint8)

    images = load_images(Records([str(i) for i in range(100)], read_image), 2, memory_limit_gb=0.0)
    batches = Batches(images, 12, 0, local=np.arange(12)[4:8])
    batches.batch_at(4)
    assert sorted(read) == sorted(batches.rows_at(4)[4:8].tolist())


def test_batch_sizes_that_do_not_fit():
    with pytest.raises(InputError, match="batch_size=11 is more than the 10 images; set it to 10 or less"):
        Batches(numbered(10), 11, 0)
    with pytest.raises(InputError, match="batch_size=0"):
        Batches(numbered(10), 0, 0)


# -- iteration --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3), np.uint8)
    for i, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    return tmp_path


@pytest.mark.parametrize("start", [0, 5, 123])
def test_iterating_streamed_and_in_memory_gives_the_same_batches(folder, start, tmp_path_factory):
    records = open_source(f"folder:{folder}").pretrain
    cache = tmp_path_factory.mktemp("cache")
    in_memory = Batches(load_images(records, 6, cache_dir=cache), 8, seed=3)
    streamed = Batches(load_images(records, 6, memory_limit_gb=0.0), 8, seed=3)
    assert in_memory.images.in_memory and not streamed.images.in_memory
    pairs = zip(in_memory.iterate(start), streamed.iterate(start), strict=True)
    for step, (one, other) in enumerate(itertools.islice(pairs, 20), start):
        expected = in_memory.batch_at(step)["image"]
        assert np.array_equal(one["image"], expected) and np.array_equal(other["image"], expected)
        assert list(one) == ["image"]


def test_error_of_a_reading_thread_reaches_the_consumer(folder):
    (folder / "20.png").write_bytes(b"damaged")
    batches = Batches(load_images(open_source(f"folder:{folder}").train, 6, memory_limit_gb=0.0), 10, seed=0)
    with pytest.raises(InputError, match=r"^20\.png: unreadable"):
        for _ in itertools.islice(batches.iterate(0), 5):
            pass


def test_iterator_reads_ahead_within_bounds_and_closes():
    reads = []
    enough = threading.Event()

    def read_image(i):
        reads.append(i)
        if len(reads) >= 8:
            enough.set()
        return np.zeros((2, 2), np.uint8)

    batches = Batches(load_images(Records([str(i) for i in range(100)], read_image), 2, memory_limit_gb=0.0), 2, 0)
    iterator = batches.iterate(0)
    next(iterator)
    assert enough.wait(10), "three batches ahead of the first"
    assert len(reads) <= 8
    iterator.close()
    assert len(reads) <= 8
    with pytest.raises(ValueError, match="closed"):
        next(iterator)

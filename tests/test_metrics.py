import math

import pytest

from configs import digits
from sit_jax.train import loop, metrics, run


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, which passes by `now[0] += seconds` alone."""
    time = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: time[0])
    return time


def test_clock_by_hand(now):
    """Eight steps of 32 images in 4 of 10 seconds, of which 1 was spent waiting; then ten steps in 2 seconds."""
    clock = metrics.Clock()
    assert math.isnan(clock.seconds_per_step) and clock.compiling
    clock.restart()
    clock.steps, clock.waited = 8, 1.0
    now[0] += 10.0
    clock.pause(6.0)
    assert clock.measure(32) == {"time/images_per_second": 64.0, "time/data_wait_fraction": 0.25}
    assert clock.seconds_per_step == 0.5
    clock.steps += 10
    now[0] += 2.0
    assert clock.measure(32) == {"time/images_per_second": 160.0, "time/data_wait_fraction": 0.0}


def test_nothing_is_measured_before_the_second_step(now):
    clock = metrics.Clock()
    now[0] += 5.0
    assert clock.measure(32) == {} and math.isnan(clock.seconds_per_step) and not clock.compiling
    clock.steps = 1
    now[0] += 0.5
    assert clock.measure(32)["time/images_per_second"] == 64.0  # the five seconds are not counted


def test_no_more_than_all_of_the_time_is_spent_waiting(now):
    clock = metrics.Clock()
    clock.steps, clock.waited = 2, 3.0
    now[0] += 2.0
    assert clock.measure(1) == {"time/images_per_second": 1.0, "time/data_wait_fraction": 1.0}


def test_progress_line_by_hand(now, monkeypatch):
    clock = metrics.Clock()
    clock.steps = 20
    now[0] += 10.0
    row = {"train/loss": 1.25, "train/rotation": 0.5} | clock.measure(64)
    monkeypatch.setattr(metrics, "used_bytes", lambda: 3 * 2**30)
    line = metrics.progress_line(40, 100, ("rotation",), row, 2.5, 30.0)
    assert line == "step 40/100 (40%)  epoch 2.5  loss 1.25  rotation 0.5  128 images/s  3.0 GiB  30 s left"


def test_the_loop_counts_each_step_and_the_images_of_a_batch(tmp_path, monkeypatch, capsys):
    """The clock is asked with the batch size, and has seen every step but the first, which compiles."""
    asked = []

    class Watched(metrics.Clock):
        def measure(self, batch_size):
            asked.append((batch_size, self.steps))
            return super().measure(batch_size)

    monkeypatch.setattr(run, "Clock", Watched)
    config = digits.get_config("runlocal")
    config.update(steps=7, log_every=3, batch_size=64)
    config.model.image_size = 8
    config.eval.update(knn="off", num_test=8)
    assert loop.train(config, tmp_path)
    assert asked == [(64, 0), (64, 2), (64, 3), (64, 1)]  # after the steps 1, 3, 6 and 7

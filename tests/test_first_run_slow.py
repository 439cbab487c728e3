"""The command of the README for one's own folder, as a new user types it: the time and the memory that it foretells."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from conftest import ROOT
from PIL import Image

HOURS = 0.15


@pytest.mark.slow
def test_the_first_run_ends_in_time_with_the_memory_that_it_foretold(tmp_path):
    """Without other load on the machine: 10 % of the time, 20 % of the memory."""
    rng = np.random.default_rng(0)
    for i in range(300):
        path = tmp_path / "photos" / str(i % 3) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((400 + i, 300 + i)).save(path)
    command = [sys.executable, "-m", "sit_jax.main", "--config=configs/folder.py", f"--hours={HOURS}"]
    command += [f"--config.data.source=folder:{tmp_path / 'photos'}", f"--workdir={tmp_path / 'run'}"]
    begin, peak = time.monotonic(), 0
    with (tmp_path / "out.txt").open("w+") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.2)
    seconds = time.monotonic() - begin
    text = (tmp_path / "out.txt").read_text()
    print(text)
    print(f"{seconds / 3600:.4f} h of {HOURS}, peak {peak / 2**30:.2f} GiB")
    assert process.returncode == 0
    assert "recipe :laptop" in text
    told = float(re.search(r"memory: about ([\d.]+) GiB", text)[1]) * 2**30
    assert abs(peak / told - 1) < 0.2
    assert abs(seconds / (HOURS * 3600) - 1) < 0.1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if "eval/loss" in row]
    assert evaluations[-1]["eval/reconstruction"] < evaluations[0]["eval/reconstruction"]
    assert "next:" in text

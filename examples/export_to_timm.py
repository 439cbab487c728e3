"""Export to timm, and fine-tune there in PyTorch.

    python examples/export_to_timm.py --workdir=runs/digits --out=runs/timm

Needs `pip install torch torchvision timm` for the second half; without them, it stops after the export.
"""

# %%
import argparse
import importlib.util
import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

import sit_jax

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workdir", default="runs/digits-example")
parser.add_argument("--train", action="store_true", help="train the encoder first")
parser.add_argument("--out", default="runs/timm")
parser.add_argument("--steps", type=int, default=20)
arguments = parser.parse_args()
if arguments.train:
    sit_jax.pretrain("digits", arguments.workdir, config="digits:runlocal")

# %% The export: a folder that timm loads. `sit-jax export` is the same command.
words = [f"--workdir={arguments.workdir}", "--format=timm", f"--out={arguments.out}"]
subprocess.run([sys.executable, "-m", "sit_jax.export", *words], check=True)
if absent := [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]:
    print(f"no fine-tuning: {', '.join(absent)} not installed; pip install {' '.join(absent)} torchvision")
    sys.exit()

# %% Fine-tune all weights with a new classifier for ten classes.
import timm  # noqa: E402
import torch  # noqa: E402

model = timm.create_model(f"local-dir:{arguments.out}", pretrained=True, num_classes=10)
side = model.pretrained_cfg["input_size"][-1]
digits = load_digits()
images = torch.from_numpy(np.float32(digits.data[:640] / 8 - 1)).reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1)
images = torch.nn.functional.interpolate(images, size=side, mode="bicubic")
labels = torch.from_numpy(digits.target[:640])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model.train()
for step in range(arguments.steps):
    rows = torch.arange(32) + 32 * (step % 20)
    output = model(images[rows])
    logits = sum(output) / 2 if isinstance(output, tuple) else output  # in training, timm gives both classifiers
    loss = torch.nn.functional.cross_entropy(logits, labels[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1}: cross-entropy {loss.item():.3f}")

"""Features into scikit-learn: a classifier on a frozen encoder, beside raw pixels.

    python examples/scikit_learn.py --workdir=runs/digits

With `--train`, a small encoder is trained on the digits first.
"""

# %%
import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import sit_jax

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workdir", default="runs/digits-example")
parser.add_argument("--train", action="store_true", help="train the encoder first")
arguments = parser.parse_args()
if arguments.train:
    sit_jax.pretrain("digits", arguments.workdir, config="digits:runlocal")

# %% The digits as images: uint8 [n, H, W, c].
pixels, labels = load_digits(return_X_y=True)
images = (pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)

# %% Two pipelines; the encoder learns nothing from the labels.
classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
flatten = FunctionTransformer(lambda x: x.reshape(len(x), -1))
for name, first in (("features", sit_jax.SiTFeatures(arguments.workdir)), ("pixels", flatten)):
    scores = cross_val_score(make_pipeline(first, classifier), images[:600], labels[:600], cv=3)
    print(f"{name}: accuracy {scores.mean():.3f} +- {scores.std():.3f}")

"""The model card beside an export: what it is, where it comes from, how good it is."""

import json
import pathlib

import sit_jax
from sit_jax.common.console import table
from sit_jax.eval.restore import Restored
from sit_jax.exports.formats import Format
from sit_jax.exports.weights import Weights

RECIPE = ("batch_size", "steps", "seed", "init")


def card(weights: Weights, row: Format, restored: Restored, workdir: pathlib.Path, loading: str, verified: str) -> str:
    """Returns the text of README.md."""
    config, model = weights.config, weights.config.model
    kind = f"classifier of {len(weights.class_names)} classes" if weights.class_names else "encoder"
    recipe = [[key, str(config[key])] for key in RECIPE if config[key]]
    recipe += [["images", f"{config.data.num_examples}" if "num_examples" in config.data else "unknown"]]
    recipe += [
        ["fingerprint of the images", config.data.fingerprint or "unknown"],
        ["step", str(restored.step)],
        ["weights", restored.weights],
    ]
    # Weights of another project that were adopted have no data set.
    origin = "pre-trained without labels by" if config.data.source else f"converted from {config.init} by"
    return f"""# {model.size}/{model.patch_size} {kind}, {model.image_size} px

A vision transformer, {origin} sit_jax {sit_jax.__version__} (SiT, arXiv 2104.03602).
Before the patches it has two tokens: rotation, contrastive. Images are RGB in [0, 1], {row.images}.
Their shorter side is resized to {model.image_size} pixels (bicubic), then the centre is cropped.

## Load

```python
{loading}
```

{verified}.

## Training

```
{table(recipe)}
```

## Scores

{scores(workdir)}

## Licence

To be filled in by its author. The code is Apache-2.0; the images may have terms of their own.
"""


def scores(workdir: pathlib.Path) -> str:
    """Returns the evaluations of a work directory as a table, with their baselines."""
    rows = []
    for path in sorted((workdir / "eval").glob("*.json")):
        report = json.loads(path.read_text())
        if "top1" not in report:
            continue
        others = [report.get(name) or {} for name in ("baseline", "pixels")]
        values = [f"{100 * found['top1']:.1f}" if "top1" in found else "" for found in (report, *others)]
        rows.append([report["protocol"], report["data"], str(report["step"]), *values])
    if not rows:
        return "Not evaluated yet."
    header = ["protocol", "data", "step", "top-1", "random weights", "pixels"]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

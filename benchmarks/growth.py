"""Times the step for growing batch, image size, model size and number of images, and plots each series.

python benchmarks/growth.py --out=FOLDER [--only=batch,image_size,model,images] [--repeats=5]

Each point is a run of `sit_jax.bench` in its own process. growth.json in FOLDER holds all figures.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from sit_jax.draw.plots import new_figure, save

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASE = {"variant": "XS/4", "res": 32, "batch": 64, "images": 1000}
# Series, label of its axis, values. Models are in the order of their parameter counts.
SERIES: dict[str, tuple[str, list]] = {
    "batch": ("images in a batch", [16, 32, 64, 128, 256]),
    "image_size": ("pixels a side", [16, 32, 48, 64, 96]),
    "model": ("model", ["mu/4", "XS/4", "Ti/4", "S/4"]),
    "images": ("images of 32 px in memory", [10**3, 10**4, 10**5, 10**6]),
}
KEYS = {"batch": "batch", "image_size": "res", "model": "variant", "images": "images"}


def run(point: dict, repeats: int) -> dict:
    """Runs the benchmark of a point and returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "bench.json"
        command = [
            *(sys.executable, "-m", "sit_jax.bench", "--noparts", f"--repeats={repeats}", f"--out={out}"),
            f"--config=configs/folder.py:variant={point['variant']},res={point['res']}",
            *(f"--config.batch_size={point['batch']}", f"--config.data.image_size={point['res']}"),
            f"--random_images={point['images']}",
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())


def row(point: dict, figures: dict) -> dict:
    """Returns the table entries of a point."""
    step = figures["step"]
    return point | {
        "step_seconds": [step["median"], step["least"], step["most"]],
        "gflops": figures["compiled"]["model_flops"] / 1e9,
        "step_gigabytes": figures["compiled"]["program_bytes"] / 1e9,
        "host_gigabytes": figures["memory"]["host_peak"] / 1e9,
        "images_per_second_with_reading": figures["reading"]["images_per_second"],
        "data_wait_fraction": figures["reading"]["data_wait_fraction"],
    }


def plot(name: str, rows: list[dict], path: pathlib.Path) -> None:
    """Plots the time of a step, its work and its memory, relative to the first point."""
    label, values = SERIES[name]
    places = range(len(values))
    figure, axes = new_figure(5, 3.5)
    curves = {
        "time of a step": [r["step_seconds"][0] for r in rows],
        "work of the model": [r["gflops"] for r in rows],
        "memory of the process": [r["host_gigabytes"] for r in rows],
    }
    for (title, curve), marker in zip(curves.items(), "os^", strict=True):
        axes.plot(places, [value / curve[0] for value in curve], marker=marker, label=title)
    axes.set_xticks(list(places), [f"{value:,}" if isinstance(value, int) else value for value in values])
    axes.set(xlabel=label, ylabel="relative to the first point", yscale="log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 4))
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def table(name: str, rows: list[dict]) -> str:
    """Returns a table in Markdown."""
    lines = [
        f"| {SERIES[name][0]} | step, ms (least to most) | GFLOP of the model | GFLOP/s | memory of the step, GB |"
        " memory of the process, GB | waiting for data |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        median, least, most = (1e3 * seconds for seconds in r["step_seconds"])
        value = r[KEYS[name]]
        lines.append(
            f"| {value if isinstance(value, str) else format(value, ',')} | {median:.0f} ({least:.0f} to {most:.0f}) |"
            f" {r['gflops']:.2f} | {r['gflops'] / r['step_seconds'][0]:.0f} | {r['step_gigabytes']:.2f} |"
            f" {r['host_gigabytes']:.2f} | {r['data_wait_fraction']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures all points and writes tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--only", default=",".join(SERIES))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    everything = {}
    for name in args.only.split(","):
        rows = []
        for value in SERIES[name][1]:
            point = BASE | {KEYS[name]: value}
            rows.append(row(point, run(point, args.repeats)))
            print(name, json.dumps(rows[-1]), flush=True)
        plot(name, rows, args.out / f"growth_{name}.png")
        everything[name] = rows
        print(table(name, rows), flush=True)
    (args.out / "growth.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()

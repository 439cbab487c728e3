"""The page of a run and the pictures of a collection: contents, escaping, few images, missing parts."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import sit_jax
from sit_jax import clusters, duplicates, neighbours, report, watch
from sit_jax.common import console
from sit_jax.eval.restore import restore
from sit_jax.look import charts, facts, page
from sit_jax.look.collection import encode_collection, open_records, tiles
from sit_jax.look.explore import PAIRS, Group, explore, purity_line
from sit_jax.look.report import report_after_training
from sit_jax.train.sessions import read_sessions

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = {"steps": 3, "batch_size": 8, "eval_every": 2, "checkpoint_every": 2, "log_every": 1, "eval__page": 0}
# What compiles in less than half the time.
QUICK = SMALL | {"model__image_size": 8, "data__image_size": 8, "eval__knn": "off"}
QUICK |= {f"views__{name}": 0.0 for name in ("brightness", "contrast", "saturation")}
EVIL = "<script>alert(1)<&>"  # a slash cannot be in a name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 pictures in two class folders, one with a name that is HTML; two of them are copies, one is mirrored."""
    root = tmp_path_factory.mktemp("look") / "photos"
    rng = np.random.default_rng(0)
    for i in range(24):
        place = root / (EVIL if i % 2 else "cats")
        place.mkdir(parents=True, exist_ok=True)
        low = rng.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(low).resize((40, 40), Image.Resampling.BICUBIC)
        picture.save(place / f"{i:02d}.png")
        if i == 0:
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((64, 64)).save(place / "mirror.png")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "mine"
    return sit_jax.pretrain(folder, workdir, config="folder:runlocal", **SMALL)


@pytest.fixture(scope="module")
def extended(folder, tmp_path_factory):
    """A run of two steps that was extended to four, with a warning in between."""
    workdir = tmp_path_factory.mktemp("run") / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "warnings", [])
        sit_jax.pretrain(folder, workdir, config="folder:runlocal", **QUICK | {"steps": 2, "seed": 5})
        console.warn(f"{EVIL} is odd")
        return sit_jax.pretrain(folder, workdir, config="folder:runlocal", **QUICK | {"steps": 4, "seed": 5})


@pytest.fixture(scope="module")
def html(run):
    out = run.workdir / "report.html"
    assert report.main(["report", f"--workdir={run.workdir}"]) == 0
    return out.read_text()


def data_of(html):
    """The values that the script of the page reads."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    return json.loads(text)


def test_the_page_has_every_panel(html):
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections == [
        *(
            "runs",
            "warnings",
            "curves",
            "reconstructions",
            "neighbours",
            "map",
            "clusters",
            "copies",
            "outliers",
            "attention",
        )
    ]
    assert re.search(r"0\.\d\d device hours", html) and "x cpu (" in html and "Python 3." in html
    assert re.findall(r'<a href="#(\w+)"', html) == sections


def test_names_are_text_and_nothing_is_fetched(html, folder):
    assert EVIL not in html
    assert f"{EVIL}/01.png" in data_of(html)["names"]
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "default-src 'none'" in html


def test_neighbours_of_the_page_equal_the_features(html, run, folder):
    data, encoder = data_of(html), run.encoder()
    paths = [folder / name for name in data["names"][: data["counts"]["shown"]]]
    features = encoder(paths)
    for token, part in (("both", slice(None)), ("rotation", slice(32)), ("contrastive", slice(32, None))):
        unit = features[:, part] / np.linalg.norm(features[:, part], axis=1, keepdims=True)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -2)
        found = data["neighbours"][token]
        for row, near, values in zip(similarity, found["tiles"], found["similarity"], strict=True):
            assert len(near) == 10
            np.testing.assert_allclose(np.sort(row)[::-1][:10], values, atol=1.1e-3)
            np.testing.assert_allclose(row[near], values, atol=1.1e-3)


def test_the_purity_of_a_cluster_stands_beside_the_share_in_all_images():
    of = np.array([0] * 6 + [1] * 2 + [-1] * 4)
    group = Group("label", ("cat", "dog"), of)
    assert purity_line(group, np.array([0, 1, 2, 6])) == "75% label cat (75% of all)"
    assert purity_line(group, np.array([6, 7, 8])) == "100% label dog (25% of all)"
    assert purity_line(group, np.array([9, 10])) == ""


def test_the_planted_copy_is_on_the_page(html):
    data = data_of(html)
    section = html[html.index('<section id="copies"') :]
    assert "1 groups, 2 images" in section and "mirrored" in section
    shown = re.findall(r'data-i="(\d+)"', section[: section.index("Look-alikes")])
    assert {data["names"][int(i)] for i in shown} == {"cats/00.png", "cats/mirror.png"}


def test_tiles_of_the_page_are_the_pictures(run):
    restored = restore(run.workdir, None, "params", {})
    found = encode_collection(*open_records(None, restored), restored)
    drawn = tiles(found, [3, 0], 64)
    expected = found.images.gather([3, 0])
    side, size = drawn.shape[1], expected.shape[1]
    assert side == size <= 64
    np.testing.assert_array_equal(drawn, expected)
    halves = tiles(found, [3], size // 2)[0].astype(float)
    blocks = expected[0].reshape(size // 2, 2, size // 2, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(halves, blocks, atol=0.51)


def test_a_sample_is_told_and_copies_are_sought_in_all(run):
    restored = restore(run.workdir, None, "params", {})
    found = encode_collection(*open_records(None, restored), restored)
    values = explore(found, restored.mesh, "pca", 0, shown=5)
    assert values["counts"] == {"shown": 5, "encoded": 25, "total": 25}
    assert len(values["map"]["places"]) == 5 < len(values["names"])
    assert values["copies"]["images"] == 2 and len(values["copies"]["shown"]) == 1 <= PAIRS
    everywhere = values["neighbours"]["both"]["tiles"]
    assert len(everywhere) == len(values["names"]) and all(max(row) < 5 for row in everywhere)
    assert "5 of 25 images, drawn at random, can be clicked." in page.sample_line(values["counts"])
    few = encode_collection(*open_records(None, restored), restored, most=4, seed=1)
    assert len(few) == 4 and few.total == 25


@pytest.mark.parametrize("count", [1, 2, 10])
def test_few_images(run, folder, tmp_path, count):
    (tmp_path / "list.txt").write_text("\n".join(map(str, sorted(folder.rglob("*.png"))[:count])))
    out = tmp_path / "few.html"
    command = ["report", f"--workdir={run.workdir}", f"--images={tmp_path / 'list.txt'}", f"--out={out}"]
    assert report.main(command) == 0
    data = data_of(out.read_text())
    assert data["counts"]["shown"] == count
    assert [len(row) for row in data["neighbours"]["both"]["tiles"]] == [min(count - 1, 10)] * len(data["names"])


def test_a_run_without_checkpoint_or_images_has_a_page_that_says_so(run, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.json", "metrics.jsonl", "sessions.json"):
        (tmp_path / "run" / name).write_bytes((run.workdir / name).read_bytes())
    out = tmp_path / "run" / "report.html"
    assert report.main(["report", f"--workdir={tmp_path / 'run'}"]) == 0
    html = out.read_text()
    assert "The panels of images are missing." in html and "holds no checkpoint yet" in html
    assert '<section id="curves"' in html and '<section id="map"' not in html
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "epo')  # as a kill leaves it
    (tmp_path / "run" / "sessions.json").write_text("[{")
    assert report.main(["report", f"--workdir={tmp_path / 'run'}"]) == 0
    assert "not recorded by this run" in out.read_text() and "not started" in out.read_text()


def test_two_runs_on_one_page(run, extended, tmp_path):
    out = tmp_path / "both.html"
    assert report.main(["report", f"--workdir={run.workdir},{extended.workdir}", f"--out={out}"]) == 0
    html, data = out.read_text(), data_of(out.read_text())
    assert re.search(r"<th scope=\"row\">seed</th><td>0</td><td>5</td>", html)
    assert {one["run"] for chart in data["charts"] for one in chart["series"]} == {0, 1}
    table = html[html.index("What differs") :]
    assert "batch_size" not in table[: table.index("</section>")]
    assert len(data["reconstructions"]) == 2


def test_charts_hold_the_metrics(run):
    found = {chart["title"]: chart for chart in charts.charts([facts.read_facts(run.workdir)])}
    chart = found["reconstruction, L1"]
    lines = run.metrics
    for one, split in zip(chart["series"], ("train", "eval"), strict=True):
        points = {row["epoch"]: row[f"{split}/reconstruction"] for row in lines if f"{split}/reconstruction" in row}
        assert {x: y for x, y in zip(chart["x"], one["y"], strict=True) if y is not None} == pytest.approx(
            points, rel=1e-4
        )
    assert "log variances of the losses" not in found  # they are fixed


def test_long_curves_are_thinned_and_keep_their_ends():
    points = [(float(i), i * 0.5) for i in range(10_001)]
    thin = charts.thinned(points, charts.POINTS)
    assert len(thin) == charts.POINTS and thin[0] == points[0] and thin[-1] == points[-1]


def test_sessions_record_the_machine_the_time_and_warnings(extended):
    first, second = read_sessions(extended.workdir)
    assert first["from_step"] == 0 and first["step"] == 2 and first["ended"]
    assert second["from_step"] == 2 and second["step"] == 4
    assert f"{EVIL} is odd" in second["warnings"] and f"{EVIL} is odd" not in first["warnings"]
    assert time.time() - 3600 < first["started"] <= first["seen"] <= second["started"] + 1
    assert second["started"] <= second["seen"] <= time.time() + 1
    assert first["versions"]["jax"] and first["platform"] == "cpu" and first["devices"] >= 1
    html = page.page([facts.read_facts(extended.workdir)])
    assert "at step 2" in html and "&lt;script&gt;alert(1)&lt;&amp;&gt; is odd" in html


def test_a_page_at_the_end_never_fails_the_run(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sit_jax.look.report.write_report", lambda *args, **kwargs: 1 / 0)
    (tmp_path / "metrics.jsonl").write_text("")
    report_after_training(tmp_path, 10)
    assert "report.html: cannot be written (division by zero); the run is complete" in capsys.readouterr().err
    report_after_training(tmp_path, 0)
    assert not capsys.readouterr().err


def test_pictures_and_tables(run, folder, tmp_path, capsys):
    options = [f"--workdir={run.workdir}", f"--images={folder}"]
    assert neighbours.main(["neighbours", *options, "--count=3", "--rows=2", f"--out={tmp_path / 'near.png'}"]) == 0
    rows = read_csv(tmp_path / "near.csv")
    assert len(rows) == 25 * 3 and rows[0].keys() == {"image", "rank", "neighbour", "similarity"}
    _, similarity = run.encoder().similar(sorted_pictures(folder), sorted_pictures(folder), count=4)
    for i, name in enumerate(sorted(str(path.relative_to(folder)) for path in sorted_pictures(folder))):
        mine = [row for row in rows if row["image"] == name]
        np.testing.assert_allclose([float(row["similarity"]) for row in mine], similarity[i, 1:], atol=1e-3)
    assert Image.open(tmp_path / "near.png").size[0] == 1600

    assert clusters.main(["clusters", *options, "--count=3", f"--out={tmp_path / 'groups.png'}"]) == 0
    rows = read_csv(tmp_path / "groups.csv")
    assert len(rows) == 25 and {row["cluster"] for row in rows} == {"1", "2", "3"}

    assert duplicates.main(["duplicates", f"--images={folder}", f"--out={tmp_path / 'twice.png'}"]) == 0
    (row,) = read_csv(tmp_path / "twice.csv")
    assert (row["first"], row["second"], row["mirrored"]) == ("cats/00.png", "cats/mirror.png", "yes")
    assert "25 images: 1 groups of copies, 2 images in them" in capsys.readouterr().out


def sorted_pictures(folder):
    return sorted(folder.rglob("*.png"), key=lambda path: str(path.relative_to(folder)))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_sought_among_others(run, folder, tmp_path):
    wanted = folder / "cats" / "02.png"
    command = ["neighbours", f"--workdir={run.workdir}", f"--images={folder}", f"--to={wanted}", "--count=2"]
    assert neighbours.main([*command, f"--out={tmp_path / 'out.png'}"]) == 0
    rows = read_csv(tmp_path / "out.csv")
    assert [row["image"] for row in rows] == [str(wanted)] * 2
    assert rows[0]["neighbour"] == "cats/02.png" and float(rows[0]["similarity"]) > 0.9999


def test_an_unreadable_picture_is_left_out(run, folder, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for path in sorted_pictures(folder)[:4]:
        (tmp_path / "a" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out.png"
    assert duplicates.main(["duplicates", f"--images={tmp_path / 'a'}", f"--out={out}"]) == 0
    assert "left out 1 of 5 pictures that cannot be read" in capsys.readouterr().out
    command = ["clusters", f"--workdir={run.workdir}", f"--images={tmp_path / 'a'}", f"--out={out}"]
    assert clusters.main(command) == 0
    assert "broken.png" not in out.with_suffix(".csv").read_text()


MODULES = {module.__name__.split(".")[1]: module for module in (report, neighbours, clusters, duplicates, watch)}


@pytest.mark.parametrize(
    "command,expected",
    [
        (["report"], "--workdir is missing"),
        (["report", "--workdir=RUN/none"], "no run is there"),
        (["report", "--workdir=RUN", "--out=x.png"], "must end in .html"),
        (["report", "--workdir=RUN", "--images=NOTHING"], "there is no such folder or file"),
        (["report", "--workdir=RUN", "--step=77"], "there is no such checkpoint"),
        (["report", "--workdir=RUN", "--limit=0"], "--limit=0"),
        (["report", "--workdir=RUN,RUN"], "--out is missing"),
        (["report", "--workdir=RUN,RUN", "--out=OUT/x.html", "--images=y"], "--images is for the page of one run"),
        (["report", "--workdir=RUN", "--map=som"], "--map"),
        (["neighbours", "--workdir=RUN"], "--out is missing"),
        (["neighbours", "--out=OUT/x.png"], "--workdir is missing"),
        (["neighbours", "--workdir=RUN", "--out=OUT/x.jpg"], "must end in .png"),
        (["neighbours", "--workdir=RUN", "--out=OUT/x.png", "--token=cls"], "--token"),
        (["neighbours", "--workdir=RUN", "--out=OUT/x.png", "--to=NOTHING"], "there is no such folder or file"),
        (["neighbours", "--workdir=RUN", "--out=OUT/x.png", "--images=ONE"], "there is a single image"),
        (["clusters", "--workdir=RUN", "--out=OUT/x.png", "--count=0"], "--count=0"),
        (["duplicates", "--out=OUT/x.png"], "--images is missing"),
        (["watch"], "the folder of runs is missing"),
        (["watch", "OUT/none"], "there is no such folder"),
        (["watch", "OUT", "--once"], "holds no run yet"),
    ],
)
def test_wrong_input_is_one_line(run, folder, tmp_path, capsys, command, expected):
    places = {"RUN": run.workdir, "OUT": tmp_path, "ONE": folder / "cats" / "00.png"}
    for name, place in places.items():
        command = [word.replace(name, str(place)) for word in command]
    modules = {
        "report": report,
        "neighbours": neighbours,
        "clusters": clusters,
        "duplicates": duplicates,
        "watch": watch,
    }
    assert modules[command[0]].main(command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0]
    assert not list(tmp_path.iterdir())


def test_watch_writes_a_page_that_reloads_and_ends_at_a_signal(run, capsys):
    folder = run.workdir.parent
    assert watch.main(["watch", str(folder), "--once"]) == 0
    assert f"{folder / 'watch.html'}: 1 run\n" in capsys.readouterr().out
    assert data_of((folder / "watch.html").read_text())["refresh"] == 0
    command = [sys.executable, "-m", "sit_jax.watch", str(folder), "--every=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "watch.html: 1 run" in process.stdout.readline()
            (run.workdir / "metrics.jsonl").touch()
            assert "watch.html: 1 run" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 75
        finally:
            process.kill()
    assert data_of((folder / "watch.html").read_text())["refresh"] == 1


def test_watch_finds_runs_and_not_what_is_in_them(tmp_path):
    for name in ("a/mine", "b/mine", "b/mine/eval/finetune", "c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
        if name != "c":  # has not begun
            (tmp_path / name / "metrics.jsonl").touch()
    assert watch.find_runs(tmp_path) == [tmp_path / "a" / "mine", tmp_path / "b" / "mine"]
    assert watch.find_runs(tmp_path / "a" / "mine") == [tmp_path / "a" / "mine"]


def test_runs_of_the_same_name_get_their_folders(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "mine").mkdir(parents=True)
        for file in ("config.json", "metrics.jsonl"):
            (tmp_path / name / "mine" / file).write_bytes((run.workdir / file).read_bytes())
    runs = facts.read_all([tmp_path / "a" / "mine", tmp_path / "b" / "mine", run.workdir])
    assert [one.name for one in runs[:2]] == ["a/mine", "b/mine"]
    assert "<title>4 runs</title>" in page.page([*runs, runs[0]])

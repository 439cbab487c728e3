"""The pictures of --images: a folder, a pattern, one picture, a text file of paths."""

import os

import numpy as np
import pytest
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.data.given import open_given


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate(["cat/a.png", "cat/b.png", "dog/c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4 + i, 4)).save(tmp_path / name)
    return tmp_path


def contents(given):
    return [given.records.read(i).read_bytes() for i in range(len(given.records))]


def test_every_form_gives_the_same_pictures(root):
    names = ["cat/a.png", "cat/b.png", "dog/c.png"]
    (root / "list.txt").write_text("\ufeffcat/a.png\r\n\n  cat/b.png\tlabel\n" + str(root / "dog/c.png") + "\n")
    expected = [(root / name).read_bytes() for name in names]
    folder, pattern, listed = (open_given(str(root / last)) for last in ("", "**/*.png", "list.txt"))
    assert contents(folder) == contents(pattern) == contents(listed) == expected
    assert folder.records.names == names and folder.class_names == ("cat", "dog")
    np.testing.assert_array_equal(folder.records.labels, [0, 0, 1])
    assert pattern.records.names == [str(root / name) for name in names]
    assert listed.records.names == [*names[:2], str(root / names[2])]
    for given in (pattern, listed):
        assert given.class_names == () and given.records.labels.tolist() == [-1, -1, -1]
    assert contents(open_given(str(root / "dog" / "c.png"))) == expected[2:]


def test_home_and_names_of_any_bytes(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    odd = os.fsdecode(b"\xff\xfe.png")
    (root / "dog" / "c.png").rename(root / "dog" / odd)
    (root / "list.txt").write_bytes(b"dog/\xff\xfe.png\n")
    assert open_given("~/list.txt").records.names == [f"dog/{odd}"]
    assert open_given("~/dog/*").records.names == [str(root / "dog" / odd)]
    assert open_given("~").records.names[-1] == f"dog/{odd}"


@pytest.mark.parametrize(
    "images,content,message",
    [
        ("none", None, "there is no such folder or file, and as a pattern it matches none"),
        ("cat/*.jpg", None, "matches none"),
        ("list.txt", "", "lists no picture"),
        ("list.txt", "cat/a.png\nx.png\ny.png\n", "2 of its 3 files are missing, the first: x.png"),
    ],
)
def test_wrong_input_is_one_line(root, images, content, message):
    if content is not None:
        (root / images).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        open_given(str(root / images))
    assert "\n" not in str(error.value)

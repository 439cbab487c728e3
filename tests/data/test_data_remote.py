"""Remote stores on the loopback: an HTTP server that knows ranges, and an S3 server where moto and s3fs are there."""

import http.server
import os
import re
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
import shards

from sit_jax.common.errors import InputError, StoreError
from sit_jax.data import Batches, load_images, open_source, remote, stored

NAMES = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)]


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files with the header Range, which http.server ignores, and with its size."""

    failures = 0

    def do_GET(self):
        path = self.translate_path(self.path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not os.path.isfile(path) or "whole" in path:
            return super().do_GET()
        if Ranges.failures:
            Ranges.failures -= 1
            return self.send_error(503)
        first, last = map(int, asked.groups())
        content = Path(path).read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    shards.write_folder(root / "pictures", NAMES)
    for i in range(2):
        names = NAMES[4 * i : 4 * i + 4]
        shards.write_tar(root / f"shard-{i}.tar", [(name, shards.picture(name)) for name in names])
        shards.write_parquet(root / f"part-{i}.parquet", names, [int(name > "d") for name in names])
    (root / "whole.tar").write_bytes((root / "shard-0.tar").read_bytes())
    (root / "list.txt").write_text("".join(f"pictures/{name}\t{name[:3]}\n" for name in NAMES))
    return root


@pytest.fixture(scope="module")
def http_url(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Ranges(*args, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def s3_url(folder):
    pytest.importorskip("s3fs")  # pip install -r requirements-remote.txt "moto[s3]" flask flask-cors
    ThreadedMotoServer = pytest.importorskip("moto.server").ThreadedMotoServer
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }.items():
            patch.setenv(name, value)
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        store.put(f"{folder}/", "bucket/", recursive=True)
        yield "s3://bucket"
    server.stop()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))


FORMS = [
    "s3 tar:URL/shard-{0..1}.tar",
    "s3 tar:URL/shard-*.tar",
    "s3 parquet:URL/part-*.parquet",
    "s3 folder:URL/pictures",
    "s3 URL/pictures/",
    "s3 glob:URL/pictures/*/*.png",
    "s3 list:URL/list.txt",
    "s3 URL/shard-0.tar,URL/shard-1.tar",
    "http tar:URL/shard-{0..1}.tar",
    "http parquet:URL/part-{0..1}.parquet",
    "http folder:URL/pictures",
    "http list:URL/list.txt",
]


@pytest.mark.parametrize("limit", ["1", "0"], ids=["kept", "not kept"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_batches_of_the_folder(folder, request, form, limit, monkeypatch):
    monkeypatch.setenv("SIT_JAX_CACHE_GB", limit)
    kind, _, name = form.partition(" ")
    found = open_source(name.replace("URL", request.getfixturevalue(f"{kind}_url")))
    expected = open_source(f"folder:{folder}/pictures")
    for step in (0, 5):
        one, other = (
            Batches(load_images(source.train, 8, memory_limit_gb=0.0), 3, 1, labels=source.train.labels).batch_at(step)
            for source in (found, expected)
        )
        assert np.array_equal(one["image"], other["image"]) and np.array_equal(one["label"], other["label"])


def test_blocks_are_fetched_once(folder, s3_url, monkeypatch):
    """Blocks smaller than the pictures: a picture is put together from several."""
    monkeypatch.setattr(stored, "BLOCK", 100)
    asked = []
    read = remote.read
    monkeypatch.setattr(remote, "read", lambda url, start, size: asked.append((url, start)) or read(url, start, size))
    train = open_source(f"tar:{s3_url}/shard-*.tar").train
    assert [train.read(i) for i in range(8)] == [shards.picture(name) for name in NAMES]
    assert len(asked) == len(set(asked)) > 20
    asked.clear()
    again = open_source(f"tar:{s3_url}/shard-*.tar").train
    assert [again.read(i) for i in range(8)] == [shards.picture(name) for name in NAMES] and not asked


def test_a_changed_object_is_read_again(folder, s3_url):
    first = open_source(f"tar:{s3_url}/shard-0.tar").train
    store = fsspec.filesystem("s3")
    store.put(f"{folder}/shard-1.tar", "bucket/changing.tar")
    before = open_source(f"tar:{s3_url}/changing.tar").train
    assert before.read(0) == shards.picture(NAMES[4])
    store.put(f"{folder}/shard-0.tar", "bucket/changing.tar")
    store.invalidate_cache()
    after = open_source(f"tar:{s3_url}/changing.tar").train
    assert after.read(0) == first.read(0) and before.stamp(0) != after.stamp(0)


def test_a_store_that_fails_for_a_while(http_url, monkeypatch):
    monkeypatch.setenv("SIT_JAX_CACHE_GB", "0")
    train = open_source(f"tar:{http_url}/shard-0.tar").train
    Ranges.failures = 3
    assert train.read(0) == shards.picture(NAMES[0])
    Ranges.failures = 4
    with pytest.raises(StoreError, match=r"shard-0\.tar: cannot be read \(503.*check the connection"):
        train.read(0)


WRONG = {
    "tar:URL/none-{0..30}.tar": "31 of 31 files are missing: .*none-19.tar and 11 more",
    "tar:URL/none-*.tar": "there is no file",
    "tar:URL/list.txt": "cannot be read as a tar file",
    "list:URL/none.txt": "1 of 1 files are missing",
    "folder:URL/none": "holds no images|cannot be read",
    "arrayrecord:URL/a": "read from disk only",
    "tar:nothing://a/b.tar": r"nothing:// is no known store; use gs://, s3:// or https://",
}


@pytest.mark.parametrize("form", WRONG)
def test_what_is_wrong_is_told_in_one_line(s3_url, form):
    with pytest.raises(InputError, match=WRONG[form]) as error:
        open_source(form.replace("URL", s3_url))
    assert "\n" not in str(error.value)


def test_a_server_without_ranges(http_url, monkeypatch):
    monkeypatch.setenv("SIT_JAX_CACHE_GB", "0")
    with pytest.raises((InputError, StoreError), match="the server sends whole files only"):
        open_source(f"tar:{http_url}/whole.tar")


def test_a_server_that_is_not_there(free_port):
    with pytest.raises(InputError, match=r"^1 of 1 files are missing: http://127"):
        open_source(f"tar:http://127.0.0.1:{free_port()}/a.tar")


def test_files_on_disk_and_in_a_store_do_not_mix(folder, http_url):
    with pytest.raises(InputError, match="is on disk, and others are not"):
        open_source(f"tar:{folder}/shard-0.tar,{http_url}/shard-1.tar")


@pytest.mark.parametrize(("kind", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, kind, raising=False)
    with pytest.raises(
        InputError, match=rf"reading {kind}:// needs another package; run `pip install fsspec {package}`"
    ):
        open_source(f"tar:{kind}://bucket/a.tar")

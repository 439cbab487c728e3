"""Remote stores on the loopback: emulators of S3 and of Google Cloud Storage, and an HTTP server that knows ranges."""

import http.server
import os
import re
import sys
import threading
import types
import urllib.request
from pathlib import Path

import emulators
import fsspec
import numpy as np
import pytest
import shards

from sit_jax import main
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


def put(store, folder):
    """Writes the served folder into a new bucket."""
    store.mkdir("bucket")
    store.put(f"{folder}/", "bucket/", recursive=True)


@pytest.fixture(scope="module")
def s3_url(folder, free_port):
    with emulators.store("s3", free_port()) as store:
        put(store, folder)
        yield "s3://bucket"


@pytest.fixture(scope="module")
def gs_url(folder, free_port):
    with emulators.store("gs", free_port()) as store:
        put(store, folder)
        yield "gs://bucket"


@pytest.fixture(params=["s3", "gs"])
def store_url(request):
    """A bucket with the files of the served folder."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))


IN_STORES = [
    "tar:URL/shard-{0..1}.tar",
    "tar:URL/shard-*.tar",
    "parquet:URL/part-*.parquet",
    "folder:URL/pictures",
    "URL/pictures/",
    "glob:URL/pictures/*/*.png",
    "list:URL/list.txt",
    "URL/shard-0.tar,URL/shard-1.tar",
]
OVER_HTTP = [
    "tar:URL/shard-{0..1}.tar",
    "parquet:URL/part-{0..1}.parquet",
    "folder:URL/pictures",
    "list:URL/list.txt",
]
FORMS = [(kind, form) for kind in ("s3", "gs") for form in IN_STORES] + [("http", form) for form in OVER_HTTP]


def contents(records):
    """The encoded bytes of all images."""
    return [raw.read_bytes() if isinstance(raw, Path) else raw for raw in map(records.read, range(len(records)))]


@pytest.mark.parametrize("limit", ["1", "0"], ids=["kept", "not kept"])
@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_each_form_gives_the_images_and_batches_of_the_folder(folder, request, kind, form, limit, monkeypatch):
    monkeypatch.setenv("SIT_JAX_CACHE_GB", limit)
    found = open_source(form.replace("URL", request.getfixturevalue(f"{kind}_url")))
    expected = open_source(f"folder:{folder}/pictures")
    assert contents(found.train) == contents(expected.train)
    assert np.array_equal(found.train.labels, expected.train.labels)
    for step in (0, 5):
        one, other = (
            Batches(load_images(source.train, 8, memory_limit_gb=0.0), 3, 1, labels=source.train.labels).batch_at(step)
            for source in (found, expected)
        )
        assert np.array_equal(one["image"], other["image"]) and np.array_equal(one["label"], other["label"])


def test_a_shard_is_written_into_a_store_and_read_from_there(store_url):
    """Member by member, as a program that makes shards writes it."""
    with fsspec.open(f"{store_url}/written/new.tar", "wb") as file:
        shards.write_tar(None, [(name, shards.picture(name)) for name in NAMES], fileobj=file)
    written = open_source(f"tar:{store_url}/written/new.tar")
    assert contents(written.train) == [shards.picture(name) for name in NAMES]
    assert written.class_names == ("cat", "dog") and written.train.labels.tolist() == [0] * 4 + [1] * 4


def test_blocks_are_fetched_once(store_url, monkeypatch):
    """Blocks smaller than the pictures: a picture is put together from several."""
    monkeypatch.setattr(stored, "BLOCK", 100)
    asked = []
    read = remote.read
    monkeypatch.setattr(remote, "read", lambda url, start, size: asked.append((url, start)) or read(url, start, size))
    train = open_source(f"tar:{store_url}/shard-*.tar").train
    assert contents(train) == [shards.picture(name) for name in NAMES]
    assert len(asked) == len(set(asked)) > 20
    asked.clear()
    again = open_source(f"tar:{store_url}/shard-*.tar").train
    assert contents(again) == [shards.picture(name) for name in NAMES] and not asked


def test_the_cache_of_blocks_is_bounded(folder, store_url, tmp_path, monkeypatch):
    """Room for one shard: the second takes the place of the first, and of both together nothing is kept."""
    size = (folder / "shard-0.tar").stat().st_size
    monkeypatch.setenv("SIT_JAX_CACHE_GB", str(1.5 * size / 1e9))
    for name, names in {"shard-0.tar": NAMES[:4], "shard-1.tar": NAMES[4:], "shard-*.tar": NAMES}.items():
        assert contents(open_source(f"tar:{store_url}/{name}").train) == [shards.picture(name) for name in names]
        blocks = [path for path in (tmp_path / "cache" / "sit_jax" / "blocks").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in blocks) == size


def test_a_changed_object_is_read_again(folder, store_url):
    store, path = fsspec.core.url_to_fs(f"{store_url}/changing.tar")
    store.put(f"{folder}/shard-1.tar", path)
    before = open_source(f"tar:{store_url}/changing.tar").train
    assert contents(before) == [shards.picture(name) for name in NAMES[4:]]
    store.put(f"{folder}/shard-0.tar", path)
    store.invalidate_cache()
    after = open_source(f"tar:{store_url}/changing.tar").train
    assert contents(after) == [shards.picture(name) for name in NAMES[:4]] and before.stamp(0) != after.stamp(0)


def test_a_store_that_fails_for_a_while(http_url, monkeypatch):
    monkeypatch.setenv("SIT_JAX_CACHE_GB", "0")
    train = open_source(f"tar:{http_url}/shard-0.tar").train
    Ranges.failures = 3
    assert train.read(0) == shards.picture(NAMES[0])
    Ranges.failures = 4
    with pytest.raises(StoreError, match=r"shard-0\.tar: cannot be read \(503.*check the connection"):
        train.read(0)


def refusal(source, folder, capsys):
    """The line with which a training on a source ends, before it has written anything."""
    workdir = folder / "run"
    argv = ["main", "--config=digits:runlocal", f"--config.data.source={source}", f"--workdir={workdir}"]
    assert main.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not workdir.exists()
    return line


WRONG = {
    "tar:URL/none-{0..20}.tar": "21 of 21 files are missing: .*none-19.tar and 1 more",
    "tar:URL/none-*.tar": "there is no file .*none-.*; correct the pattern",
    "tar:URL/list.txt": "cannot be read as a tar file",
    "tar:URL/pictures": "/pictures: is a folder; give its files",
    "list:URL/none.txt": "1 of 1 files are missing: .*none.txt",
    "folder:URL/none": "/none: holds no images",
    "arrayrecord:URL/a": "read from disk only",
    "tar:URL-none/a.tar": "1 of 1 files are missing: .*://bucket-none/a.tar",
    # s3fs lists nothing, and gcsfs refuses.
    "tar:URL-none/*.tar": r"://bucket-none/\*\.tar: (there is no file|the store has no such bucket)",
    "folder:URL-none": "://bucket-none: the store has no such bucket or folder; correct the address",
    "tar:nothing://a/b.tar": "nothing:// is no known store; use gs://, s3:// or https://",
}


@pytest.mark.parametrize("form", WRONG)
def test_what_is_wrong_is_told_in_one_line(store_url, form, tmp_path, capsys):
    assert re.search(WRONG[form], refusal(form.replace("URL", store_url), tmp_path, capsys))


@pytest.fixture
def without_rights(s3_url):
    """A server that knows no key."""
    address = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(address, b"0", headers)).close()
    yield
    urllib.request.urlopen(urllib.request.Request(address, b"inf", headers)).close()


@pytest.fixture
def without_keys(s3_url, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where a machine of Amazon finds keys
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def without_server(s3_url, free_port, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")


REFUSED = {
    "without_rights": "Forbidden|The AWS Access Key Id you provided does not exist",
    "without_keys": "Unable to locate credentials",
    "without_server": "Could not connect to the endpoint URL",
}


@pytest.mark.parametrize("form", ["tar:URL/shard-0.tar", "tar:URL/*.tar", "folder:URL/pictures", "list:URL/list.txt"])
@pytest.mark.parametrize("state", REFUSED)
def test_a_store_that_refuses_is_told_in_one_line(s3_url, request, state, form, tmp_path, capsys):
    request.getfixturevalue(state)
    connections = fsspec.get_filesystem_class("s3")
    connections.clear_instance_cache()
    line = refusal(form.replace("URL", s3_url), tmp_path, capsys)
    connections.clear_instance_cache()
    reason = rf"\((?:{REFUSED[state]}).*\)"
    assert re.search(rf"{s3_url}/\S+: the store cannot be read {reason}; check the address, the connection", line)


def test_no_traceback_is_logged_of_a_store_that_does_not_answer(
    gs_url, free_port, tmp_path, capsys, caplog, monkeypatch
):
    """What gcsfs raises, it also logs."""
    import gcsfs

    async def at_once(seconds):
        pass

    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=at_once))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    line = refusal(f"tar:{gs_url}/shard-0.tar", tmp_path, capsys)
    gcsfs.GCSFileSystem.clear_instance_cache()
    assert "shard-0.tar: the store cannot be read (Cannot connect to host 127.0.0.1" in line
    assert not caplog.records


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

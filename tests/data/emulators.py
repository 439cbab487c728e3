"""Object stores on the loopback, each in a process of its own: Amazon S3 (moto), and Google Cloud Storage."""

import contextlib
import socket
import subprocess
import sys
import time

import fsspec
import pytest

# By scheme: the words after `python -m`, and the environment in which fsspec finds the emulator instead of the store.
EMULATORS = {
    "s3": (
        "moto.server -H 127.0.0.1 -p {port}",
        {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "name",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        },
    ),
    "gs": (
        "gcp_storage_emulator start --host=127.0.0.1 --port={port} --in-memory --quiet",
        {
            "STORAGE_EMULATOR_HOST": "http://127.0.0.1:{port}",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gRPC, which the emulator does not speak
        },
    ),
}
SECONDS = 60  # for the start of an emulator on a busy machine


@contextlib.contextmanager
def store(kind, port):
    """Starts the emulator of a scheme on a free port, and yields the file system that speaks with it."""
    words, environment = EMULATORS[kind]
    command = [sys.executable, "-m", *words.format(port=port).split()]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(server, port)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value.format(port=port))
            patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
            fsspec.get_filesystem_class(kind).clear_instance_cache()
            yield fsspec.filesystem(kind)
    finally:
        server.kill()
        server.wait()


def wait_for(server, port):
    """Returns when the port is open; fails if the process ends, or takes longer than SECONDS."""
    deadline = time.monotonic() + SECONDS
    while True:
        assert server.poll() is None, f"{server.args} ended with {server.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, f"{server.args} does not answer"
        time.sleep(0.05)

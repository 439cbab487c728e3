"""The PyTorch peers, for timing."""

import time
from collections.abc import Iterator

import torch

from benchmarks.equality import losses_of_exchange
from benchmarks.images import endless, load_images
from benchmarks.library_peer import LibraryPeer
from benchmarks.torch_peer import Peer, parameter_count
from sit_jax.timing.machine import cores


class Theirs:
    """The peer `torch` or `library` on one device: a GPU if available, else all cores of the CPU."""

    def __init__(self, name: str):
        self.name = name

    def setup(self, config: dict, data: str, exchange: str, compile_mode: str, workers: int) -> dict:
        """Compiles and makes a first step of the resolved `config`.

        Returns the number of parameters, the losses on the views in the file `exchange` ({} without a file), the device
        and the seconds to the end of the first step.
        """
        begin = time.perf_counter()
        losses = losses_of_exchange(exchange, config) if exchange else {}
        images, device = load_images(config, data), "cuda" if torch.cuda.is_available() else "cpu"
        if self.name == "library":
            self.peer: Peer = LibraryPeer(config, device, images, workers, compile_mode)
            self.updates: Iterator = self.peer.iterate()
        else:
            self.peer = Peer(config, device, compile_mode)
            self.updates = map(self.peer.step, endless(images, config["batch_size"]))
        self.run(1, "")
        where = torch.cuda.get_device_name() if device == "cuda" else f"cpu x {cores()}"
        return {
            "parameters": parameter_count(self.peer.model),
            "losses": losses,
            "device": f"{where}, torch {torch.__version__}",
            "setup_seconds": time.perf_counter() - begin,
        }

    def run(self, steps: int, feed: str) -> float:
        """Makes `steps` steps and returns their seconds; `feed` is ignored, because a peer has only one."""
        begin = time.perf_counter()
        for _ in range(steps):
            next(self.updates)
        self.peer.sync()
        return time.perf_counter() - begin

"""The whole training step of sit_jax in fast PyTorch: views, network, losses, AdamW."""

import math
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from benchmarks.torch_model import SiT, load_jax_params, losses, parameter_count
from benchmarks.torch_views import Draws, Views, build_views, draw, make_views
from sit_jax.common.errors import InputError
from sit_jax.timing.machine import cores

__all__ = ["Peer", "SiT", "Views", "load_jax_params", "losses", "make_views", "parameter_count"]


class Peer:
    """A training of the resolved configuration `config`, a plain dictionary, on one device, `cpu` or `cuda`.

    `compile_mode` is a mode of `torch.compile`, or "none". Raises InputError if `config` asks for gradient
    accumulation.
    """

    def __init__(self, config: dict, device: str, compile_mode: str = "default"):
        if config["microbatches"] != 1:
            raise InputError("the PyTorch peers have no gradient accumulation; set microbatches=1")
        torch.manual_seed(config["seed"])
        if device == "cpu":
            torch.set_num_threads(cores())
        elif config["dtype"] == "bfloat16":
            torch.set_float32_matmul_precision("high")  # operations left in float32 may also use the tensor cores
        self.config, self.device, self.steps_done = config, torch.device(device), 0
        self.generator = torch.Generator(device).manual_seed(config["seed"])
        self.model = SiT(config).to(device)
        self.optimizer = make_optimizer(self.model, config)
        self.average = [p.detach().clone() for p in self.model.parameters()] if config["optim"]["ema"] else None
        self._views, self._loss = self.views, self.loss
        if compile_mode != "none":
            self._views = torch.compile(self.views, mode=compile_mode, dynamic=False)
            self._loss = torch.compile(self.loss, mode=compile_mode, dynamic=False)

    def step(self, images: np.ndarray) -> Tensor:
        """Makes one update from images [B, H, W, 3] uint8; returns the loss [], possibly still being computed."""
        rows = torch.from_numpy(images)
        rows = rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows
        with torch.no_grad():
            views = self._views(rows, draw(2 * len(images), self.config, self.generator))
        return self.update(views)

    def update(self, views: Views) -> Tensor:
        """Makes one update from views on the device."""
        shape = (len(self.model.blocks), 2, len(views.clean))
        drop = torch.rand(shape, generator=self.generator, device=self.device)
        loss = self._loss(views, drop)["loss"]
        loss.backward()
        optim, parameters = self.config["optim"], list(self.model.parameters())
        if optim["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(parameters, optim["clip_norm"], foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.steps_done, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            torch._foreach_lerp_(self.average, [p.detach() for p in parameters], 1 - optim["ema"])
        self.steps_done += 1
        return loss.detach()

    def views(self, images: Tensor, draws: Draws) -> Views:
        """Makes the views of a batch on the device."""
        return build_views(images, draws, self.config)

    def loss(self, views: Views, drop: Tensor | None) -> dict[str, Tensor]:
        """Returns the three losses and their weighted sum `loss`; `drop` [depth, 2, V] turns stochastic depth on."""
        half = "bfloat16" in (self.config["dtype"], self.config["model"]["products"])
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            out = self.model(views.corrupted, drop)
        return losses(out, views, self.model.log_var, self.config)

    def sync(self) -> None:
        """Waits until all steps are done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def make_optimizer(model: SiT, config: dict) -> torch.optim.AdamW:
    """Returns the fused AdamW, with weight decay only on the weights of dense layers."""
    kernels = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    chosen = set(map(id, kernels))
    others = [p for p in model.parameters() if id(p) not in chosen]
    optim = config["optim"]
    groups = [{"params": kernels, "weight_decay": optim["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(optim["b1"], optim["b2"]), eps=optim["eps"], fused=True)


def learning_rate(step: int, config: dict) -> float:
    """Returns the learning rate of a step: a linear warm-up, then a cosine."""
    optim, warmup = config["optim"], config["optim"]["warmup_steps"]
    peak = optim["base_learning_rate"] * config["batch_size"] / 512
    if step < warmup:
        return optim["warmup_learning_rate"] + (peak - optim["warmup_learning_rate"]) * step / warmup
    share = min(1.0, (step - warmup) / max(1, config["steps"] - warmup))
    return optim["final_learning_rate"] + (peak - optim["final_learning_rate"]) * (1 + math.cos(math.pi * share)) / 2

"""The second peer: DataLoader workers make views with PIL and corrupt image by image; the training step is the same."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.torch_peer import Peer, Views
from sit_jax.views.color import LUMA


class LibraryPeer(Peer):
    """A training like `Peer` on `images` [n, H, W, 3] uint8; `workers` processes make the views."""

    def __init__(self, config: dict, device: str, images: np.ndarray, workers: int = 2, compile_mode: str = "default"):
        super().__init__(config, device, compile_mode)
        batch_size = config["batch_size"]
        dataset = TwoViews(images, config)
        self.loader = DataLoader(
            dataset,
            batch_size,
            # One endless epoch, because restarting the workers would cost more than the views.
            sampler=RandomSampler(dataset, replacement=True, num_samples=2**40),
            num_workers=workers,
            collate_fn=Corrupt(config),
            pin_memory=self.device.type == "cuda",
        )

    def iterate(self) -> Iterator[Tensor]:
        """Makes updates on the loader's views and yields the loss of each."""
        for clean, corrupted, rotation, changed in self.loader:
            moved = [x.to(self.device, non_blocking=True) for x in (clean, corrupted, rotation, changed)]
            yield self.update(Views(*moved[:3], {"any": moved[3]}))


class TwoViews(Dataset):
    """Two augmented and rotated views of each image, as (PIL image, quarter turns)."""

    def __init__(self, images: np.ndarray, config: dict):
        self.images, self.size, self.views = images, config["model"]["image_size"], config["views"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[tuple[Image.Image, int]]:
        image = Image.fromarray(self.images[index])
        quarters = [random.randrange(4) for _ in range(2)]
        return [(self.view(image).transpose(turn(k)) if k else self.view(image), k) for k in quarters]

    def view(self, image: Image.Image) -> Image.Image:
        """Crops and flips an image and jitters its colours, at random."""
        width, height = image.size
        share, low, high = random.uniform(*self.views["area"]), *np.log(self.views["ratio"])
        aspect = np.exp(random.uniform(low, high))
        w, h = min((share * aspect) ** 0.5, 1) * width, min((share / aspect) ** 0.5, 1) * height
        x, y = random.uniform(0, width - w), random.uniform(0, height - h)
        view = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
        if random.random() < self.views["flip"]:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        view = jitter(view, self.views)
        return view.convert("L").convert("RGB") if random.random() < self.views["grayscale"] else view


def turn(quarters: int) -> Image.Transpose:
    """Returns PIL's transposition for 1 to 3 quarter turns counter-clockwise."""
    return (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)[quarters - 1]


def jitter(image: Image.Image, config: dict) -> Image.Image:
    """Jitters brightness, contrast, saturation and hue of a PIL image at random."""
    enhancers = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast}
    for name, enhancer in (*enhancers.items(), ("saturation", ImageEnhance.Color)):
        if config[name]:
            image = enhancer(image).enhance(random.uniform(max(0.0, 1 - config[name]), 1 + config[name]))
    if config["hue"]:
        hue, saturation, value = image.convert("HSV").split()
        shift = round(random.uniform(-config["hue"], config["hue"]) * 255)
        hue = Image.fromarray(np.array(hue) + np.uint8(shift % 256))
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return image


class Corrupt:
    """Collates the views of a batch and corrupts them one by one, block by block."""

    def __init__(self, config: dict):
        self.config = config["corrupt"]

    def __call__(self, pairs: list[list[tuple[Image.Image, int]]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns clean and corrupted views [V, s, s, 3], quarter turns [V] and masks of changed pixels [V, s, s]."""
        views = [view for pair in pairs for view in pair]
        clean = np.stack([np.asarray(image, np.float32) for image, _ in views]) / 127.5 - 1
        corrupted, changed = clean.copy(), np.zeros(clean.shape[:3], bool)
        for i in range(len(views)):
            self.corrupt(corrupted[i], changed[i], clean, i)
        rotation = torch.tensor([quarters for _, quarters in views])
        return torch.from_numpy(clean), torch.from_numpy(corrupted), rotation, torch.from_numpy(changed)

    def corrupt(self, image: np.ndarray, changed: np.ndarray, clean: np.ndarray, row: int) -> None:
        """Corrupts one view [s, s, 3] in place and marks the written pixels in `changed` [s, s]."""
        for name, operation in (("grayscale", to_gray), ("blur", blur), ("recolour", recolour)):
            section = self.config[name]
            if random.random() < section.get("probability", 1.0):
                where = block(len(image), section["block"])
                image[where] = operation(image, where, section)
                changed[where] = True
        donor = random.randrange(len(clean))
        donor = clean[donor if donor // 2 != row // 2 else (donor + 2) % len(clean)]
        for name in ("drop", "replace"):
            written = np.zeros_like(changed)
            wanted = random.uniform(*self.config[name]["fraction"]) * written.size
            while written.sum() < wanted:
                where = block(len(image), self.config[name]["block"])
                image[where] = donor[where] if name == "replace" else fill(image[where], image, self.config["drop"])
                written[where] = True
            changed |= written


def block(size: int, sides: tuple[float, float]) -> tuple[slice, slice]:
    """Returns a random rectangle in an image; its sides are drawn from U(*sides) as shares of `size`."""
    height, width = (min(max(round(random.uniform(*sides) * size), 1), size) for _ in range(2))
    y, x = random.randint(0, size - height), random.randint(0, size - width)
    return slice(y, y + height), slice(x, x + width)


def to_gray(image: np.ndarray, where: tuple[slice, slice], section: dict) -> np.ndarray:
    """Returns a part of an image in grayscale."""
    return (image[where] @ np.array(LUMA, np.float32))[:, :, None]


def blur(image: np.ndarray, where: tuple[slice, slice], section: dict) -> np.ndarray:
    """Returns a part of the blurred image; blurs only this part, with a separable Gaussian."""
    radius = random.randint(section["kernel"][0] // 2, section["kernel"][1] // 2)
    weight = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / random.uniform(*section["sigma"])) ** 2)
    weight = (weight / weight.sum()).expand(3, 1, 1, -1)
    y, x = (slice(max(part.start - radius, 0), part.stop + radius) for part in where)
    part = torch.from_numpy(image[y, x]).permute(2, 0, 1)[None]
    part = torch.nn.functional.pad(part, (radius,) * 4, mode="replicate")
    part = torch.conv2d(torch.conv2d(part, weight, groups=3), weight.transpose(2, 3), groups=3)[0]
    top, left = where[0].start - y.start, where[1].start - x.start
    height, width = where[0].stop - where[0].start, where[1].stop - where[1].start
    return part[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()


def recolour(image: np.ndarray, where: tuple[slice, slice], section: dict) -> np.ndarray:
    """Returns a part of an image with jittered colours."""
    part = Image.fromarray(np.uint8(np.clip((image[where] + 1) * 127.5, 0, 255)))
    return np.asarray(jitter(part, section), np.float32) / 127.5 - 1


def fill(part: np.ndarray, image: np.ndarray, section: dict) -> np.ndarray | float:
    """Returns the values for a dropped part of an image."""
    if section["fill"] == "noise":
        return section["noise_std"] * np.random.standard_normal(part.shape).astype(np.float32)
    return 0.0 if section["fill"] == "zeros" else image.mean(axis=(0, 1))

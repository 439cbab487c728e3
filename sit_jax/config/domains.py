"""View presets for pictures that are no photographs: `--config=FILE:views=NAME` (docs/views.md). None was measured."""

from typing import Any, NamedTuple

import ml_collections

from sit_jax.common.errors import InputError


class Change(NamedTuple):
    """One change of a configuration, with its reason."""

    key: str
    value: Any
    reason: str


NO_UPRIGHT = (
    Change("views.turned", 0.75, "no direction is up: all four turns are equally natural"),
    Change("views.share_rotation", False, "the contrastive task learns that a turned image is the same image"),
    Change("loss.weights.rotation", "0.03", "an image without an upright direction does not show how it was turned"),
)
PHOTOGRAPHS_ONLY = Change("finetune.augment.randaugment.layers", 0, "its operations are tuned on photographs")

VIEWS: dict[str, tuple[Change, ...]] = {
    "microscopy": (
        *NO_UPRIGHT,
        Change("views.brightness", 0.2, "exposure and thickness vary a little"),
        Change("views.contrast", 0.2, "staining varies a little"),
        Change("views.saturation", 0.1, "staining varies a little"),
        Change("views.hue", 0.02, "the hue of a stain or marker is what it tells"),
        Change("views.grayscale", 0.0, "grey loses the stain"),
        Change("corrupt.recolour.hue", 0.05, "the hue of a stain or marker is what it tells"),
        PHOTOGRAPHS_ONLY,
    ),
    "satellite": (
        *NO_UPRIGHT,
        Change("views.area", (0.3, 1.0), "the sensor fixes the scale: a small crop shows objects of a wrong size"),
        Change("views.brightness", 0.3, "sun and haze vary"),
        Change("views.contrast", 0.3, "haze lowers the contrast"),
        Change("views.saturation", 0.1, "bands are measurements: their ratio tells water, soil and plants apart"),
        Change("views.hue", 0.0, "bands are measurements: their ratio tells water, soil and plants apart"),
        Change("views.grayscale", 0.0, "grey loses the ratio of the bands"),
        Change("corrupt.recolour.hue", 0.05, "bands are measurements"),
        PHOTOGRAPHS_ONLY,
    ),
    "documents": (
        Change("views.flip", 0.0, "mirrored text is no text"),
        Change("views.area", (0.05, 0.4), "text is legible in small crops alone"),
        Change("views.saturation", 0.0, "ink on paper has little colour"),
        Change("views.hue", 0.0, "ink on paper has little colour"),
        Change("views.grayscale", 0.0, "ink on paper has little colour"),
        Change("corrupt.grayscale.probability", 0.0, "ink on paper has little colour: grey changes nothing"),
        Change("corrupt.recolour.saturation", 0.0, "ink on paper has little colour"),
        Change("corrupt.recolour.hue", 0.0, "ink on paper has little colour"),
        Change("corrupt.blur.kernel", (3, 7), "strokes are a few pixels wide: a strong blur erases them"),
        Change("corrupt.blur.sigma", (0.1, 1.5), "strokes are a few pixels wide: a strong blur erases them"),
        Change("linear.augment.flip", 0.0, "mirrored text is no text"),
        Change("finetune.augment.flip", 0.0, "mirrored text is no text"),
        PHOTOGRAPHS_ONLY,
    ),
    "xray": (
        Change("data.channels", 1, "X-rays are grey"),
        Change("views.flip", 0.0, "left and right differ: a mirrored chest has its heart on the wrong side"),
        Change("views.area", (0.4, 1.0), "a small crop often misses the finding"),
        Change("views.brightness", 0.2, "exposure varies, and density carries the finding"),
        Change("views.contrast", 0.2, "exposure varies, and density carries the finding"),
        Change("corrupt.recolour.brightness", 0.4, "density carries the finding"),
        Change("corrupt.recolour.contrast", 0.4, "density carries the finding"),
        Change("linear.augment.flip", 0.0, "left and right differ"),
        Change("finetune.augment.flip", 0.0, "left and right differ"),
        PHOTOGRAPHS_ONLY,
    ),
}


def use_views(config: ml_collections.ConfigDict, name: str) -> None:
    """Applies the view preset `name`; raises InputError, with the names of all presets, if there is none."""
    if name not in VIEWS:
        raise InputError(f"config argument views={name} must be one of {', '.join(VIEWS)}")
    config.update_from_flattened_dict({change.key: change.value for change in VIEWS[name]})

"""The sizes of the Vision Transformer and its number of tokens."""

import ml_collections

# Width, depth, MLP width, heads: table 2 of arXiv 2106.04560; "mu" is for tests, "XS" for laptops.
SIZES = {
    "mu": (32, 1, 128, 2),
    "XS": (128, 6, 512, 4),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
}
TOKEN_NAMES = ("rotation", "contrastive")  # in this order, before the patch tokens
TOKENS = len(TOKEN_NAMES)
ROTATION, CONTRASTIVE, PATCHES = range(3)  # values of Task.reads: one of the two tokens, or all patches


def patch_count(model: ml_collections.ConfigDict) -> int:
    """Returns the number of patches N of an image; `model` is the section `model`."""
    return (model.image_size // model.patch_size) ** 2


def patch_pixels(model: ml_collections.ConfigDict) -> int:
    """Returns the number of values of a patch, P * P * c; `model` is the section `model`."""
    return model.patch_size**2 * model.channels


def token_count(image_size: int, patch_size: int) -> int:
    """Returns the number of tokens T of a square image, 2 + N."""
    return TOKENS + (image_size // patch_size) ** 2

"""Reads a file or folder of weights as arrays by name, with what the files beside it say."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from sit_jax.common.errors import InputError
from sit_jax.weights.names import Arrays
from sit_jax.weights.torch_file import read_torch

# Of a folder, the first that is there.
WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# In files of trainings, where the weights are. DINO's teacher is the encoder that its authors publish.
NESTED = ("model", "teacher", "state_dict", "student")
WRAPPERS = ("module.", "_orig_mod.", "backbone.", "vit.", "deit.", "dinov2.")


class Read(NamedTuple):
    """The content of a file of weights."""

    arrays: Arrays  # without the prefixes of wrappers
    about: dict  # config.json and preprocessor_config.json of its folder, merged
    files: tuple[Path, ...]

    def hash(self) -> str:
        """Returns the SHA-256 of the file, in hexadecimal; of shards, that of their SHA-256 one after another."""
        digests = [sha256(path) for path in self.files]
        return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def sha256(path: Path) -> bytes:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_weights(path: Path) -> Read:
    """Reads a .safetensors file, a file of torch.save, or a folder of timm or Hugging Face.

    Executes nothing. Raises InputError if there is no such file, or if it is damaged or holds no weights.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder of weights")
    files = files_of_folder(path) if path.is_dir() else (path,)
    arrays: Arrays = {}
    for file in files:
        arrays |= as_arrays(read_torch(file), file) if file.suffix.lower() in TORCH else read_safetensors(file)
    if not arrays:
        raise InputError(f"{path}: holds no weights")
    return Read(without_wrappers(arrays, path), read_about(path), files)


def files_of_folder(folder: Path) -> tuple[Path, ...]:
    """Returns the files of weights in a folder; raises InputError if there is none, or if a shard is missing."""
    first = next((folder / name for name in WHOLE if (folder / name).is_file()), None)
    if first is None:
        raise InputError(f"{folder}: holds no weights; expected {' or '.join(WHOLE)}")
    if first.suffix != ".json":
        return (first,)
    places = read_json(first).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{first}: has no table weight_map of names; download it again")
    shards = tuple(folder / name for name in sorted(set(places.values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise InputError(f"{first}: names files that are missing: {', '.join(missing) or 'all'}; download them again")
    return shards


def read_safetensors(path: Path) -> Arrays:
    """Returns the arrays of a safetensors file; raises InputError if it is damaged or of another kind."""
    if path.suffix.lower() != ".safetensors":
        endings = ", ".join((".safetensors", *TORCH))
        raise InputError(f"{path}: is no file of weights by its name; the endings that are read are {endings}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: is no safetensors file, or is cut off ({error}); copy it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (AttributeError, TypeError, KeyError) as error:  # of 8 bits and less
        raise InputError(f"{path}: has numbers of a type that is not read ({error}); save them as float32") from error


def as_arrays(content: Any, path: Path) -> Arrays:
    """Returns the arrays of a file of torch.save by name; raises InputError if it holds none."""
    found = content if isinstance(content, dict) else {}
    for _ in NESTED:  # at most as often: a dictionary can hold itself
        inner = next((key for key in NESTED if isinstance(found.get(key), dict)), "")
        found = found[inner] if inner else found
    arrays = {name: item for name, item in found.items() if isinstance(item, np.ndarray) and isinstance(name, str)}
    if not arrays:
        raise InputError(f"{path}: holds no arrays by name; save the state_dict of the model")
    return arrays


def without_wrappers(arrays: Arrays, path: Path) -> Arrays:
    """Returns arrays without the prefixes of the modules that wrapped the encoder in its training.

    Raises InputError if two encoders would become one.
    """
    stripped: Arrays = {}
    for name, array in arrays.items():
        while prefix := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), ""):
            name = name.removeprefix(prefix)
        if name in stripped:
            raise InputError(f"{path}: holds two encoders (two arrays {name}); save one of them alone")
        stripped[name] = array
    return stripped


def read_about(path: Path) -> dict:
    """Returns what config.json and preprocessor_config.json say of weights; {} without them.

    Of a single file, they count if the file has a name of WHOLE: other folders hold files of several networks.
    """
    folder = path if path.is_dir() else path.parent
    about: dict = {}
    if not path.is_dir() and path.name not in WHOLE:
        return about
    for name in ("config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            about |= read_json(folder / name)
    return about


def read_json(path: Path) -> dict:
    """Returns the dictionary in a JSON file; raises InputError if it holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no JSON object; download it again")
    return content

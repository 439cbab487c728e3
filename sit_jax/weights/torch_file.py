"""Reads files of torch.save without torch, and without executing anything.

torch.save writes a zip archive: a pickle with the structure, and one file of raw numbers for each storage. A pickle can
name any function of Python. This reader knows the few that weights need, makes inert objects of a few more, and refuses
the rest. (torch.load with weights_only=True does the same, but torch has ten times the size of this project.)
"""

import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sit_jax.common.errors import InputError

# By class of a storage in torch: the type of its numbers.
STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
LARGEST = 4  # bytes of all tensors over bytes of the file: some networks use weights twice
# What stands beside the weights in files of the authors, DINO and MAE: arguments, paths, NumPy scalars. Never used.
INERT = {
    ("argparse", "Namespace"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("torch", "device"),
    ("torch", "Size"),
}


class Inert:
    """Stands for an object that nobody reads; takes any arguments and any state, and does nothing with them."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_torch(path: Path) -> Any:
    """Returns the content of a .pth, .pt or .bin file; tensors become arrays.

    Raises InputError if the file is no archive of torch.save, is damaged, or names a function that weights do not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            structure = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if structure is None:
                raise InputError(f"{path}: is a zip archive without weights; give a file of torch.save")
            folder = structure.removesuffix("data.pkl")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise InputError(f"{path}: is packed, and torch.save packs nothing; save the weights again")
            pickled = archive.read(structure)
            check_memo(pickled)
            return Unpickler(io.BytesIO(pickled), archive, folder, path).load()
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: {_why_no_archive(path)}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: is damaged ({reason}); copy or download it again") from error


def _why_no_archive(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        return "is damaged or cut off; copy or download it again"
    if start[:1] == b"\x80":
        return "has the format that torch had before version 1.6; load it there and save it again, or as safetensors"
    return "is no file of weights; give a .safetensors file, a file of torch.save, or a folder of Hugging Face"


class Names(dict):
    """Stands for OrderedDict; does nothing with the state that torch gives it."""

    def __setstate__(self, _: Any) -> None:
        pass


def check_memo(pickled: bytes) -> None:
    """Raises ValueError for a number of the memo that no pickle of this length needs: it would take its memory."""
    for operation, number, _ in pickletools.genops(pickled):
        if "PUT" in operation.name and isinstance(number, int) and number > len(pickled):
            raise ValueError("its memo has impossible numbers")


class Unpickler(pickle.Unpickler):
    """Unpickles the structure of a file of torch.save."""

    def __init__(self, structure: io.BytesIO, archive: zipfile.ZipFile, folder: str, path: Path):
        super().__init__(structure)
        self.archive, self.folder, self.path = archive, folder, path
        self.storages: dict[str, np.ndarray] = {}
        # Tensors may share a storage, but not so that a small file becomes large.
        self.known = {
            ("collections", "OrderedDict"): Names,
            ("torch._utils", "_rebuild_tensor_v2"): Rebuild(LARGEST * path.stat().st_size),
            ("torch._utils", "_rebuild_parameter"): First(),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name of the pickle; raises InputError for a name that is not known."""
        if module == "torch" and name in STORAGES:
            return name  # not the dtype: a pickle may set the state of what it gets
        if (module, name) in self.known:
            return self.known[module, name]
        if (module, name) in INERT:
            return Inert
        raise InputError(
            f"{self.path}: names {module}.{name}, which weights do not need and which is not executed; "
            "save the weights alone, as safetensors"
        )

    def persistent_load(self, key: Any) -> np.ndarray:
        """Returns the numbers of a storage, a flat array."""
        kind, numbers, name, *_ = key
        if kind != "storage" or numbers not in STORAGES:
            raise pickle.UnpicklingError(f"unknown storage {kind}")
        place = f"{self.folder}data/{name}"
        if place not in self.storages:
            self.storages[place] = np.frombuffer(self.archive.read(place), np.uint8)
        return self.storages[place].view(STORAGES[numbers])


class First:
    """Stands for a function that returns its first argument, as that of a parameter does."""

    __slots__ = ()  # a pickle could set attributes

    def __call__(self, tensor: np.ndarray, *_: Any) -> np.ndarray:
        """Returns the array of a parameter."""
        return tensor


class Rebuild:
    """Makes arrays of tensors; raises ValueError if all together have more than `left` bytes."""

    __slots__ = ("left",)

    def __init__(self, left: int):
        self.left = left

    def __call__(self, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        """Returns the array of a tensor."""
        self.left -= math.prod(size) * storage.itemsize
        if self.left < 0:
            raise ValueError("its tensors have more numbers than its storages")
        return rebuild_tensor(storage, offset, size, stride)


def rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """Returns the array of a tensor, a copy; raises ValueError if it reaches beyond its storage."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and (min((offset, *size, *stride)) < 0 or max(last + 1, math.prod(size)) > len(storage)):
        raise ValueError("a tensor reaches beyond its storage")
    if not math.prod(size):
        return np.empty(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()

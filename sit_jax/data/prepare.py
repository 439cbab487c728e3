"""Prepares a data set once; `sit-jax prepare` is `python -m sit_jax.data.prepare`.

  sit-jax prepare tfds:stl10

Downloads a data set of TensorFlow Datasets and writes it as ArrayRecord files. Its form is tfds:NAME, tfds:NAME/CONFIG
or tfds:NAME:VERSION.
"""

import importlib.util
import sys
from pathlib import Path

from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import InputError
from sit_jax.data.tfds_source import find_builder, has_array_records


def prepare(source: str, data_dir: str | None = None, manual_dir: str | None = None) -> str:
    """Prepares the data set of a `tfds:NAME` string unless it is already prepared; returns its folder.

    `data_dir` is the folder of all data sets (None: TFDS_DATA_DIR, else ~/tensorflow_datasets). `manual_dir` holds
    manually downloaded archives under their original names. Raises InputError if the data set is unknown, if TensorFlow
    is not installed (only preparing needs it), an archive is missing or damaged, or files in another format exist.
    """
    scheme, _, name = source.partition(":")
    if scheme != "tfds" or not name:
        raise InputError(f"{source!r}: only data sets of the form tfds:NAME need to be prepared")
    builder = find_builder(name, data_dir)
    if not has_array_records(builder):
        if builder.info.splits:
            raise InputError(f"{source}: {builder.data_dir} holds another file format; give another --data_dir")
        _build(source, builder, manual_dir)
    return str(builder.data_dir)


def _build(source: str, builder, manual_dir: str | None) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"{source}: preparing it needs TensorFlow; run `pip install -r requirements-tfds.txt` (reading does not)"
        )
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, extractor, util

    folder = None if manual_dir is None else Path(manual_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise InputError(f"--manual_dir={manual_dir}: there is no such folder")
    config = tfds.download.DownloadConfig(manual_dir=folder)
    # OSError: no network. AssertionError: no archive, and only the user may download it. Others: a damaged archive.
    failures = (download_manager.NonMatchingChecksumError, extractor.ExtractError, util.DownloadError)
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except (OSError, AssertionError, *failures) as error:
        reason = " ".join(str(error).split())[:400]
        archives = ", ".join(list(builder.url_infos)[:3]) or "its archives"
        raise InputError(
            f"{source}: cannot be prepared ({reason}); download {archives} into a folder and give --manual_dir=FOLDER"
        ) from error


def define_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = commands.new_flags()
    flags.DEFINE_string(
        "data_dir", None, "Output folder. Default: TFDS_DATA_DIR, else ~/tensorflow_datasets.", flag_values=values
    )
    flags.DEFINE_string(
        "manual_dir", None, "Folder of manually downloaded archives with their original names.", flag_values=values
    )
    return values


def command(argv: list[str]) -> bool:
    """Prepares the data set of the command line and prints its folder."""
    values = define_flags()
    (source,) = commands.parse(values, argv, (), __doc__ or "", positional="tfds:NAME")
    print(f"prepared in {prepare(source, values.data_dir, values.manual_dir)}")
    return True


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

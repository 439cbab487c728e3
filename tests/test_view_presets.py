"""Presets of views for other pictures than photographs: what they change, on every configuration, and the page."""

import importlib

import pytest
from conftest import ROOT

from sit_jax.common.errors import InputError
from sit_jax.config.checks import check_config
from sit_jax.config.domains import VIEWS
from sit_jax.config.resolve import resolve
from sit_jax.config.rules import lookup


def load(name, arg):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    config.data.source = config.data.source or "folder:somewhere"
    return config


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("name", ["folder", "digits", "cifar10"])
def test_a_preset_changes_what_it_says_and_nothing_else(name, views):
    for others in ("", "paper,", "runlocal,"):
        plain, config = load(name, others.strip(",")), load(name, f"{others}views={views}")
        check_config(config, 1)
        for change in VIEWS[views]:
            assert lookup(config, change.key) == change.value, change.key
            config.update_from_flattened_dict({change.key: lookup(plain, change.key)})
        assert resolve(config, 1000) == resolve(plain, 1000)


def test_every_change_has_a_reason_and_changes_the_folder_config():
    default = load("folder", "")
    for name, changes in VIEWS.items():
        assert len({change.key for change in changes}) == len(changes), name
        for change in changes:
            assert change.reason and lookup(default, change.key) != change.value, (name, change.key)


def test_the_page_shows_every_change_with_its_reason():
    page = (ROOT / "docs" / "views.md").read_text()
    for name, changes in VIEWS.items():
        section = page.partition(f"## `{name}`")[2].partition("\n## ")[0]
        rows = [f"| `{change.key}` | {change.value} | {change.reason} |" for change in changes]
        assert [line for line in section.splitlines() if line.startswith("| `")] == rows, name


def test_another_name_lists_the_presets():
    with pytest.raises(InputError, match="views=xrays must be one of microscopy, satellite, documents, xray"):
        load("folder", "views=xrays")
    with pytest.raises(InputError, match=r"known: .*views"):
        load("folder", "view=xray")

"""The pages: links lead somewhere, commands are understood, the settings and modules that they name exist."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from configs import folder
from sit_jax import main
from sit_jax.__main__ import COMMANDS, pretrain_words
from sit_jax.config.checks import check_config
from sit_jax.config.resolve import resolve
from sit_jax.config.rules import lookup

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "tests" / "README.md"]
TRAINING = (
    "README.md",
    *(f"docs/{name}.md" for name in ("channels", "data", "install", "usage", "paper", "views", "weights")),
)
EVALUATION = ("README.md", "docs/look.md", "docs/usage.md", "docs/install.md", "docs/evaluation.md", "docs/weights.md")


def text_of(*pages):
    return "\n".join((ROOT / page).read_text() for page in pages)


def anchors(page):
    """The anchors of a page as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_package_that_a_page_names_exist(page):
    for name in re.findall(
        r"`((?:sit_jax|configs|launch|tests|benchmarks|docs)/[\w/]+\.(?:py|sh|md))`", page.read_text()
    ):
        assert (ROOT / name).exists() or "NAME" in name, name


def commands(modules, *pages):
    """The commands of the modules, without `python -m sit_jax.`; those of `sit-jax` as the command that they start."""
    text = text_of(*pages)
    found = set(re.findall(rf"python -m sit_jax\.((?:{modules}) [^`\n]*)", text))
    for name, words in re.findall(r"sit-jax ([a-z]+) ([^`\n]*)", text):
        module = COMMANDS[name][0].removeprefix("sit_jax.")
        if re.fullmatch(modules, module):
            words = shlex.split(words, comments=True)
            found.add(shlex.join([module, *(pretrain_words(words) if name == "pretrain" else words)]))
    return sorted(found)


@pytest.mark.parametrize("command", commands("main", *TRAINING))
def test_commands_that_train_are_understood(command, monkeypatch):
    """Each is parsed and checked up to the data; other tests run the digits and the folder."""
    words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", words)  # where ml_collections looks for overrides
    config = main.parse(words)[1]
    check_config(config, 1)
    assert resolve(config, 10_000).steps > 100


@pytest.mark.parametrize(
    "command", commands("evaluate|transfer|reconstruct|embed|report|neighbours|clusters", *EVALUATION)
)
def test_commands_on_trained_weights_are_understood(command, tmp_path, capsys):
    """Each gets as far as the work directory or the file, which is not there; other tests run these on real ones."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.jpg").write_bytes((ROOT / "docs" / "digits.png").read_bytes())
    for name, place in {"PATH": "pictures", "PHOTOS": "pictures", "wanted.jpg": "pictures/one.jpg"}.items():
        command = command.replace(name, str(tmp_path / place))
    command = re.sub("--out=(?!runs)", f"--out={tmp_path}/", command).replace("runs/", f"{tmp_path}/")
    module, *words = shlex.split(command)
    assert importlib.import_module(f"sit_jax.{module}").main([module, *words]) == 2
    expected = "there is no such file or folder of weights" if "--encoder" in command else "no run is there"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("command", commands("duplicates|watch", *EVALUATION))
def test_commands_on_folders_are_understood(command, tmp_path, capsys):
    """Each looks for pictures or runs, and there are none."""
    (tmp_path / "photos").mkdir()
    for name in ("PATH", "PHOTOS"):
        command = command.replace(name, str(tmp_path / "photos"))
    module, *words = shlex.split(re.sub(r"\bruns\b", str(tmp_path), command))
    assert importlib.import_module(f"sit_jax.{module}").main([module, *words]) == 2
    assert re.search("holds no images|holds no run yet", capsys.readouterr().err)


def test_settings_that_the_pages_suggest_exist():
    pages = ("README.md", *(f"docs/{name}.md" for name in ("evaluation", "devices", "troubleshooting")))
    names = set(re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)", text_of(*pages)))
    assert len(names) > 15
    for name in names:
        lookup(folder.get_config(), name)


def test_the_architecture_names_what_is_there():
    """The files and functions of the table of questions."""
    table = (ROOT / "docs" / "architecture.md").read_text().partition("| question |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        file = None
        for name in re.findall(r"`([^`]+)`", line.rpartition("| ")[2] if line.endswith("|") else line):
            path = next((ROOT / base / name for base in ("", "sit_jax") if (ROOT / base / name).exists()), None)
            if path is not None:
                file = path if path.is_file() else file
            else:
                assert file is not None and name.rpartition(".")[2] in Path(file).read_text(), (line, name)

"""The rooms of the package: imports only run downward, files are short, and each command has one file."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "sit_jax"
# From the top; a room imports only lower rooms and itself. The files of the top floor are the commands.
ROOMS = (
    *("commands", "exports", "api", "look", "eval", "timing", "compiled", "train", "weights", "probes", "config"),
    *("model", "data", "views", "parallel", "draw", "common"),
)
FILES = sorted(ROOT.rglob("*.py"))
LONGEST = 250


def room(parts):
    return parts[0] if len(parts) > 1 or parts[0] in ROOMS else "commands"


def room_of(file):
    return room(file.relative_to(ROOT).parts)


def imported_rooms(file):
    for node in ast.walk(ast.parse(file.read_text())):
        assert not getattr(node, "level", 0), f"{file}: a relative import"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sit_jax":
            names = (
                [node.module]
                if "." in node.module
                else [f"sit_jax.{alias.name}" for alias in node.names if alias.name != "__version__"]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("sit_jax.")]
        else:
            continue
        yield from (room(name.split(".")[1:]) for name in names)


def test_every_room_is_on_a_floor():
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert found == set(ROOMS) - {"commands"}


def test_imports_run_downward():
    """__init__.py is below all rooms except `common`, which restarts a command."""
    upward = [
        f"{file.relative_to(ROOT)} imports {other}"
        for file in FILES
        for other in imported_rooms(file)
        if ROOMS.index(other) < ROOMS.index("common" if file == ROOT / "__init__.py" else room_of(file))
    ]
    assert not upward


def test_no_file_is_long():
    assert not [str(file) for file in FILES if len(file.read_text().splitlines()) > LONGEST]


def test_no_import_of_another_command():
    """Each file of the top floor is one command."""
    for file in ROOT.glob("*.py"):
        assert "commands" not in set(imported_rooms(file)), file.name
        if file.name != "__init__.py":
            assert file.read_text().count('if __name__ == "__main__"') >= 1, file.name


def test_modules_of_a_room_import_each_other_in_no_circle():
    arrows = {}
    for file in FILES:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        arrows[name] = {
            target
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sit_jax.")
            for target in targets(node)
        }
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name in done or name not in arrows:
            return
        path.append(name)
        for other in arrows[name] - {name}:
            visit(other)
        done.add(path.pop())

    for name in arrows:
        visit(name)


def targets(node):
    """The modules that an import reads: the named module, or imported names that are modules."""
    base = node.module.removeprefix("sit_jax.")
    for alias in node.names:
        inner = ROOT / Path(*base.split(".")) / f"{alias.name}.py"
        yield f"{base}.{alias.name}" if inner.exists() else base

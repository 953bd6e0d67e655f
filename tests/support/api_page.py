"""Writes docs/api.md from the docstrings of the public API: `python -m tests.support.api_page`."""

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
PUBLIC = {
    "spiketicket.runtime": ("Session", "onnxruntime_library"),
    "spiketicket.runtime.evaluate": ("evaluate", "Evaluation"),
    "spiketicket.export": ("export",),
    "spiketicket.export.pack": ("Export",),
    "spiketicket.export.ticket": ("export_ticket",),
    "spiketicket.train.search.search": ("search", "RunOptions", "Start"),
    "spiketicket.train.search.settings": ("SearchSettings",),
    "spiketicket.train.search.ticket": ("Ticket", "load_ticket", "save_ticket"),
    "spiketicket.train.history.history": ("read_history", "History"),
    "spiketicket.data": ("load_dataset", "Dataset"),
    "spiketicket.profiling.inference.profile": ("profile_models",),
    "spiketicket.errors": (),
}
HEAD = """# API

The public functions and classes, from their docstrings. [python.md](python.md) has examples.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for module_name, names in PUBLIC.items():
        module = import_module(module_name)
        parts.append(f"## {module_name}\n\n{first_paragraph(module)}\n")
        for name in names or sorted(
            n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module_name
        ):
            parts.append(entry(getattr(module, name), name))
    return "\n".join(parts)


def entry(thing: object, name: str) -> str:
    """Return the section of a function, or of a class and its public methods."""
    text = f"### {name}\n\n```text\n{name}{signature(thing)}\n```\n\n{inspect.getdoc(thing) or ''}\n"
    if inspect.isclass(thing):
        methods = {n: f for n, f in vars(thing).items() if inspect.isfunction(f) and f.__name__ == n and n[0] != "_"}
        for method, function in methods.items():
            text += f"\n#### {name}.{method}\n\n```text\n{method}{signature(function)}\n```\n\n"
            text += f"{inspect.getdoc(function) or ''}\n"
    return text


def signature(thing: object) -> str:
    """Return the arguments as they are written in the source; a long list has one argument per line."""
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]  # type: ignore[arg-type]
    returns = ""
    if isinstance(node, ast.ClassDef):
        inits = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
        fields = [ast.unparse(f) for f in node.body if isinstance(f, ast.AnnAssign)]
        arguments = ast.unparse(inits[0].args).removeprefix("self, ") if inits else ", ".join(fields)
        arguments = re.sub(
            r"_option\(([^,]+),.*?\)(?=, [a-z_]+: |$)", r"\1", arguments
        )  # an option's default; its help text is left out
        if not arguments:
            return ""
    else:
        assert isinstance(node, ast.FunctionDef)
        arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = re.sub(r"(?<=[\w\])])=(?=[\w'\"(\[{-])", " = ", arguments)  # spaces around =, as ruff writes them
    if len(arguments) > 80:
        arguments = "".join(f"\n    {part}," for part in re.split(r", (?=\*|[a-z_]+: )", arguments)) + "\n"
    return f"({arguments}){returns}"


def first_paragraph(module: object) -> str:
    """Return the first paragraph of a module's docstring."""
    return (inspect.getdoc(module) or "").split("\n\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page())

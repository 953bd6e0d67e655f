"""Networks from outside: registered or announced by a package, never named into being by a file."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spiketicket.errors import InputError, TicketError
from spiketicket.export.check.agreement import compare
from spiketicket.export.ticket import export_ticket
from spiketicket.runtime import Session
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import ARCHITECTURES, Vgg, build, import_plugins, known, logits, register
from spiketicket.train.search.search import search
from spiketicket.train.search.ticket import load_ticket, to_bytes

PAGE = (Path(__file__).parents[3] / "docs" / "networks.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def config(arch):
    return ModelConfig(arch, 1, 8, 10, timesteps=3)


def slim(config):
    return Vgg(config, ((4,), (8,)))


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """Names, modules and paths that a test adds are gone after it."""
    names, modules = dict(ARCHITECTURES), set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(names)
    for module in set(sys.modules) - modules:
        if module.startswith("plugin_"):
            del sys.modules[module]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module into the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


@pytest.fixture
def package(tmp_path):
    """Installs a package that announces networks."""
    sys.path.insert(0, str(tmp_path))

    def install(name, **points):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{arch} = {value}" for arch, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[spiketicket.architectures]", *lines, ""]))
        importlib.invalidate_caches()

    return install


FACTORY = "from spiketicket.train.networks.models import Vgg\ndef slim(config): return Vgg(config, ((4,), (8,)))\n"


def test_registered_networks_build():
    register("slim", slim)
    assert "slim" in ARCHITECTURES and known()[-1] == "slim"
    assert logits(build(config("slim")), torch.zeros(2, 1, 8, 8)).shape == (3, 2, 10)


def test_a_name_stands_for_one_network(package):
    package("nets", foreign="plugin_nets:slim")
    register("slim", slim)
    for name in ("slim", "vgg16", "foreign"):
        with pytest.raises(InputError, match=f"the network name '{name}' is taken"):
            register(name, slim)


@pytest.mark.parametrize(("name", "factory"), [("", slim), (" ", slim), ("a\nb", slim), (3, slim), ("net", None)])
def test_what_cannot_be_registered(name, factory):
    with pytest.raises(InputError, match="register needs a name and a function ModelConfig -> module, got"):
        register(name, factory)


def test_a_factory_that_returns_no_network():
    register("shape", lambda config: (3, 2))
    with pytest.raises(InputError, match="network 'shape': its factory must return a torch module, got \\(3, 2\\)"):
        build(config("shape"))


def test_entry_points_load_when_asked_for(plugin, package):
    plugin("plugin_one", FACTORY)
    plugin("plugin_two", FACTORY)
    package("nets", one="plugin_one:slim", two="plugin_two:slim")
    assert known()[-2:] == ["one", "two"]
    with pytest.raises(InputError, match="unknown arch 'three': expected one of vgg_digits, .*, one, two; register"):
        build(config("three"))
    assert not {"plugin_one", "plugin_two"} & set(sys.modules)
    assert isinstance(build(config("two")), nn.Module)
    assert "plugin_two" in sys.modules and "plugin_one" not in sys.modules


def test_own_networks_go_before_entry_points(package):
    package("nets", vgg_digits="plugin_nowhere:slim")
    assert known().count("vgg_digits") == 1
    assert isinstance(build(config("vgg_digits")), Vgg)


def test_two_packages_with_one_name(package):
    package("nets", net="plugin_one:slim")
    package("more", net="plugin_two:slim")
    with pytest.raises(InputError, match="network 'net' comes from several packages: .*plugin_.*, .*plugin_"):
        build(config("net"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("plugin_nowhere:slim", "network 'net' of nets (plugin_nowhere:slim) does not load: No module named"),
        ("plugin_one:slender", "network 'net' of nets (plugin_one:slender) does not load: .* no attribute 'slender'"),
        ("plugin_one:__name__", "network 'net' of nets (plugin_one:__name__) is no function ModelConfig -> module"),
    ],
)
def test_entry_points_that_lead_nowhere(plugin, package, value, message):
    plugin("plugin_one", FACTORY)
    package("nets", net=value)
    with pytest.raises(InputError, match=message.replace("(", "\\(").replace(")", "\\)")):
        build(config("net"))


def test_plugins_are_found_in_the_working_folder(plugin):
    name = plugin(
        "plugin_mine", FACTORY + "from spiketicket.train.networks.models import register\nregister('mine', slim)\n"
    )
    import_plugins([name])
    assert isinstance(build(config("mine")), Vgg)
    import_plugins([name])  # imported already


def test_the_working_folder_hides_nothing(plugin, monkeypatch):
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    import_plugins([plugin("tabnanny", "raise AssertionError('this is not the standard library')")])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plugin_absent", None, "cannot import plugin_absent: No module named 'plugin_absent'"),
        ("plugin_needy", "import plugin_absent", "cannot import plugin_needy: No module named 'plugin_absent'"),
        ("my networks", None, "expected the name of a Python module (my_networks, package.module), got 'my networks'"),
        ("plugins/net.py", None, "expected the name of a Python module (my_networks, package.module), got 'plugins/"),
        (".net", None, "expected the name of a Python module (my_networks, package.module), got '.net'"),
    ],
)
def test_plugins_that_cannot_be_imported(plugin, name, text, message):
    if text:
        plugin(name, text)
    with pytest.raises(InputError, match=re.escape(message)):
        import_plugins([name])


@pytest.mark.parametrize("arch", ["plugin_trap", "plugin_trap:slim", "os:system"])
def test_a_ticket_imports_nothing(plugin, quick_run, arch):
    plugin("plugin_trap", FACTORY)
    sys.path.insert(0, "")
    folder, _ = quick_run
    content = torch.load(folder / "ticket.pt", weights_only=True)
    path = Path("bad.pt")
    path.write_bytes(to_bytes({**content, "model": {**content["model"], "arch": arch}}))
    with pytest.raises(TicketError, match=f"bad.pt: unknown arch '{arch}'"):
        load_ticket(path)
    assert "plugin_trap" not in sys.modules


@pytest.mark.parametrize("arch", ["allconv", "vgg_slim"])
def test_the_page_s_networks_go_the_whole_way(plugin, quick_settings, digits, arch):
    import_plugins([plugin("plugin_page", BLOCKS["python"])])
    untrained = quick_settings("oneshot", arch=arch, epochs=0, rewind_epoch=0, width=1.0)
    search(untrained, digits, Path("run"))
    ticket = load_ticket(Path("run/ticket.pt"))
    assert ticket.model.arch == arch and ticket.sparsity_prunable == pytest.approx(0.75, abs=1e-3)
    samples = digits.normalisation(digits.test.images[:8])
    export_ticket(ticket, Path("model.onnx"), samples=samples)
    traces = []
    for engine in ("native", "reference"):
        with Session("model.onnx", engine=engine) as session:
            feeds = {"input": samples}
            traces.append(session.trace(feeds))
    assert all(np.any(spikes) for spikes in traces[1].spikes.values())
    compare("native", traces[0], "reference", traces[1]).require_exact()


@pytest.mark.slow
def test_the_page_s_commands_run_as_printed(plugin):
    plugin("my_networks", BLOCKS["python"])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-ec", BLOCKS["sh"]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("allconv.onnx").exists()


def test_the_page_s_entry_point(plugin, package):
    plugin("my_networks", BLOCKS["python"].split("register(")[0])
    (line,) = re.findall(r'^(\w+) = "(.*)"$', BLOCKS["toml"], re.MULTILINE)
    package("nets", **{line[0]: line[1]})
    assert type(build(config("allconv"))).__name__ == "AllConv"
    del sys.modules["my_networks"]

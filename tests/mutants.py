"""Breaks the engine on purpose, one place at a time, and sees that its tests notice: `make mutants`.

Each mutant is a small slip in the C++ (an off-by-one, a wrong operand, a lost bit). It is built in a copy of the sources,
put in place of the installed engine of this environment, and the tests of the engines must fail. Prints one line
per mutant; exits 1 if one survives.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/runtime/engines/test_layer_kinds.py", "tests/runtime/engines/test_engines.py")

MUTANTS = [
    # file, what stands there, what is put in its place
    (
        "kernels/kernels.inl",
        "for (const uint32_t* end = rows + ends[i]; row < end; ++row) {",
        "for (const uint32_t* end = rows + ends[i]; row + 1 < end; ++row) {",
    ),
    ("kernels/kernels.inl", "while ((i += kWidth) < length);", "while ((i += kWidth) + 1 < length);"),
    ("kernels/kernels.inl", "current[columns[j]] += weights[j];", "current[columns[j]] += weights[j + 1];"),
    ("kernels/kernels.inl", "(Soft ? h - drop : Vector{}) : h;", "(Soft ? h : Vector{}) : h;"),
    ("kernels/kernels.inl", "fires(h, level)", "fires(level, h)"),
    ("kernels/kernels.inl", "row + kExact; row < stop", "row + kExact + 20; row < stop"),
    (
        "kernels/kernels.inl",
        "sums[v] += value * load(weight + v * kWidth);",
        "sums[v] += value * load(weight + v * kWidth + 1);",
    ),
    ("kernels/kernels.inl", "planes += block * step;", "planes += (block - 1) * step;"),
    ("kernels/kernels_avx512.cpp", "part < 4; ++part", "part < 3; ++part"),
    ("kernels/kernels_avx2.cpp", "_mm256_slli_epi32(index, 28)", "_mm256_slli_epi32(index, 29)"),
    ("kernels/kernels_plain.inl", "table.entry[bytes[2] & 15]", "table.entry[bytes[1] & 15]"),
    (
        "layouts/row_layout.cpp",
        "std::min(v.width - left, g.kernel_x) - 1;",
        "std::min(v.width - left, g.kernel_x) - 2;",
    ),
    ("layouts/row_layout.cpp", "uint16_t(x * v.channels) : 0", "uint16_t(x * v.channels + 1) : 0"),
    ("layouts/row_layout.cpp", "std::min((tile + 1) * size, positions)", "std::min((tile + 1) * size, positions - 1)"),
    (
        "layouts/plane_layout.cpp",
        "if (++x == pitch_) x = 0, ++y;\n        }\n      }\n    }\n  }",
        "if (++x > pitch_) x = 0, ++y;\n        }\n      }\n    }\n  }",
    ),
    ("layouts/plane_layout.cpp", "up = kWord - 1 - down;", "up = kWord - 2 - down;"),
    ("layouts/plane_layout.cpp", "0x0F0F0F0F0F0F0F0F", "0x0F0F0F0F0F0F0FFF"),
    (
        "layouts/plane_layout.cpp",
        "if (inputs_[s][k * positions + p] >= 0) valid",
        "if (inputs_[s][k * positions + p] > 0) valid",
    ),
    ("layouts/memory_layout.cpp", "context.stateful ? 1 : plane + 1;", "context.stateful ? 1 : plane;"),
    ("layouts/fire.h", "fired[t] & lanes & ~seen;", "fired[t] & lanes;"),
    ("network/neurons.cpp", "context.before % period;", "(context.before + 1) % period;"),
    ("layouts/weights.cpp", "group * layout.plane + at)", "group * layout.plane + at + 1)"),
    ("kernels/kernels.inl", "drop = broadcast(lif.drop);", "drop = broadcast(lif.level);"),
    ("network/neurons.cpp", "v[c] * leak_.keep + x[c] * leak_.gain;", "(v[c] + x[c] * leak_.gain) * leak_.keep;"),
    (
        "network/neurons.cpp",
        "if (context.stateful)\n      return",
        "if (context.stateful && context.before % 2 == 0)\n      return",
    ),
    ("network/ops.cpp", "a[i] & (b[i] ^ flip_);", "(a[i] & b[i]) ^ flip_;"),
    ("network/ops.cpp", "from[w] >> (kWord - shift);", "from[w] >> (kWord - shift) >> 1;"),
    ("network/ops.cpp", "v.timed ? plane : 0) + at, v.channels, to);", "0) + at, v.channels, to);"),
    (
        "network/ops.cpp",
        "(w * kWord + __builtin_ctzll(left)) * positions + p;",
        "w * kWord + __builtin_ctzll(left) + p * in.channels;",
    ),
    (
        "network/network.cpp",
        "for (int& part : parts) part = unrolled(part);",
        "parts.front() = unrolled(parts.front());",
    ),
    (
        "network/network_run.cpp",
        "(size_t(plane) * images + first + image)",
        "(size_t(plane) * context.images + first + image)",
    ),
    ("network/network_run.cpp", "size_t(state.taken) * state.images * size(0)", "size_t(state.taken) * size(0)"),
    ("network/network_run.cpp", "const int first = index * group;", "const int first = index * group + (index > 1);"),
]


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)


def main() -> int:
    spec = importlib.util.find_spec("spiketicket.runtime.engines.native._native")
    installed = Path(spec.origin)
    if ROOT / "build" not in installed.parents:
        print(f"{installed} is no copy to break: run `make mutants`")
        return 2
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree, build = Path(folder) / "tree", Path(folder) / "build"
        ignore = shutil.ignore_patterns("build", ".venv", ".git", "demo", "*.onnx")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore)
        configured = run(
            "cmake",
            "-S",
            tree,
            "-B",
            build,
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
        )
        assert configured.returncode == 0, configured.stderr
        for name, old, new in MUTANTS:
            source = tree / "runtime" / "csrc" / name
            whole = source.read_text()
            assert old in whole, f"{name} no longer holds {old!r}: mend this list"
            source.write_text(whole.replace(old, new, 1))
            built = run("ninja", "-C", build, "_native")
            assert built.returncode == 0, f"{name}: {new!r} does not compile\n{built.stdout}"
            (library,) = build.glob("_native*.so")
            shutil.copy(library, installed.with_suffix(".new"))
            installed.with_suffix(".new").replace(installed)
            tests = run(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS)
            killed = tests.returncode != 0
            survivors += not killed
            print(f"{'killed  ' if killed else 'SURVIVED'} {name}: {new.splitlines()[0]}", flush=True)
            source.write_text(whole)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())

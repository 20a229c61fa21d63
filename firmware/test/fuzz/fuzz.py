"""Fuzzes the firmware with libFuzzer: ``python firmware/test/fuzz/fuzz.py [--seconds N] [--keep] [TARGET...]`` (``make fuzz``).

Builds each target with clang, address and undefined-behavior sanitizers, and runs one after the other on the corpus beside this
file. Inputs with new coverage are kept under build/fuzz; ``--keep`` merges a small set of them into the corpus. Crashing inputs
are written to build/fuzz/TARGET/crash-…: fix the firmware, then add that file to the corpus.

Exit status 1 if a target failed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parents[1]
CORPUS = HERE / "corpus"
BUILD = FIRMWARE.parent / "build" / "fuzz"
BOARD = ["frame", "quantize", "model_id", "engine_int8", "policy", "server"]  # libraries
TARGETS = {"frame": ["frame"], "model": ["engine_int8", "quantize"], "server": BOARD, "upload": BOARD}
MAX_INPUT = {"frame": 2600, "model": 6000, "server": 4000, "upload": 6000}  # bytes
CORPUS_BUDGET = 45_000  # bytes for each target in the repository
SIZES = ["-DHIL_MAX_OBS=1000", "-DHIL_MAX_ACT=1000"]  # more than fit a frame
COMPILERS = ("clang++", "clang++-14", "clang++-15", "clang++-16", "clang++-17", "clang++-18", "clang++-19")


def sources(target: str) -> list[Path]:
    """Sources of a target, without main()."""
    own = [HERE / f"{target}.cpp", *([HERE / "board.cpp"] if TARGETS[target] is BOARD else [])]
    return own + [path for lib in TARGETS[target] for path in sorted((FIRMWARE / "lib" / lib / "src").glob("*.cpp"))]


def includes() -> list[str]:
    """Include paths of every library that the targets use."""
    return [f"-I{FIRMWARE / 'lib' / lib / 'include'}" for lib in (*BOARD, "board", "engine", "hal", "status")] + [f"-I{HERE}"]


def corpus(target: str) -> list[Path]:
    """The kept inputs of a target."""
    return sorted((CORPUS / target).iterdir())


def main() -> int:
    """Builds, runs, reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="merge inputs with new coverage into the repository's corpus")
    arguments = parser.parse_args()
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        print("error: fuzzing needs clang\nhint:  apt-get install clang libclang-rt-14-dev", file=sys.stderr)
        return 2
    failed = [target for target in arguments.targets if not fuzz(compiler, target, arguments.seconds, arguments.keep)]
    return 1 if failed else 0


def fuzz(compiler: str, target: str, seconds: int, keep: bool) -> bool:
    """Runs one target; returns whether it passed."""
    folder = BUILD / target
    found = folder / "inputs"
    found.mkdir(parents=True, exist_ok=True)
    program = folder / target
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-fsanitize=fuzzer,address,undefined",
        "-fno-sanitize-recover=all",
    ]
    subprocess.run([compiler, *flags, *SIZES, *includes(), *map(str, sources(target)), "-o", str(program)], check=True)
    limits = [f"-max_len={MAX_INPUT[target]}", "-timeout=10", "-rss_limit_mb=2048"]
    run = [str(program), f"-max_total_time={seconds}", *limits, "-print_final_stats=1", "-verbosity=1"]
    run += [f"-artifact_prefix={folder}/", str(found), str(CORPUS / target)]
    done = subprocess.run(run, stderr=subprocess.PIPE, text=True, errors="replace")
    passed = done.returncode == 0
    print(f"{target}: {summary(done.stderr)}, {'passed' if passed else 'FAILED'}", flush=True)
    if not passed:
        print(done.stderr[-4000:], file=sys.stderr)
    elif keep:
        merge(program, target, found)
    return passed


def summary(log: str) -> str:
    """One-line summary of a libFuzzer run."""
    executions = re.search(r"number_of_executed_units:\s*(\d+)", log)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/(\S+)", log)
    first, last = (coverage[0], coverage[-1]) if coverage else (("?",) * 4, ("?",) * 4)
    count = f"{int(executions[1]):,}" if executions else "?"
    return f"{count} executions, {last[0]} edges covered ({first[0]} by the first inputs), {last[2]} inputs of {last[3]}"


def merge(program: Path, target: str, found: Path) -> None:
    """Replaces the corpus by a small set of inputs with nearly the same coverage. Named files (seeds, regressions) stay."""
    merged = BUILD / target / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    subprocess.run(
        [program, "-set_cover_merge=1", str(merged), str(CORPUS / target), str(found)], check=True, stderr=subprocess.DEVNULL
    )
    for path in corpus(target):
        if re.fullmatch(r"[0-9a-f]{40}", path.name):
            path.unlink()
    named = {path.read_bytes() for path in corpus(target)}
    size = sum(map(len, named))
    for path in sorted(merged.iterdir(), key=lambda path: path.stat().st_size):
        data = path.read_bytes()
        if data not in named and size + len(data) <= CORPUS_BUDGET:
            shutil.copyfile(path, CORPUS / target / path.name)
            size += len(data)


if __name__ == "__main__":
    sys.exit(main())

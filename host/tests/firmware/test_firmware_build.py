"""When the firmware is built, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import filelock
import pytest

from balance_hil import firmware_build
from balance_hil.errors import FirmwareBuildError, FlashToolMissingError
from balance_hil.paths import SHIPPED
from balance_hil.processes import run_group

PLATFORM = Path(__file__).parents[3] / "firmware/platform"
Builds = list[str]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one source and no git."""
    (tmp_path / "firmware/src").mkdir(parents=True)
    (tmp_path / "firmware/src/main.cpp").write_text("int main() {}\n")
    (tmp_path / "platformio.ini").write_text("[env:native]\n")
    schema = tmp_path / "host/balance_hil/protocol/schema.toml"
    schema.parent.mkdir(parents=True)
    schema.write_text("")
    monkeypatch.setattr(firmware_build, "PROJECT", tmp_path)
    monkeypatch.setattr(firmware_build, "_git", firmware_build._git.__wrapped__)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


@pytest.fixture
def builds(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    """Counts builds; each writes the program."""
    done: Builds = []

    def platformio(environment: str, variables: dict[str, str], progress: object) -> None:
        done.append(environment)
        program = repository / ".pio/build" / environment / "program"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("built")

    monkeypatch.setattr(firmware_build, "_run_platformio", platformio)
    return done


def test_builds_once_and_says_so(repository: Path, builds: Builds) -> None:
    said: list[str] = []
    program = firmware_build.build_native(said.append)
    assert program == repository / ".pio/build/native/program"
    assert firmware_build.build_native(said.append) == program
    assert builds == ["native"]
    assert len(said) == 1
    assert "native" in said[0]


def change_source(repository: Path) -> None:
    (repository / "firmware/src/main.cpp").write_text("int main() { return 1; }\n")


def add_source(repository: Path) -> None:
    (repository / "firmware/src/more.h").write_text("\n")


def restore_older_source(repository: Path) -> None:
    os.utime(repository / "firmware/src/main.cpp", ns=(1, 1))


def change_flags(repository: Path) -> None:
    (repository / "platformio.ini").write_text("[env:native]\nbuild_flags = -O3\n")


def lose_program(repository: Path) -> None:
    (repository / ".pio/build/native/program").unlink()


@pytest.mark.parametrize("change", [change_source, add_source, restore_older_source, change_flags, lose_program])
def test_builds_again_after(repository: Path, builds: Builds, change) -> None:
    firmware_build.build_native()
    change(repository)
    firmware_build.build_native()
    firmware_build.build_native()
    assert builds == ["native", "native"]


def test_documents_do_not_make_it_stale(repository: Path, builds: Builds) -> None:
    firmware_build.build_native()
    (repository / "firmware/PROTOCOL.md").write_text("words")
    firmware_build.build_native()
    assert builds == ["native"]


def test_failed_build_is_not_taken_for_a_good_one(repository: Path, builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    firmware_build.build_native()
    change_source(repository)

    def fail(environment: str, variables: dict[str, str], progress: object) -> None:
        raise FirmwareBuildError("no", "no")

    with monkeypatch.context() as broken:
        broken.setattr(firmware_build, "_run_platformio", fail)
        with pytest.raises(FirmwareBuildError):
            firmware_build.build_native()
    firmware_build.build_native()
    assert builds == ["native", "native"]


def test_two_processes_at_once_build_once(builds: Builds) -> None:
    threads = [threading.Thread(target=firmware_build.build_native) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == ["native"]


def test_who_waits_for_another_build_is_told(repository: Path, builds: Builds) -> None:
    said: list[str] = []
    (repository / ".pio").mkdir()
    other = filelock.FileLock(repository / ".pio/build.lock")  # another command's
    other.acquire()
    thread = threading.Thread(target=firmware_build.build_native, args=(said.append,))
    thread.start()
    deadline = time.monotonic() + 30.0
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    assert said == ["another command is building firmware here: waiting until it has finished"]
    assert builds == []
    other.release()
    thread.join()
    assert builds == ["native"]


def test_a_build_that_does_not_end_is_stopped(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firmware_build, "BUILD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(firmware_build, "run_group", lambda command, **options: run_group(["sleep", "60"], **options))
    with pytest.raises(FirmwareBuildError, match=r"\(native\) did not end within 0.3 s"):
        firmware_build.build_native()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("Error: The program size (1300000 bytes) is greater than maximum allowed (983040 bytes)",
         "it needs 1300000 bytes, there are 983040"),
        ("ld: program.elf section `.text' will not fit in region `FLASH'\nld: region `FLASH' overflowed by 75756 bytes",
         "it needs 600044 bytes of FLASH, there are 524288"),
        ("ld: address 0x08080123 of a.elf section `.stack' is not within region `FLASH'",
         "it needs 524579 bytes of FLASH, there are 524288"),
        ("ld: region `RAM' overflowed by 12 bytes", "RAM is too small"),
    ],
)  # fmt: skip
def test_an_image_that_is_too_large_is_told_with_need_and_limit(repository: Path, output: str, said: str) -> None:
    linker_map = repository / ".pio/build/nucleo_f446re/program.map"
    linker_map.parent.mkdir(parents=True)
    linker_map.write_text("\nMemory Configuration\n\nFLASH            0x08000000         0x00080000         xr\n")
    error = firmware_build._build_error("nucleo_f446re", output, {})
    assert error.message == f"the image for nucleo_f446re is too large for the chip: {said}"


@pytest.mark.parametrize("ram", [8192, 49152])
def test_the_linker_counts_the_stack_in_what_is_missing(repository: Path, ram: int) -> None:
    """40,000 bytes of variables and 16 kB of stack, in a RAM that holds none of them, or the variables alone."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed: make setup")
    folder = repository / ".pio/build/custom"
    folder.mkdir(parents=True)
    (folder / "a.c").write_text(
        'char noinit[40000] __attribute__((section(".noinit"))); void ResetHandler(void) { noinit[0] = 1; }\n'
    )
    memory = f"MEMORY {{ FLASH (rx) : ORIGIN = 0, LENGTH = 9999\n RAM (rwx) : ORIGIN = 0x20000000, LENGTH = {ram} }}"
    (folder / "board.ld").write_text(f"{memory}\nINCLUDE sections.ld\n")
    scripts = SHIPPED / "firmware/platform/ld"
    command = [
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m3",
        "-mthumb",
        "-nostdlib",
        f"-L{scripts}",
        "-Tboard.ld",
        "-Wl,-Map=program.map",
        "a.c",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    error = firmware_build._build_error("custom", done.stderr, {"HIL_BOARD_FILE": "boards/x.toml"})
    assert error.message.endswith(f"it needs 56384 bytes of RAM, there are {ram}"), done.stderr
    assert "lower arena_bytes, upload_bytes or rx_buffer in boards/x.toml" in error.hint


def test_the_command_that_shows_a_failure_builds_the_same(repository: Path) -> None:
    error = firmware_build._build_error("custom", "x.cpp:1: error: no", {"HIL_BOARD_FILE": "a b.toml", "HIL_BAUD": "9600"})
    assert error.hint.startswith("see the whole output: HIL_BOARD_FILE='a b.toml' HIL_BAUD=9600 pio run --project-dir ")


@pytest.mark.parametrize("output", ["HTTPClientError: ", "InternetConnectionError: You are not connected"])
def test_a_package_that_platformio_cannot_fetch_is_told_with_its_command(repository: Path, output: str) -> None:
    error = firmware_build._build_error("teensy41", output, {})
    assert "pio pkg install --project-dir" in error.hint


def git(repository: Path, *arguments: str) -> None:
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=repository, check=True, capture_output=True)


def test_identity_is_the_last_commit_of_the_firmware(repository: Path, builds: Builds) -> None:
    assert firmware_build.firmware_commit() == "unknown"
    git(repository, "init")
    git(repository, "add", "firmware", "platformio.ini", "host")
    git(repository, "commit", "-m", "firmware")
    first = firmware_build.firmware_commit()
    assert len(first) == 12
    firmware_build.build_native()

    (repository / "README.md").write_text("words")
    git(repository, "add", "README.md")
    git(repository, "commit", "-m", "words")
    assert firmware_build.firmware_commit() == first
    firmware_build.build_native()
    assert builds == ["native"]

    change_source(repository)
    assert firmware_build.firmware_commit() == first + "+"
    firmware_build.build_native()
    firmware_build.build_native()
    assert builds == ["native", "native"]

    git(repository, "commit", "-a", "-m", "more")  # same bytes, new identity
    assert firmware_build.firmware_commit() not in (first, first + "+")
    firmware_build.build_native()
    assert builds == ["native"] * 3


def test_failing_compiler_is_quoted(repository: Path) -> None:
    (repository / "platformio.ini").write_text(
        f"[platformio]\nsrc_dir = firmware/src\n[env:native]\nplatform = symlink://{PLATFORM}\nboard = native\n"
    )
    (repository / "host/balance_hil/firmware_build.py").write_text("def firmware_commit():\n    return 'x'\n")
    (repository / "host/balance_hil/__init__.py").write_text("")
    (repository / "firmware/src/main.cpp").write_text("int main() { return nonsense; }\n")
    with pytest.raises(FirmwareBuildError, match=r"nonsense. was not declared") as caught:
        firmware_build.build_native()
    assert f"pio run --project-dir {repository} -e native" in caught.value.hint
    (repository / "firmware/src/main.cpp").write_text("int main() { return 0; }\n")
    assert subprocess.run([firmware_build.build_native()], check=False).returncode == 0


def test_what_the_linker_misses_is_quoted_and_no_name_of_a_file() -> None:
    output = """Compiling .pio/build/x/error_reporter.o
fully_connected.cc:(.text+0x1): undefined reference to `arm_fully_connected_s16'
collect2: error: ld returned 1 exit status
*** [program.elf] Error 1
"""
    quoted = firmware_build.why_it_failed(output)
    assert "arm_fully_connected_s16" in quoted
    assert "error_reporter" not in quoted
    assert firmware_build.why_it_failed("all\nwell\n") == "all\nwell"


def test_kernels_that_the_library_lacks_are_named() -> None:
    output = "".join(f"operators.h:101: undefined reference to `tflite::Register_{name}()'\n" for name in ("SHAPE", "PACK"))
    hint = firmware_build._build_error("qemu_m7_tflm", output, {}).hint
    assert "lacks the kernels of PACK, SHAPE: " in hint
    assert "--engine int8" in hint


@pytest.mark.parametrize("module", ["platformio", "SCons"])
def test_missing_package_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(firmware_build, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(FlashToolMissingError, match=module.lower()) as caught:
        firmware_build.build_native()
    assert caught.value.hint == "install it: make setup"


def test_missing_compiler_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FlashToolMissingError, match=r"g\+\+"):
        firmware_build.build_native()


def test_missing_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firmware_build, "PROJECT", tmp_path)
    with pytest.raises(FirmwareBuildError, match="sources are not in") as caught:
        firmware_build.build_native()
    assert "git restore" in caught.value.hint


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries its sources, and a cache without a project folder; returns that folder."""
    shipped, project = tmp_path / "shipped", tmp_path / "cache/firmware-0123456789ab"
    (shipped / "firmware/src").mkdir(parents=True)
    (shipped / "firmware/src/main.cpp").write_text("int main() {}\n")
    (shipped / "platformio.ini").write_text("[env:native]\n")
    for name, value in (("SHIPPED", shipped), ("SOURCES_HASH", "0123456789ab"), ("SOURCES_COMMIT", "c0ffee")):
        monkeypatch.setattr(firmware_build.paths, name, value)
    monkeypatch.setattr(firmware_build, "PROJECT", project)
    return project


def test_an_installed_package_copies_its_sources_to_the_cache_once(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def platformio(environment: str, variables: dict[str, str], progress: object) -> None:
        assert (installed / "platformio.ini").is_file()
        assert (installed / "firmware/src/main.cpp").is_file()
        (installed / ".pio/build/native").mkdir(parents=True)
        (installed / ".pio/build/native/program").write_text("built")

    monkeypatch.setattr(firmware_build, "_run_platformio", platformio)
    threads = [threading.Thread(target=firmware_build.build_native) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [folder.name for folder in installed.parent.iterdir()] == [installed.name]  # and no half-made copy
    assert firmware_build.firmware_commit() == "c0ffee"
    monkeypatch.setattr(firmware_build, "_run_platformio", None)
    assert firmware_build.build_native() == installed / ".pio/build/native/program"


def test_folders_of_versions_that_are_no_longer_used_are_deleted(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = {name: installed.parent / name / ".pio/build.lock" for name in ("firmware-old", "firmware-other")}
    for lock in locks.values():
        lock.parent.mkdir(parents=True)
        lock.touch()
        os.utime(lock, (time.time() - 31 * 86_400,) * 2)
    with monkeypatch.context() as other:  # a build of the other version
        other.setattr(firmware_build, "PROJECT", installed.parent / "firmware-other")
        with firmware_build.build_lock():
            pass
    with firmware_build.build_lock():
        pass
    assert sorted(folder.name for folder in installed.parent.iterdir()) == [installed.name, "firmware-other"]


def test_a_cache_that_cannot_be_written(installed: Path) -> None:
    installed.parent.write_text("a file where a folder should be")
    with pytest.raises(FirmwareBuildError, match="cannot be built in") as caught:
        firmware_build.build_native()
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_moved_checkout_does_not_look_for_the_platform_where_it_was(repository: Path) -> None:
    links = repository / ".platformio/platforms"
    links.mkdir(parents=True)
    stale, good = links / "platform.pio-link", links / "other.pio-link"
    stale.write_text(json.dumps({"cwd": "/where/it/was", "spec": {}}))
    good.write_text(json.dumps({"cwd": str(repository), "spec": {}}))
    firmware_build.prepare_platformio()
    assert (stale.exists(), good.exists()) == (False, True)

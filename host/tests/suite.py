"""The HIL suite in a process of its own: several boards and policies in one session, which is what starting costs."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def outcomes(junit: Path, *arguments: object, environment: Mapping[str, str] = os.environ) -> tuple[dict[str, str], str]:
    """Runs tests of the suite, with its JUnit file at ``junit``.

    Returns:
        "passed", "skipped" or "failed" by test and its parameters, as in "test_echo[native-ppo]"; and what was printed.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", f"--junitxml={junit}"]
    command += map(str, arguments)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for case in ET.parse(junit).iter("testcase"):  # written a moment ago by pytest
        ended = {child.tag for child in case} & {"skipped", "failure", "error"}
        found[case.get("name", "")] = "passed" if not ended else "skipped" if ended == {"skipped"} else "failed"
    return found, done.stdout

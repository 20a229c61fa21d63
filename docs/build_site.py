"""Builds the documentation site into build/site: ``make docs``. Needs no network; a broken link is an error.

The pages of docs/, the other Markdown files of the repository and pages generated from the code are gathered in build/pages, with
their links pointing there, and Zensical makes HTML of them.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import tomli_w

from balance_hil.cli import hil

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "firmware/PROTOCOL.md": "protocol.md",
    "hil_tests/README.md": "hil-suite.md",
}
GENERATED = ("command-reference.md",)
NAVIGATION = {
    "Home": ["index.md"],
    "Tutorial": ["tutorial.md"],
    "How to": [
        *(
            "install.md",
            "environments.md",
            "policies.md",
            "boards.md",
            "flashing.md",
            "bench.md",
            "farm.md",
            "custom-board.md",
            "bench-to-robot.md",
            "hil-suite.md",
            "report.md",
            "history.md",
            "live.md",
            "campaigns.md",
            "scale.md",
            "replay.md",
            "upload.md",
        ),
        *("faults.md", "verify.md", "ci.md", "coming-from-balance-robot-mujoco-rl.md", "troubleshooting.md"),
    ],
    "Reference": [
        *("commands.md", "command-reference.md", "api.md", "board-files.md", "robot-options.md", "fault-list.md"),
        *("protocol.md", "json.md", "recordings.md"),
        *("measurements.md", "glossary.md", "changelog.md"),
    ],
    "Explanation": [
        *(
            "discrepancies.md",
            "operators.md",
            "rounding-invariant.md",
            "real-time.md",
            "engines.md",
            "algorithms.md",
            "robustness.md",
        ),
        *("firmware-checks.md", "survives.md", "security.md", "contributing.md"),
    ],
}


def main() -> None:
    """Gathers the pages and builds the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for folder in ("pictures", "vendor"):
        shutil.copytree(ROOT / "docs" / folder, PAGES / folder)
    for source, page in _sources().items():
        (PAGES / page).write_text(_relinked((ROOT / source).read_text(), ROOT / source))
    (PAGES / "command-reference.md").write_text(_commands())
    left_out = sorted({path.name for path in PAGES.glob("*.md")} - {page for pages in NAVIGATION.values() for page in pages})
    if left_out:
        sys.exit(f"error: pages that no menu names: {', '.join(left_out)}\nhint:  add them to NAVIGATION in docs/build_site.py")
    navigation = [{title: [page for page in pages if (PAGES / page).exists()]} for title, pages in NAVIGATION.items()]
    palette = [
        {"media": f"(prefers-color-scheme: {scheme})", "scheme": name, "toggle": {"icon": icon, "name": "Light or dark"}}
        for scheme, name, icon in (("light", "default", "lucide/sun"), ("dark", "slate", "lucide/moon"))
    ]
    features = ["navigation.tabs", "navigation.sections", "content.code.copy", "search.highlight", "toc.follow"]
    project = {
        **{"site_name": "balance_hil", "docs_dir": PAGES.name, "site_dir": SITE.name, "use_directory_urls": False},
        # Search works from the disk, too, and without the network: npm's iframe-worker 1.0.4 is in docs/vendor.
        **{"plugins": {"search": {}, "offline": {}}, "extra": {"polyfills": [{"path": "vendor/iframe-worker.js"}]}},
        **{"nav": navigation, "theme": {"font": False, "language": "en", "features": features, "palette": palette}},
    }
    config = PAGES.parent / "zensical.toml"
    config.write_text(tomli_w.dumps({"project": project}))
    program = Path(sys.executable).with_name("zensical")
    done = subprocess.run([program, "build", "--clean", "--strict", "--config-file", config], cwd=PAGES.parent)
    if done.returncode == 0:
        sys.stdout.write(f"{SITE / 'index.html'}\n")
    sys.exit(done.returncode)


def _sources() -> dict[str, str]:
    """File of the repository -> page."""
    pages = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return {source: page for source, page in {**pages, **ELSEWHERE}.items() if (ROOT / source).is_file()}


def _relinked(text: str, source: Path) -> str:
    """The text with its links pointing to pages; a link to code becomes its plain text."""
    pages = {(ROOT / name).resolve(): page for name, page in _sources().items()}

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match["label"], match["target"], match["anchor"] or ""
        if "://" in target or not target:
            return match[0]
        path = (source.parent / target).resolve()
        if path in pages:
            return f"[{label}]({pages[path]}{anchor})"
        if path.is_relative_to(ROOT / "docs" / "pictures"):
            return f"[{label}]({path.relative_to(ROOT / 'docs')})"
        if target in GENERATED:
            return match[0]
        if not path.exists():
            sys.exit(f"error: {source.relative_to(ROOT)} links to {target}, which does not exist\nhint:  correct the link")
        return label

    return re.sub(r"\[(?P<label>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)", link, text)


def _commands() -> str:
    """Every command with its help, as the program prints it."""
    parts = ["# Command reference\n\nWhat `hil COMMAND --help` prints.\n"]

    def add(command: click.Command, name: str, parent: click.Context | None) -> None:
        context = click.Context(command, info_name=name, parent=parent, terminal_width=84)
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                if (found := command.get_command(context, each)) is not None and not found.hidden:
                    add(found, each, context)
        else:
            parts.append(f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n")

    add(hil, "hil", None)
    return "\n".join(parts)


if __name__ == "__main__":
    main()

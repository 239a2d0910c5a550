"""MkDocs hooks: pages that lie outside docs/, and links that work both in the repository and on the site.

Every link is written as a path in the repository.  Results, changelog and contributing guide become pages as they are;
a source file becomes a page with its code if a page links to it.  The page of the committed records is made anew by
`cran-bench report`, without captions or images of others.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
AT_THE_TOP = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
RECORDS = "results-page"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)[^)#\s]+")  # the path of a relative link


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and tables outside docs/, and the source files that pages link to."""
    paths = [path for path in ROOT.glob("results/*/*") if path.suffix in (".md", ".csv")]
    for path in [*paths, *(ROOT / name for name in AT_THE_TOP)]:
        file = File.generated(config, _place(path.relative_to(ROOT).as_posix()), abs_src_path=str(path))
        files.append(file)
    links = {_target(file, link) for file in files.documentation_pages() for link in LINK.findall(file.content_string)}
    for path in sorted(link for link in links if link.endswith(".py") and (ROOT / link).is_file()):
        code = (ROOT / path).read_text()
        page = f'---\nsearch: {{exclude: true}}\n---\n# {path}\n\n````python linenums="1"\n{code}````\n'
        files.append(File.generated(config, _place(path), content=page))
    for name, data in _records().items():
        files.append(File.generated(config, f"{RECORDS}/{name}", content=data))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to places on the site."""
    here = dirname(page.file.src_uri)
    return LINK.sub(lambda link: relpath(_place(_target(page.file, link[0])), here or "."), markdown)


def _records() -> dict[str, bytes]:
    """Return the files of the page of the committed records."""
    folders = [part for path in sorted(ROOT.glob("results/*/runs")) for part in ("--results", str(path.parent))]
    with tempfile.TemporaryDirectory() as home:
        site, empty = Path(home, "site"), Path(home, "data")  # with no dataset but the scenes, which need none
        where = ["--data", str(empty), "--cache", str(empty), "--site", str(site)]
        command = [sys.executable, "-P", "-m", "cran_bench", "report", *folders, *where]
        made = subprocess.run(command, cwd=home, capture_output=True, text=True)
        if made.returncode:
            raise PluginError(f"cran-bench report failed: {made.stderr.strip()}")
        return {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def _place(path: str) -> str:
    """Return the place on the site of a file of the repository."""
    if path.endswith(".py"):
        return f"source/{path.removesuffix('.py')}.md"
    return "results.md" if path == "results/README.md" else AT_THE_TOP.get(path, path.removeprefix("docs/"))


def _target(file: File, link: str) -> str:
    """Return the path in the repository that a link of a page means."""
    sources = {place: path for path, place in AT_THE_TOP.items()}
    source = file.src_uri
    if not source.startswith("results/"):
        source = sources.get(source) or f"docs/{source}"
    return normpath(f"{dirname(source)}/{link}").removeprefix("/")

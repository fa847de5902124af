"""What mkdocs is told beyond mkdocs.yml: pages that lie outside docs/, and what becomes of links to other files.

The Markdown files are written for a forge: a link is relative to its file and may lead anywhere in the repository. In
the site README.md is the first page, and every other file that a page links to (a config, a definition of the suite)
is shown as a page of its own, so that no link needs the address of a repository.
"""

from __future__ import annotations

import json
import os
import os.path
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mmdistill_dense.__main__ import COMMANDS, Parser, fill, overview
from tools.wheel import source_address

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(?P<head>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?P<tail>\))')
FENCE = re.compile(r'(^ *```.*?^ *```$)', re.DOTALL | re.MULTILINE)
LANGUAGES = {'.py': 'python', '.yaml': 'yaml', '.yml': 'yaml', '.sh': 'bash', '.csv': 'text'}


def outside() -> dict[str, str]:
    """Markdown files beside docs/, by their name in the repository, and their names in the site."""
    names = {
        'README.md': 'index.md',
        'README_zh-CN.md': 'index_zh.md',
        'CONTRIBUTING.md': 'contributing.md',
        'CHANGELOG.md': 'changelog.md',
    }
    methods = sorted(ROOT.glob('configs/*/README.md'))
    return {**names, **{path.relative_to(ROOT).as_posix(): f'configs/{path.parent.name}.md' for path in methods}}


def origin(page: str) -> str:
    """The file of the repository that a page of the site shows."""
    for name, uri in outside().items():
        if uri == page:
            return name
    return f'docs/{page}'


def place(file: str) -> str | None:
    """The name in the site of a file of the repository; None where there is no such file."""
    if file in outside():
        return outside()[file]
    if not (ROOT / file).is_file():
        return None
    if file.endswith('.ipynb'):
        return file.removeprefix('docs/').replace('.ipynb', '.md')
    return file.removeprefix('docs/') if file.startswith('docs/') else f'source/{file}.md'


def targets(text: str, file: str) -> Iterator[tuple[re.Match[str], str]]:
    """Relative links in the text of a file, each with the file of the repository that it leads to."""
    for match in LINK.finditer(text):
        if not re.match(r'[a-z]+:|/', match['target']):
            yield match, os.path.normpath(os.path.join(os.path.dirname(file), match['target']))


def rewritten(text: str, page: str) -> str:
    """The text of a page with links that hold in the site; one that leads nowhere stays, and mkdocs names it."""
    for match, file in reversed(list(targets(text, origin(page)))):
        found = place(file)
        if found:
            link = os.path.relpath(found, os.path.dirname(page) or '.')
            text = text[: match.start()] + f']({link}{match["anchor"] or ""})' + text[match.end() :]
    return text


def notebook_page(file: Path) -> str:
    """The cells of a notebook as Markdown: text as it is, code in fences."""
    cells = json.loads(file.read_text(encoding='utf-8'))['cells']
    texts = [(''.join(cell['source']), cell['cell_type']) for cell in cells]
    return '\n\n'.join(text if kind == 'markdown' else f'```python\n{text}\n```' for text, kind in texts) + '\n'


def options_page() -> str:
    """The help of every command, as its parser prints it."""
    os.environ['COLUMNS'] = '100'
    parts = ['# Commands and their options', f'```text\n{chr(10).join(overview())}\n```']
    for name in COMMANDS:
        text = fill(Parser(prog=f'mmdistill {name}'), name).format_help()
        parts.append(f'## mmdistill {name}\n\n```text\n{text.rstrip()}\n```')
    return '\n\n'.join(parts) + '\n'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the repository's address in the header, if setup.cfg has one."""
    if address := source_address(ROOT):
        config.repo_url, config.repo_name = address, address.rpartition('/')[2]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, those made here, and one for every file that a page links to."""
    for file in [one for one in files if one.src_uri.endswith('.ipynb')]:
        files.remove(file)
        page = notebook_page(ROOT / 'docs' / file.src_uri)
        files.append(File.generated(config, file.src_uri.replace('.ipynb', '.md'), content=page))
    files.append(File.generated(config, 'commands.md', content=options_page()))
    texts = {f'docs/{file.src_uri}': file.content_string for file in files.documentation_pages()}
    for name, uri in outside().items():
        texts[name] = (ROOT / name).read_text(encoding='utf-8')
        files.append(File.generated(config, uri, content=texts[name]))
    linked = {target for name, text in texts.items() for _, target in targets(text, name)}
    for file in sorted(linked):
        uri = place(file)
        if uri and uri.startswith('source/'):
            content = (ROOT / file).read_text(encoding='utf-8')
            fence = f'```{LANGUAGES.get(Path(file).suffix, "text")}\n{content}\n```'
            files.append(File.generated(config, uri, content=f'# {Path(file).name}\n\n`{file}`\n\n{fence}\n'))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite the links of a page, outside code."""
    parts = FENCE.split(markdown)
    uri = page.file.src_uri
    return ''.join(part if part.lstrip().startswith('```') else rewritten(part, uri) for part in parts)


class PlainRoles(Extension):
    """Shows ``:class:`X``` of a docstring as ``X`` in code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring:
            obj.docstring.value = re.sub(r':[a-z]+:`~?\.?([^`]+)`', r'`\1`', obj.docstring.value)

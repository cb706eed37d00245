"""The page: its sections in order. One file that needs no network."""

from __future__ import annotations

import html
from pathlib import Path

from backbones.look import attention, blocks, class_tokens, columns, levels, similarity
from backbones.look.record import Look
from backbones.pictures.html import write_html

SECTIONS = (levels, columns, attention, similarity, blocks, class_tokens)
STYLE = """
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)); align-items: start; }
.strip { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); align-items: start; gap: .6rem; }
.pair { display: grid; gap: .3rem; } .pair p { margin: 0; font-size: .8rem; color: #555; }
.pair figcaption { display: none; }
.facts { color: #555; }
"""


def write_page(out: Path, look: Look, facts: str) -> None:
    """Write the page.

    Args:
        out: File to write.
        look: The model, the photographs and their forwards.
        facts: A sentence below the heading, plain text.
    """
    parts = [f'<p class="facts">{html.escape(facts)}</p>']
    parts += [part for section in SECTIONS for part in section.show(look)]
    write_html(out, look.subject.title, parts, STYLE + attention.STYLE, attention.SCRIPT)

"""Pages of one file that need no network: skeleton, charts and pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

BLUE, ORANGE = "#3366aa", "#dd7711"
STYLE = """
:root { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 1200px; margin: 0 auto; padding: 1rem; }
h1, h2 { overflow-wrap: anywhere; }
h2 { border-bottom: 1px solid #ccc; margin-top: 2.5rem; }
.grid { display: grid; gap: 1rem; margin-bottom: 1.5rem; }
.samples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); align-items: start; }
figure { margin: 0; } img { width: 100%; height: auto; display: block; }
figcaption { font-size: .8rem; color: #555; overflow-wrap: anywhere; }
.pixels { image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ddd; }
"""


def write_html(out: Path, title: str, parts: Iterable[str], style: str = "", script: str = "") -> None:
    """Write a page.

    Args:
        out: File to write.
        title: Its heading, plain text.
        parts: Its content, pieces of HTML.
        style: CSS of this page, behind ``STYLE``.
        script: JavaScript, run when the content is there.
    """
    title = html.escape(title)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body><h1>{title}</h1>\n" + "\n".join(parts) + (f"\n<script>{script}</script>" if script else "")
        + "\n</body></html>\n"
    )  # fmt: skip


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that an image can have for its source; ``kind`` is ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_uri(image: Image.Image, kind: str = "png") -> str:
    """An image as such an address."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return data_uri(buffer.getvalue(), kind)


def chart(figure: Figure, caption: str, kind: str = "png") -> str:
    """A figure of matplotlib with its caption."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    return captioned(data_uri(buffer.getvalue(), kind), caption)


def picture(pixels: np.ndarray, caption: str) -> str:
    """An array ``(height, width)`` or ``(height, width, 3)`` of bytes, each value a square, with its caption."""
    return captioned(image_uri(Image.fromarray(pixels)), caption, "pixels")


def captioned(source: str, caption: str, name: str = "") -> str:
    """An image with its caption, plain text, and a class of CSS."""
    text = html.escape(caption)
    classes = f' class="{name}"' if name else ""
    return f'<figure><img{classes} src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def grid(figures: Iterable[str], name: str = "samples") -> str:
    """Figures side by side, as many as there is room for; ``name`` is a class of CSS."""
    return f'<div class="grid {name}">{"".join(figures)}</div>'

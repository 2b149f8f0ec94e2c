"""The frame of every page of a report: one HTML file, style and script inside, nothing fetched from anywhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files


def page(title: str, styles: Sequence[str], body: str, script: str | None = None) -> str:
    """A whole page as HTML 5.

    Args:
        title: plain text.
        styles: names of the package's style sheets.
        body: HTML, already escaped.
        script: name of the package's script, the only one that may run; none may without it.
    """
    code = _file(script) if script else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if code:
        policy += f"; script-src 'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{"".join(map(_file, styles))}</style>
</head>
<body>
{body}
{f"<script>{code}</script>{chr(10)}" if code else ""}</body>
</html>
"""


def _file(name: str) -> str:
    return files("lgsid.evaluate").joinpath(name).read_text(encoding="utf-8")

"""Writes the zoo's tables into ``zoo.md`` while mkdocs builds."""

from itertools import groupby
from typing import Any

from backbones import zoo
from backbones.cli.zoo import metrics

MARK = "<!-- zoo -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark by one table per task."""
    return markdown.replace(MARK, tables()) if MARK in markdown else markdown


def tables() -> str:
    """One table per task."""

    def task(model: dict[str, Any]) -> str:
        return model["Metadata"]["Task"]

    lines: list[str] = []
    for name, models in groupby(sorted(zoo.load(), key=task), key=task):
        lines += [f"## {name}", ""]
        lines += ["| config | data | parameters (M) | backbone GMACs | published | source | ours | weights |"]
        lines.append("| --- | --- | ---: | ---: | --- | --- | --- | --- |")
        for model in models:
            data = model["Metadata"]
            published, ours = map(metrics, zoo.results(model))
            sources = {result["Source"] for result in model.get("Results", [])} - {zoo.OURS}
            links = [
                f"[{text}]({model[key]['URL']}) ({model[key]['License']})"
                for key, text in (("Weights", "trained"), ("Initial weights", "initial"))
                if key in model
            ]
            size = "x".join(map(str, data["Input size"]))
            gmacs = f"{zoo.shown(data.get('FLOPs'), 1e9)} at {size}"
            lines.append(
                f"| `{model['Name']}` | {data['Training Data']} | "
                f"{zoo.shown(data.get('Parameters'), 1e6)} | {gmacs} | {published} | "
                f"{', '.join(sorted(sources)) or '-'} | {ours} | {', '.join(links) or '-'} |"
            )
        lines.append("")
    return "\n".join(lines)

"""The directive `findings`: what came out, in sentences and a picture, from the recorded runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))


class Findings(SphinxDirective):
    """Made anew in every build: no text of it stands in a file."""

    def run(self) -> list[Any]:
        from noisylabels.evidence import figures, findings
        from noisylabels.training import runs

        self.env.note_reread()
        recorded = runs.find()
        text = "\n".join(f"- {line}" for line in findings.sentences(recorded))
        out = list(self.parse_text_to_nodes(text)) if text else []
        if (made := findings.picture(recorded)) is not None:
            drawn, alt = made
            out.insert(0, nodes.raw("", figures.markup_of(drawn, alt), format="html"))
        return out


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("findings", Findings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The project's public address stands in one place, `repository.url` of _config.yml.

    python book/ext/address.py

copies it to the files that must hold it themselves, because they are read before there is a
checkout: the first code cell of every notebook, which fetches the project on Colab, and
CITATION.cff. Run it whenever the address was set, changed or emptied; a test fails until then.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COLAB_LINE = re.compile(r'(address = \\")[^"\\]*(\\"  # of the public repository)')


def public_address(root: Path) -> str:
    """https://HOST/OWNER/NAME, or "" where the project has no public address yet."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    address = config.get("repository", {}).get("url")
    if address and not re.fullmatch(r"https://[\w.-]+/[\w./-]+/[\w.-]+", address):
        raise ValueError(f"repository.url in _config.yml must be empty or read "
                         f"https://HOST/OWNER/NAME, not {address!r}.")
    return address or ""


def copies(root: Path) -> dict[Path, str]:
    """The files that hold a copy of the address, each with the text that it should have."""
    address = public_address(root)
    texts = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        text, found = COLAB_LINE.subn(rf"\g<1>{address}\g<2>", path.read_text(encoding="utf-8"))
        if found != 1:
            raise ValueError(f"{path.name} must have one line for the address, not {found}.")
        texts[path] = text
    citation = root / "CITATION.cff"
    text = re.sub(r"^repository-code: .*\n", "", citation.read_text(encoding="utf-8"), flags=re.M)
    line = f"repository-code: {address}\n" if address else ""
    return {**texts, citation: re.sub(r"^(?=keywords:)", line, text, flags=re.M)}


def main(root: Path = ROOT) -> int:
    try:
        wanted = copies(root)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    changed = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(wanted[path], encoding="utf-8")
    print(f"{len(changed)} files changed; address: {public_address(root) or 'none yet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``cpplug plugins new``: writes a small distribution with a working plugin, to be changed by you.

The files are templates in ``cpplug/templates``: a module, its test, a pyproject with the entry
point, and a README; an instrument gets a camera file too.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from cpplug.api.errors import UnknownNameError, UsageError, nearest

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"

SUMMARIES = {
    "isr_step": "A correction of the instrument signature for cpplug.",
    "combiner": "A way to collapse a stack of frames for cpplug.",
    "calibration": "A calibration for cpplug.",
    "verifier": "A test of calibrations for cpplug.",
    "instrument": "A camera for cpplug.",
    "listener": "A listener to the events of cpplug.",
}
"""Kinds that can be made, and the description of their distribution."""


def write(kind: str, name: str, output: Path) -> Path:
    """Write a distribution with one plugin.

    Parameters
    ----------
    kind
        One of :data:`SUMMARIES`.
    name
        What users will type: letters, digits, ``_``, ``-``, and dots for verifiers.
    output
        The folder in which the distribution's folder is made.

    Returns
    -------
    Path
        The folder of the distribution, ``cpplug-<name>``.

    Raises
    ------
    UnknownNameError
        When the kind does not exist.
    UsageError
        When the name cannot be one, the folder exists, or it cannot be written.
    """
    if kind not in SUMMARIES:
        raise UnknownNameError(f"{kind!r} cannot be made.", nearest(kind, SUMMARIES))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([_.-][A-Za-z0-9]+)*", name):
        raise UsageError(
            f"{name!r} cannot be the name of a plugin.",
            "Use letters, digits and single _, - or . between them.",
        )
    words = re.split(r"[_.-]", name)
    stem = "_".join(words).lower()
    values = {
        "name": name,
        "kind": kind,
        "summary": SUMMARIES[kind],
        "package": f"cpplug_{stem}",
        "dist": "cpplug-" + stem.replace("_", "-"),
        "camel": "".join(word[:1].upper() + word[1:] for word in words),
        "title": " ".join(words)[:1].upper() + " ".join(words)[1:],
        "upper": f"CPPLUG_{stem}".upper(),
    }
    folder = output / values["dist"]
    targets = {
        "common/pyproject.toml": "pyproject.toml",
        "common/README.md": "README.md",
        f"{kind}/module.py": f"{values['package']}/__init__.py",
        f"{kind}/camera.toml": f"{values['package']}/camera.toml",
        f"{kind}/test.py": f"tests/test_{stem}.py",
    }
    try:
        folder.mkdir(parents=True)
        for source, target in targets.items():
            template = TEMPLATES / f"{source}.tmpl"
            if template.exists():
                text = Template(template.read_text(encoding="utf-8")).substitute(values)
                path = folder / target
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
        (folder / values["package"] / "py.typed").touch()
    except FileExistsError:
        raise UsageError(f"{folder} exists already.", "Choose another name or folder.") from None
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror}.", "Choose another folder with -o."
        ) from None
    return folder

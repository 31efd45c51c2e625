"""Pages with every part that there is, of harmless and of hostile text."""

import numpy as np
from PIL import Image

from mvae_jax.viz import report, traversals

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror='go()'> \"$\\frac{$\" & ' \ud800\x00\x1b[31m \u202egnp.exe "
    "&lt;b&gt; </style></table></details></title>--> \U0001f9d1\u200d\U0001f680 " + "w" * 500
)
SHOWN = HOSTILE.translate({0xD800: "?", 0: " ", 0x1B: " ", 0x202E: " ", 0x200D: " "})


def picture(width=30, height=20):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def strips(label="smiling", step="", **options):
    """Two rows of three frames of 8 px, each of one grey."""
    greys = np.arange(20, 80, 10, np.uint8).reshape(2, 3, 1, 1, 1)
    rows = {f"{label}{number}": np.broadcast_to(grey, (3, 8, 8, 3)) for number, grey in enumerate(greys)}
    return traversals.Strips(rows, [f"{step}{number}" for number in range(3)], **options)


def everything(text):
    return report.page(
        text,
        [
            text,
            report.lead(text),
            report.headline([(text, text, text)]),
            report.contents([report.heading(text)]),
            report.heading(text),
            report.subheading(text),
            report.note(text),
            report.code(text),
            report.table([{text: text, "n": 1}], text),
            report.values({text: {text: text}}, text),
            report.figure(picture(), text),
            report.figure(strips(text, text), text),
            report.beside([text, report.note(text)]),
            report.details(text, [text, report.note(text)]),
            report.turned([text, report.note(text)]),
        ],
    )

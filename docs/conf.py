"""Settings of the documentation, which `make docs` builds into build/docs, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import mvae_jax

project = "mvae_jax"
author = "The mvae_jax authors"
release = version = mvae_jax.__version__
html_title = f"mvae_jax {release}"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",  # these three are in _extensions
    "formulas",
    "root_pages",
]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
highlight_language = "none"
default_role = "py:obj"  # `losses` in a docstring is a link where there is such a name

# Notebooks are run by each build, in a folder that is thrown away; one that fails is an error.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # seconds for a cell, on a slow machine that does other things too
nb_execution_show_tb = True
nb_output_stderr = "remove"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 120
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of dataclasses stand in the class, not again as members of their own
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_custom_sections = ["Reference"]

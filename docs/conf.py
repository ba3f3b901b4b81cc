"""Sphinx reads the repository as it lies there, README, notebooks and all, so that every link means on the site what it
means in the repository.

`make docs` builds `docs/_build/html`. Nothing is fetched, and no notebook is run.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import kvsteer_lab  # noqa: E402

project, release, version = "kvsteer_lab", kvsteer_lab.__version__, kvsteer_lab.__version__
project_copyright = "the authors of kvsteer_lab"
root_doc = "docs/index"
smartquotes = False  # "direct" is a value as often as a word

# --- what is read ---------------------------------------------------------------------------------------------

PAGES = [
    "docs/*.md",
    "docs/guides/*.md",
    "docs/reference/*.rst",
    "notebooks/*.ipynb",
    "benchmarks/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
include_patterns = PAGES
FOLDERS = {page.split("/")[0] for page in PAGES if "/" in page}
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in FOLDERS] + [
    "docs/_build",
    "**/.ipynb_checkpoints",
]

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "extensions.commands",
    "extensions.docstrings",
    "extensions.gallery",
    "extensions.mathml",
    "extensions.readme",
    "extensions.reference",
]

nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from the network
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# --- docstrings -----------------------------------------------------------------------------------------------

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # an intervention's hooks are described once, in Intervention
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = [("Args", "params_style"), ("Attributes", "params_style")]  # several names may share a line
napoleon_use_rtype = False
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# --- how it looks ---------------------------------------------------------------------------------------------

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "kvsteer_lab"
html_static_path = ["_static"]
html_css_files = ["kvsteer.css"]
html_show_sphinx = False
html_copy_source = False
html_additional_pages = {"index": "start.html"}  # the site's address itself leads to the start page
templates_path = ["_templates"]
copybutton_exclude = ".linenos, .gp, .go"

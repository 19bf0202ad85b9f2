"""The pages make a site without a warning, and the site fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys

from tests.docs.documents import ROOT


def test_site_builds_strictly_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in ("index.html", "extending/index.html", "results/press/index.html"):
        text = (tmp_path / page).read_text()
        assert not re.search(r"""<(?:script|img)[^>]+src=["']?https?:""", text)
        assert not re.search(r"""<link[^>]+rel=["']?stylesheet[^>]+href=["']?https?:""", text)

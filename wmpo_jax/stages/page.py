"""The last word: the table on the terminal and the page in report/index.html."""

from wmpo_jax.report.page import write_report
from wmpo_jax.report.record import read_run
from wmpo_jax.report.tables import difference_text, result_table
from wmpo_jax.runtime import selfcheck
from wmpo_jax.runtime.files import save_json
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.setting import Setting


def run(setting: Setting) -> None:
    """Always made anew: it costs seconds and shows whatever stages have run."""
    here = selfcheck.facts(setting.workdir.path)
    save_json(setting.workdir.report / "environment.json", here)
    record = read_run(setting.workdir.path)
    say(f"{result_table(record).as_text()}\n{difference_text(record)}")
    say(f"report: {write_report(setting.workdir.path)}")

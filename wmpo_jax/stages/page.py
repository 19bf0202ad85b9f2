"""The report: the table on the terminal and the page in report/index.html."""

from wmpo_jax.report.page import write_report
from wmpo_jax.report.record import read_run
from wmpo_jax.report.tables import difference_text, result_table
from wmpo_jax.runtime import selfcheck
from wmpo_jax.runtime.files import save_json
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.context import RunContext


def run(context: RunContext) -> None:
    """Always made anew: it costs seconds and shows whatever stages have run."""
    here = selfcheck.facts(context.workdir.path)
    save_json(context.workdir.report / "environment.json", here)
    record = read_run(context.workdir.path)
    say(f"{result_table(record).as_text()}\n{difference_text(record)}")
    say(f"report: {write_report(context.workdir.path)}")

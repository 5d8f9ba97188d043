"""The command line of `python -m consolidation.benchmark`; what is timed is in `experiment`."""

from pathlib import Path

from consolidation.benchmark.config import Config
from labbook.command import run_command
from labbook.console import console


def work(config: Config) -> Path:
    """Measure and print."""
    # torch takes seconds to import: --help and errors of the options do not wait for it
    from consolidation.benchmark.experiment import execute

    table = execute(config)
    console.print(table.to_string(index=False, float_format="%.4g", na_rep=""), markup=False)
    return config.out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.benchmark", Config, work, args)


if __name__ == "__main__":
    main()

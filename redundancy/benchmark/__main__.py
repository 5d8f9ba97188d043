"""The command line of `python -m redundancy.benchmark`; what is timed is in `experiment`."""

from pathlib import Path

from labbook.command import run_command
from redundancy.benchmark.config import Config


def work(config: Config) -> Path:
    """Measure and print."""
    # torch and transformers take seconds to import: --help and errors of the options do not wait for them
    from redundancy.benchmark.experiment import execute

    execute(config)
    return config.out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("redundancy.benchmark", Config, work, args)


if __name__ == "__main__":
    main()

"""The command line of `python -m consolidation.coverage`; what is simulated is in `simulation`."""

from pathlib import Path

from consolidation.coverage.config import Config
from labbook.command import run_command
from labbook.console import console


def work(config: Config) -> Path:
    """Simulate, and print the rows whose coverage is not between 93 and 97 %."""
    # scipy takes a second to import: --help and errors of the options do not wait for it
    from consolidation.coverage.simulation import simulate

    table = simulate(config)
    inside = table["coverage"].between(0.93, 0.97)
    console.print(f"{int(inside.sum())} of {len(table)} rows between 93 and 97 %")
    console.print(table[~inside].to_string(index=False), markup=False)
    return config.out


def main(args: list[str] | None = None) -> None:
    """The command line."""
    run_command("consolidation.coverage", Config, work, args)


if __name__ == "__main__":
    main()

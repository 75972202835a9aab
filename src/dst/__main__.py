"""Run the command as ``python -m dst``."""

from dst.cli.signals import end_at_ctrl_c


def main() -> None:
    """Run the command; what it is made of is imported when a Ctrl-C can do no harm."""
    end_at_ctrl_c()
    from dst.cli.app import main as work

    work()


if __name__ == "__main__":
    main()

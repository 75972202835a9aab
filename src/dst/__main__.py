"""``python -m dst``: the arguments of the command line go in, its exit code comes out."""

from dst.command.app import main

if __name__ == "__main__":
    main()

"""The `dst` command: arguments and files go in, results and exit codes come out."""

"""Train models from files of the user."""

"""Read what the command is given: items, text, modules and per-stream inputs."""

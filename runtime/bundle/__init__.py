"""Read, check and write the files of a bundle."""

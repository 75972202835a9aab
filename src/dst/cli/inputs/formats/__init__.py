"""Read items that are numbers from files and pipes: CSV, JSON lines, WAV, raw samples, .npy, .npz.

`which` tells the format, a reader per format yields `Block`s of numbers, and `gaps` fills or
refuses what is missing. `dst.cli.inputs.rows` joins the three.
"""

"""Run the graphs of a bundle step by step, over buffers made once."""

"""Write what a model answers: lines, files and summaries."""

"""Write the graphs of a bundle anew, with quantized weights."""

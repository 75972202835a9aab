"""Dynamic State Transduction on the edge: a torch step goes in, streams with fixed memory come out.

Import what you need: ``dst.runtime`` drives bundles, ``dst.export`` makes them from torch modules,
``dst.quantize`` makes them smaller. Importing ``dst`` alone loads nothing else.
"""

__version__ = "0.1.0"

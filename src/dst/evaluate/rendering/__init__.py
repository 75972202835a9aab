"""Draw the results of a bench as a picture and as a page."""

"""Watch a stream of text line by line: which lines are out of this stream's habits."""

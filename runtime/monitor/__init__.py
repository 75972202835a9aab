"""Watch a stream: lines of text by their habits, and the calendar of numeric streams."""

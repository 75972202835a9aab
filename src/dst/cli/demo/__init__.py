"""What `dst demo` shows, one module for each thing."""

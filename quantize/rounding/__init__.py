"""Turn float weights into small integers and scales."""

"""Feed models: quantiles of the next values of a numeric stream, how odd each value was, alerts."""

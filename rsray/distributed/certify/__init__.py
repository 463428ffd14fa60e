"""The certification fleet on Ray Data: actors that count, one writer."""

"""The network: configuration, tower, Q-Formers, heads, and what feeds it."""

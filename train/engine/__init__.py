"""How a run is started, stopped, resumed and shared over processes."""

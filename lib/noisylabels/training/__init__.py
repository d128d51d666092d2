"""What every training loop shares: networks, the engine, the recorder and the store of
runs."""

"""The sentiment of film reviews (SST-2)."""

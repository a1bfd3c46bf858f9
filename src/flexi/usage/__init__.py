"""`flexi usage`: who used what."""

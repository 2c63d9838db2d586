"""Side-by-side measurements. Ratios count: absolute times depend on the machine."""

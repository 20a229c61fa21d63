"""Side-by-side benchmarks: ``hil bench NAME`` calls the function ``run`` of the module NAME."""

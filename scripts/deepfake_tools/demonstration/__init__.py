"""What demo, drills and benchmarks show with: random models, and manipulated photographs."""

"""The study's way from `found` to `ready`: states, runner and one module per arrow."""

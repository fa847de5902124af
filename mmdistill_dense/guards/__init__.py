"""Functions that refuse a wrong config or run; training, check and suite call the same ones."""

"""What refuses a wrong config or run; training, check and suite call the same functions."""

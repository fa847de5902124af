"""What a suite is: the file that describes it, and the weights its runs start from."""

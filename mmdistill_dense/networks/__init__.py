"""Build, tap and trace the student and the teacher, and run parts of them."""

"""What is installed under which name, and what a name with parameters stands for."""

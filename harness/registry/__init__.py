"""The names of installed components, and the components that names with parameters stand for."""

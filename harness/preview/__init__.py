"""Pictures of what attacks do to images."""

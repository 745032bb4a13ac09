"""What tells people, found through entry points (`controller.notifiers`)."""

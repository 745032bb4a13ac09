"""What starts jobs: one launcher each, found through entry points (`controller.launchers`)."""

"""What leaves the project: report, chat, exported models."""

"""Published figures: from their free text to scenarios, predictions and errors."""

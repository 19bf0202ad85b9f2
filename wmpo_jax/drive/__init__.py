"""Reality and imagination side by side under a person's hand: worlds, session, web server."""

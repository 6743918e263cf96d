"""Things that talk to a mytalk server from outside: the web page and a headless client; nothing of ours is imported."""

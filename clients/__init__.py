"""The web page and a headless client: they talk to a server from outside and import nothing of ours."""

"""A policy behind openpi's websocket protocol: observations, batches of clients, the server."""

"""A server of the Model Context Protocol on stdin and stdout, made with PyPI's `mcp`."""

from mcp.server import MCPServer

server = MCPServer("interop")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


server.run(transport="stdio")

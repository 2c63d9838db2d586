"""TLS sockets of connections whose other side may be gone already."""

from __future__ import annotations

import errno
import ssl
from typing import Any


class ConnectedSocket(ssl.SSLSocket):
    """The socket of a live connection; for :attr:`ssl.SSLContext.sslsocket_class`.

    Where the other side has gone before the handshake, :class:`ssl.SSLSocket` tries to read what it
    left, and when that fails it forgets the open socket (CPython 3.11, ``SSLSocket._create``). This
    one is closed and says that the connection is broken.
    """

    def getpeername(self) -> Any:  # noqa: ANN401  # an address has its family's form
        """The other side's address.

        Raises:
            ConnectionResetError: there is no other side any more; the socket is closed.
        """
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "the other side has gone") from error

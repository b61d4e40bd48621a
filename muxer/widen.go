package muxer

import "golang.org/x/sys/unix"

// widen makes a stream's host socket hold as many bytes for its program as the
// guest may have on their way, and reports whether it did so just now. By default
// the kernel holds less than a window, and what a socket does not take costs a
// second copy on its way through our memory: a third of the speed of a bulk
// transfer. Only sockets that were full once are widened, and no more of them
// than --max-buffered has room for.
func (c *conn) widen() bool {
	m := c.m
	if c.wide || int64(m.wide+1)*window > m.cfg.MaxBuffered/2 {
		return false
	}
	// The kernel lowers it to its own limit (socket(7), SO_SNDBUF).
	if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, window) != nil {
		return false
	}
	c.wide = true
	m.wide++
	return true
}

// narrow notes that a socket which may have been widened is closed.
func (m *Muxer) narrow(c *conn) {
	if c.wide {
		c.wide = false
		m.wide--
	}
}

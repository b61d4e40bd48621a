package muxer

import "golang.org/x/sys/unix"

// A tail is a host socket whose connection has ended, for the guest has closed,
// reset or died, while bytes that were taken from the guest wait for the program
// to read them. It lives until they are written or the program closes.

func (m *Muxer) becomeTail(c *conn) {
	c.stage = stageTail
	m.stats.Tails.Add(1)
	c.watchOut = true
	m.loop.Modify(c.fd, watchInOut) //nolint:errcheck // it is registered
	m.tailEvents(c, unix.EPOLLOUT)
}

// tailEvents writes what is left, and reads away what the program still sends:
// one that writes before it reads would else wait for ever.
func (m *Muxer) tailEvents(c *conn, events uint32) {
	if events&unix.EPOLLOUT != 0 && c.okTaken() {
		switch _, err := c.out.WriteTo(&m.pool, c.fd); err {
		case nil, unix.EAGAIN:
		case unix.ENOBUFS, unix.ENOMEM:
			m.afterHost(c, shortageRetry)
		default:
			m.closeTail(c)
			return
		}
	}
	if c.out.Len() == 0 || c.hungUp {
		m.closeTail(c)
		return
	}
	if c.readable && !c.eof && !m.readAway(c) {
		m.loop.Modify(c.fd, watchInOut) //nolint:errcheck // asks for the event again
	}
}

func (m *Muxer) closeTail(c *conn) {
	m.stats.Tails.Add(-1)
	m.stats.Discarded.Add(uint64(c.out.Release(&m.pool)))
	m.closeSocket(c)
}

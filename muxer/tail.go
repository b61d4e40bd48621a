package muxer

import (
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// A tail is a host socket whose connection has ended, for the guest has closed,
// reset or died, while bytes that were taken from the guest wait for the program
// to read them. It lives until they are written or the program closes.

// maxWaste is how much a program may send to a tail before it reads. It goes
// nowhere, and one that never reads would else never learn that the guest is gone.
const maxWaste = 16 << 20

func (m *Muxer) becomeTail(c *conn) {
	c.stage = stageTail
	c.endStalls()
	m.stats.Tails.Add(1)
	c.watchOut = true
	m.loop.Modify(c.fd, watchInOut) //nolint:errcheck // it is registered
	m.tailEvents(c, unix.EPOLLOUT)
}

// tailEvents writes what is left, and reads away what the program still sends:
// one that writes before it reads would else wait for ever.
func (m *Muxer) tailEvents(c *conn, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		switch errno(m.flushTail(c)) {
		case 0, unix.EAGAIN:
		case unix.ENOBUFS, unix.ENOMEM:
			m.awaitMemory(c)
		default:
			m.closeTail(c)
			return
		}
	}
	if !c.waits() || c.hungUp {
		m.closeTail(c)
		return
	}
	if c.hostAt == 0 { // see blockedProbe
		m.afterHost(c, blockedProbe)
	}
	m.wasteTail(c)
}

// flushTail writes what is left, or nothing while the OK is to be taken first.
func (m *Muxer) flushTail(c *conn) error {
	if !c.mayWrite() {
		_, err := writeRetry(c.fd, nil)
		return err
	}
	n, err := c.flush()
	c.Forwarded(n)
	return err
}

// wasteTail reads away what the program sends, some at a time, and has it see
// EPIPE once that was much.
func (m *Muxer) wasteTail(c *conn) {
	if !c.readable || c.eof {
		return
	}
	if all := c.readAway(); !all {
		m.loop.Modify(c.fd, watchInOut) //nolint:errcheck // asks for the event again
	}
	if c.wasted > maxWaste {
		m.shutHost(c, csm.ShutdownRcv)
	}
}

func (m *Muxer) closeTail(c *conn) {
	m.stats.Tails.Add(-1)
	m.stats.Discarded.Add(uint64(c.release()))
	m.closeSocket(c)
}

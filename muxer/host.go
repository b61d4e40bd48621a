package muxer

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// shortageRetry is when a host socket is tried again that the kernel had no memory
// for.
const shortageRetry = 100 * time.Millisecond

// blockedProbe is when a write is tried again that a full socket did not take: a
// program that shuts its receiving side over unread bytes makes no event.
const blockedProbe = 500 * time.Millisecond

// hostEvents acts on what the host socket of a connection in the table can do.
func (m *Muxer) hostEvents(c *conn, events uint32) {
	if c.State() == csm.Connecting {
		if c.hungUp {
			m.clientLeft(c)
		}
		return
	}
	if events&unix.EPOLLOUT != 0 {
		m.flushHost(c)
	}
	if c.hungUp && c.fd >= 0 && (c.eof || !c.GuestReads()) {
		m.hostClosed(c)
	}
	if c.ended {
		c.setStalled(false) // end of file can be seen without credit
	}
	m.settle(c)
}

// wantsRead reports whether the host socket is worth a read for the guest.
func (c *conn) wantsRead() bool {
	return c.readable && !c.stalled && !c.eof && c.fd >= 0 && c.State() == csm.Established && c.GuestReads()
}

// awaitRoom waits for the host socket to take more. Once EPOLLOUT was needed it
// stays in the interest until it comes without need.
func (m *Muxer) awaitRoom(c *conn) {
	if !c.blocked {
		c.setBlocked(true)
		m.stats.HostStalls.Inc()
	}
	if !c.watchOut {
		c.watchOut = true
		m.loop.Modify(c.fd, watchInOut) //nolint:errcheck // it is registered
	}
	if c.hostAt == 0 {
		m.afterHost(c, blockedProbe)
	}
}

// awaitMemory tries again, after a while, what the kernel had no memory for. Nothing
// was written or read, and no event tells when there is some.
func (m *Muxer) awaitMemory(c *conn) {
	m.stats.MemoryStalls.Inc()
	m.afterHost(c, shortageRetry)
}

// flushHost writes what waits for the host socket, now that it has room.
func (m *Muxer) flushHost(c *conn) {
	if !c.mayWrite() {
		m.holdBehindOK(c)
		return
	}
	if !c.waits() {
		c.setBlocked(false)
		c.watchOut = false
		m.loop.Modify(c.fd, watchIn) //nolint:errcheck // it is registered
		return
	}
	n, err := c.flush()
	c.Forwarded(n)
	if err != nil {
		m.writeFailed(c, err)
		return
	}
	c.setBlocked(false)
}

// holdBehindOK waits for the host program to take its OK. That it reads no more
// makes no event, but shows in a write of nothing.
func (m *Muxer) holdBehindOK(c *conn) {
	if _, err := writeRetry(c.fd, nil); err != nil {
		m.writeFailed(c, err)
		return
	}
	if c.waits() && c.hostAt == 0 {
		m.afterHost(c, blockedProbe)
	}
}

// writeFailed acts on a write that the host socket did not take. EPIPE tells
// that the program reads no more: with a hang-up it has closed the socket, but
// what it had sent before is still to be read and delivered; without one it has
// shut its receiving side, and only that.
func (m *Muxer) writeFailed(c *conn, err error) {
	switch errno(err) {
	case unix.EAGAIN:
		m.awaitRoom(c)
		return
	case unix.ENOBUFS, unix.ENOMEM:
		m.awaitRoom(c)
		m.awaitMemory(c)
		return
	case unix.EPIPE, unix.ECONNRESET:
		c.deaf = true
		c.waitsForHost(false)
		m.discard(c, c.release())
		if hangsUp(c.fd) {
			c.hungUp, c.ended, c.readable = true, true, true
		} else {
			c.HostDeaf()
		}
		return
	}
	m.sites.host.Warn(m.log, m.loop.Now(), "a host socket failed", err)
	c.deaf = true
	m.discard(c, c.release())
	c.reason = ResetHost
	if errno(err) == unix.EMSGSIZE {
		c.reason = ResetMessageSize
	}
	c.Kill()
}

// hostEnded acts on end of file: the program has shut its sending side, or has
// closed the socket altogether, which only the hang-up tells.
func (m *Muxer) hostEnded(c *conn) {
	c.eof, c.readable = true, false
	if c.hungUp || hangsUp(c.fd) {
		m.hostClosed(c)
	} else {
		c.HostEnded()
	}
	m.settle(c)
}

// hostClosed acts on a host program that has gone, all its bytes delivered.
func (m *Muxer) hostClosed(c *conn) {
	m.stats.Discarded.Add(uint64(c.release()))
	c.deaf = true
	c.HostClosed()
	m.closeFD(c)
}

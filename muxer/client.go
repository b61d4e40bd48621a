package muxer

import (
	"io"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// addClient takes ownership of the socket of a host program that has connected. Most
// have sent their CONNECT line by then: it is taken before the socket is watched, which
// then makes no event of it.
func (m *Muxer) addClient(fd int, typ csm.Type) {
	c := m.newConn(fd, typ)
	c.hostInitiated, c.stage = true, stageLine
	c.refused = len(m.sockets) >= m.cfg.MaxConnections
	m.sockets[c] = struct{}{}
	m.stats.Clients.Add(1)
	port, ok, err := c.takeLine()
	if err := m.loop.Add(fd, watchIn, c); err != nil {
		m.sites.accept.Warn(m.log, m.loop.Now(), "cannot watch a host program", err)
		m.refuse(c, HandshakeShortage)
		return
	}
	m.afterHost(c, connectLineTimeout)
	c.hungUp = ok && hangsUp(fd) // the event comes in the next turn, behind the REQUEST
	m.lineTaken(c, port, ok, err)
}

// readLine looks for the CONNECT line.
func (m *Muxer) readLine(c *conn) {
	port, ok, err := c.takeLine()
	m.lineTaken(c, port, ok, err)
}

// lineTaken acts on what takeLine returned.
func (m *Muxer) lineTaken(c *conn, port uint32, ok bool, err error) {
	switch {
	case err == io.EOF || errno(err) != 0:
		c.readable = false
		m.refuse(c, HandshakeGone)
	case err != nil:
		m.refuse(c, HandshakeBadLine)
	case ok:
		m.connectLine(c, port)
	}
}

// connectLine acts on a complete CONNECT line. The age of the request runs in
// real time from here: a paused, a rebooting and no guest look alike.
func (m *Muxer) connectLine(c *conn, port uint32) {
	c.key.guest = port
	switch {
	case c.refused:
		m.refuse(c, HandshakeLimit)
	case m.draining:
		m.refuse(c, HandshakeDraining)
	case m.ending || !m.attached && m.cfg.WaitForGuest == 0:
		m.refuse(c, HandshakeNoGuest)
	case c.hungUp && !c.unread():
		m.refuse(c, HandshakeGone)
	default:
		if m.cfg.WaitForGuest > 0 {
			m.beginWait(c)
		} else {
			m.afterHost(c, connectLineTimeout)
		}
		m.wait(c)
		if m.running() {
			m.promoteWaiting()
		}
	}
}

// wait has a host program wait for a driver.
func (m *Muxer) wait(c *conn) {
	c.stage = stageWaiting
	if len(m.waiting) == cap(m.waiting) { // those that gave up make room first
		m.waiting = slices.DeleteFunc(m.waiting, func(c *conn) bool { return c.stage != stageWaiting })
	}
	m.waiting = append(m.waiting, c)
}

// checkClient drops a waiting host program that has left with nothing to say.
func (m *Muxer) checkClient(c *conn) {
	if c.hungUp && !c.unread() {
		m.refuse(c, HandshakeGone)
	}
}

// promoteWaiting asks the guest on behalf of every host program that waits.
func (m *Muxer) promoteWaiting() {
	if m.lost.holds {
		return // release comes back
	}
	for _, c := range m.waiting {
		switch {
		case c.stage != stageWaiting:
		case c.waitUntil != 0:
			m.queue(c)
		default:
			m.ask(c)
		}
	}
	clear(m.waiting)
	m.waiting = m.waiting[:0]
}

// ask makes a REQUEST to the guest due for a waiting host program, or refuses that,
// and reports which.
func (m *Muxer) ask(c *conn) bool {
	if !m.knows(c.typ) {
		m.refuse(c, HandshakeNoSeqpacket)
		return false
	}
	k, ok := m.freeKey(c.key.guest)
	if !ok {
		m.refuse(c, HandshakeLimit)
		return false
	}
	m.stats.Clients.Add(-1)
	c.Conn = csm.NewHostInitiated(m.window(c.typ))
	c.key = k
	m.insert(c)
	m.schedule(c)
	return true
}

// demote makes a connection of which the guest knows nothing, or nothing any more,
// wait again, or lets its host program go where the VM drains.
func (m *Muxer) demote(c *conn) {
	m.leaveTurn(c)
	delete(m.table, c.key)
	c.countPhase(-1)
	m.stats.Clients.Add(1)
	if m.draining {
		m.refuse(c, HandshakeDraining)
		return
	}
	if c.port == nil {
		m.wait(c)
		return
	}
	c.stage = stageWaiting
	c.port.takeBack(c)
}

// refuse ends a handshake without OK.
func (m *Muxer) refuse(c *conn, result Handshake) {
	m.stats.Handshakes[result].Inc()
	m.stats.Clients.Add(-1)
	m.closeSocket(c)
}

// clientLeft acts on a host program that has closed its socket before its OK.
// Bytes that it left behind its CONNECT line are still to be delivered; without
// any, the guest shall not get a connection to nobody: if it was asked already,
// its RESPONSE is answered by RST.
func (m *Muxer) clientLeft(c *conn) {
	if c.unread() {
		return
	}
	m.stats.Handshakes[HandshakeGone].Inc()
	if c.isUnasked() {
		c.Forget()
		m.bury(c)
		return
	}
	m.closeFD(c)
}

// opened acts on the guest's RESPONSE: the host program reads its OK, in one
// write.
func (m *Muxer) opened(c *conn) {
	c.answered(AnswerResponse)
	c.hostAt, c.guestAt = 0, 0
	if c.port != nil {
		c.port.ask(2)
	}
	m.endWait(c)
	if c.fd < 0 || c.hungUp {
		m.openedLate(c)
		return
	}
	port := c.key.host
	if m.cfg.OKPort == OKGuest {
		port = c.key.guest
	}
	line := strconv.AppendUint(append(m.line[:0], "OK "...), uint64(port), 10)
	line = append(line, '\n')
	m.saidOK(c, c.sayOK(line))
}

// saidOK acts on what sayOK returned.
func (m *Muxer) saidOK(c *conn, err error) {
	switch err {
	case nil:
		m.stats.Handshakes[HandshakeOK].Inc()
	case unix.EPIPE, unix.ECONNRESET:
		if hangsUp(c.fd) { // since the loop last looked
			c.hungUp = true
			m.clientLeft(c)
			m.openedLate(c)
			return
		}
		m.stats.Handshakes[HandshakeGone].Inc()
		m.writeFailed(c, err)
	default: // an empty socket took no line: the kernel is out of memory
		m.stats.Handshakes[HandshakeShortage].Inc()
		c.reason = ResetShortage
		c.Kill()
	}
}

// openedLate acts on a RESPONSE for a host program that has closed its socket. What it
// left behind its CONNECT line is delivered.
func (m *Muxer) openedLate(c *conn) {
	if c.fd < 0 {
		c.reason = ResetClientGone
		c.Kill()
		return
	}
	m.stats.Handshakes[HandshakeGone].Inc()
}

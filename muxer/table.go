package muxer

import (
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// portSequence yields host ports for host-initiated connections. It goes
// round, so that a port comes back late, long after the last packet of the
// connection that had it.
type portSequence struct{ first, last, next uint32 }

func newPortSequence(ok OKPort) portSequence {
	if ok == OKHost {
		return portSequence{first: 1 << 30, last: 1<<31 - 1, next: 1 << 30}
	}
	// At most five digits: some clients read no longer OK line.
	return portSequence{first: 1024, last: 65535, next: 1024}
}

// count returns how many ports the sequence has.
func (p *portSequence) count() int { return int(p.last-p.first) + 1 }

func (p *portSequence) take() uint32 {
	port := p.next
	p.next++
	if port == p.last {
		p.next = p.first
	}
	return port
}

// insert puts a connection into the table; the guest may learn of it from now on.
func (m *Muxer) insert(c *conn) {
	m.table[c.key] = c
	c.stage = stageOpen
	c.phase = PhaseConnecting
	c.countPhase(1)
}

// freeKey returns a key of the guest's port that no connection has, if any.
func (m *Muxer) freeKey(guestPort uint32) (key, bool) {
	for range min(len(m.table)+len(m.lost.conns)+1, m.ports.count()) {
		k := key{guest: guestPort, host: m.ports.take()}
		_, used := m.table[k]
		if _, lost := m.lost.conns[k]; !used && !lost {
			return k, true
		}
	}
	return key{}, false
}

// kill ends a connection of the table for a reason that the guest is told.
func (m *Muxer) kill(c *conn, reason ResetReason) {
	c.reason = reason
	if c.isUnasked() {
		c.Forget()
	} else {
		c.Kill()
	}
	m.bury(c)
}

// settle follows up on a change of the connection's state: it buries the dead,
// shuts what is to be shut, and queues what has something for the guest.
func (m *Muxer) settle(c *conn) {
	if c.State() == csm.Dead {
		m.bury(c)
		return
	}
	c.updatePhase()
	if c.fd >= 0 && c.State() != csm.Connecting {
		m.shutHost(c, c.HostShutdownDue(c.waits()))
	}
	if c.stalled {
		space, _ := c.RxSpace()
		c.setStalled(space == 0 && !c.outgrown())
	}
	if c.Due(m.pressed()) || c.wantsRead() {
		m.schedule(c)
	}
}

// shutHost shuts directions of a host socket on the guest's behalf.
func (m *Muxer) shutHost(c *conn, flags uint32) {
	if flags&csm.ShutdownSend != 0 {
		unix.Shutdown(c.fd, unix.SHUT_WR) //nolint:errcheck // the program may have gone
	}
	if flags&csm.ShutdownRcv != 0 {
		unix.Shutdown(c.fd, unix.SHUT_RD) //nolint:errcheck
		// A program that waits for room, rather than for EPIPE, has to see some.
		for !c.readAway() {
		}
	}
}

// bury takes a dead connection out of the table. The guest gets the RST that it
// is owed; bytes that it sent stay behind with the host socket until they are
// written.
func (m *Muxer) bury(c *conn) {
	if c.stage != stageOpen && c.stage != stageDialing {
		return
	}
	if c.dial != nil {
		c.dial.giveUp(c)
	}
	delete(m.table, c.key)
	c.countPhase(-1)
	c.hostAt, c.guestAt = 0, 0
	if c.OwesRST() {
		if !c.hostInitiated { // else it is our REQUEST that has no answer
			c.answered(AnswerRST)
		}
		m.pushReset(reset{key: c.key, cid: csm.HostCID, typ: c.typ}, c.reason)
	}
	m.leaveTurn(c)
	m.dropBegun(c)
	if c.waits() && c.fd >= 0 {
		m.becomeTail(c)
		return
	}
	m.closeSocket(c)
}

// dropBegun drops a message that the guest began and will not end.
func (m *Muxer) dropBegun(c *conn) { m.stats.Discarded.Add(uint64(c.dropBegun())) }

// closeSocket closes the host socket, if it is still open, and forgets it. What
// the host program sent and nobody took is read away first: closing over unread
// bytes would make it see ECONNRESET where end of file is the truth.
func (m *Muxer) closeSocket(c *conn) {
	m.endWait(c)
	m.closeFD(c)
	c.release()
	c.stage = stageClosed
	delete(m.sockets, c)
	m.streams.resume()
	m.seqpackets.resume()
}

func (m *Muxer) closeFD(c *conn) {
	c.endStalls()
	if c.fd < 0 {
		return
	}
	if !c.eof { // also bytes of which no event has told yet
		c.readAway()
	}
	m.loop.Drop(c.fd)
	unix.Close(c.fd) //nolint:errcheck // nothing is buffered here
	c.fd = -1
	m.narrow(c)
}

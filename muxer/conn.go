package muxer

import (
	"container/list"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// key names a connection of the guest by its two ports. The host's end is
// always CID 2: nothing else is routed.
type key struct{ guest, host uint32 }

// stage is what a host socket is for.
//
//	accepted: line ─► waiting ─► open ─► tail ─► closed
//	                     ▲         │
//	                     └─────────┘ the guest has not accepted, or has gone, and
//	                                 the host program waits for it (see portQueue)
//	connected:        dialing ──► open ─► tail ─► closed
//
// Who waits for no driver is in Muxer.waiting, in the queue of its port else:
//
//	            driver up              its turn: REQUEST         RESPONSE
//	waiting ────────────────► queue ───────────────────► open ──────────► open
//	   ▲                      │   ▲                        │              established
//	   └── no driver to ask ──┘   └── RST, silence, the ───┘
//	                                  driver has gone
type stage uint8

const (
	stageLine    stage = iota // a host program whose CONNECT line is not complete
	stageWaiting              // its line is complete; the guest is yet to be asked, or asked again
	stageDialing              // the guest's REQUEST waits for room in a backlog
	stageOpen                 // in the table: the guest knows it or is about to
	stageTail                 // out of the table: the guest is done, bytes are left
	stageClosed
)

// Interest in a host socket. Edge-triggered, so it rarely changes: what can be
// done is noted in the conn and holds until the socket says EAGAIN.
const (
	watchIn    = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
	watchInOut = watchIn | unix.EPOLLOUT
)

// conn is one host socket and the guest's connection that it serves.
type conn struct {
	csm.Conn
	m   *Muxer
	key key
	typ csm.Type
	fd  int // -1 once closed
	flow

	stage         stage
	dial          *dialQueue    // where it waits in stageDialing
	port          *portQueue    // where it waits in stageWaiting, or on whose turn it asks
	place         *list.Element // in port, unless it asks
	waitUntil     time.Duration // how long the guest may take to accept, by the loop's clock; 0: it has one chance
	phase         Phase
	hostInitiated bool
	reason        ResetReason // why the guest is reset, once it is

	readable bool // the socket may have bytes or end of file
	urgent   bool // EPOLLPRI was seen: the host program sends with MSG_OOB, which ends reads early
	ended    bool // EPOLLRDHUP was seen: the host program sends no more
	hungUp   bool // EPOLLHUP was seen: the host program is gone, or both directions are shut
	eof      bool // end of file was read
	deaf     bool // the host program takes no more bytes
	blocked  bool // the socket took less than it was given
	watchOut bool // EPOLLOUT is in the interest
	wide     bool // the socket was made to hold more for its program
	refused  bool // over the limit: to be closed behind its CONNECT line
	asked    bool // our REQUEST is in the ring
	queued   bool // in the ready queue
	stalled  bool // host bytes wait for the guest's credit

	born      time.Duration // by the loop's clock
	stalls    connStalls
	sentIn    uint32        // when payload last came, as moderation.round
	runsOn    uint32        // since when it comes without waiting for interrupts, as moderation.trust
	wasted    int           // bytes that were read away
	requestAt time.Duration // since when a REQUEST waits for its answer, by the loop's clock, or 0
	askAfter  time.Duration // how long the guest has to tell of credit before it is asked again
	hostAt    time.Duration // deadline by the loop's clock, or 0
	guestAt   time.Duration // deadline by the guest's clock, or 0
}

// isUnasked reports whether the guest has not heard of this host-initiated
// connection yet.
func (c *conn) isUnasked() bool {
	return c.hostInitiated && !c.asked && c.State() == csm.Connecting
}

// HandleEvents notes what the host socket can do. It touches no guest memory.
func (c *conn) HandleEvents(events uint32) {
	if c.fd < 0 {
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.readable = true
		c.ended = c.ended || events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
		c.hungUp = c.hungUp || events&unix.EPOLLHUP != 0
		c.urgent = c.urgent || events&unix.EPOLLPRI != 0
	}
	switch c.stage {
	case stageLine:
		c.m.readLine(c)
	case stageWaiting:
		c.m.checkClient(c)
	case stageOpen:
		c.m.hostEvents(c, events)
	case stageTail:
		c.m.tailEvents(c, events)
	}
}

// expireHost runs when hostAt may have come.
func (c *conn) expireHost(now time.Duration) {
	if c.hostAt == 0 || c.hostAt > now {
		return
	}
	c.hostAt = 0
	switch {
	case c.stage == stageLine:
		c.m.refuse(c, HandshakeTimeout)
	case c.stage == stageWaiting:
		c.m.refuse(c, c.refusal())
	case c.stage == stageOpen && c.State() == csm.Connecting:
		if c.fd >= 0 {
			c.m.stats.Handshakes[c.refusal()].Inc()
		}
		c.m.kill(c, ResetTimeout)
	case c.stage == stageOpen:
		c.m.hostEvents(c, unix.EPOLLOUT)
	case c.stage == stageTail:
		c.m.tailEvents(c, unix.EPOLLOUT)
	}
}

// expireGuest runs when guestAt may have come: the guest owes an answer.
func (c *conn) expireGuest(now time.Duration) {
	if c.guestAt == 0 || c.guestAt > now {
		return
	}
	c.guestAt = 0
	switch {
	case c.stage == stageDialing:
		c.m.kill(c, ResetBacklog)
	case c.stage == stageOpen && c.State() == csm.Established:
		if c.stalled {
			c.m.askAgain(c)
		}
	case c.stage == stageOpen && c.State() == csm.Connecting:
		c.reason = ResetTimeout
		c.Kill()
		c.m.turnedAway(c, HandshakeSilent)
		c.m.bury(c)
	case c.stage == stageOpen:
		c.m.kill(c, ResetTimeout)
	}
}

// updatePhase keeps the gauges of connections by phase.
func (c *conn) updatePhase() {
	p := PhaseEstablished
	switch c.State() {
	case csm.Connecting, csm.Accepting:
		p = PhaseConnecting
	case csm.Closing:
		p = PhaseClosing
	default:
		if c.GuestShut()|c.HostShut() != 0 {
			p = PhaseHalfClosed
		}
	}
	if p != c.phase {
		c.countPhase(-1)
		c.phase = p
		c.countPhase(1)
	}
}

func (c *conn) countPhase(n int64) { c.m.stats.Connections[c.phase][c.opener()].Add(n) }

// opener returns who opened the connection.
func (c *conn) opener() Direction {
	if c.hostInitiated {
		return HostInitiated
	}
	return GuestInitiated
}
